"""The thread that keeps a dashboard up to date answers everyone who asks."""

import threading
from typing import Any, cast

from browser import wait_until

from fitkit._dashboard.refresh import RefreshThread
from fitkit._fit import Status


class Resting:
    """Nothing changes by itself."""

    status = Status.FINISHED

    def wait_for_change(self, seen, timeout):
        return 0


class Shown:
    """Counts how often it was brought up to date."""

    updates = 0

    def update(self, draw, ending):
        self.updates += 1

    def release(self):
        pass


def test_who_asks_right_after_the_thread_has_looked_is_answered():
    shown, asked = Shown(), threading.Event()
    thread = RefreshThread(lambda: shown, cast(Any, Resting()))

    class Wake(threading.Event):
        def is_set(self):
            answer = super().is_set()
            if shown.updates == 1 and not asked.is_set():
                asked.set()
                thread.refresh_soon()
            return answer

    thread._wake = Wake()
    thread.start()
    try:
        wait_until(lambda: shown.updates == 2, "the second update", patience=10.0)
    finally:
        thread.end()
        thread.join()
    assert asked.is_set()
