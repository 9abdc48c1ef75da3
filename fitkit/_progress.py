"""How far a run is: a bar in a notebook or a terminal, and one line at the end in a log file."""

import sys
from typing import Any


class Progress:
    """The bar of one run, by tqdm, and its last words.

    A log file, where a bar would leave a line for every look at it, gets the last words alone.

    Parameters
    ----------
    unit
        What is counted, in the plural.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: Any = None

    def show(self, done: int, total: int | None, words: str = "") -> None:
        """Say how far the run is, of a total if there is one."""
        # tqdm asks whether this is a notebook or a terminal when it is imported.
        from tqdm.auto import tqdm
        from tqdm.notebook import tqdm_notebook

        if not issubclass(tqdm, tqdm_notebook) and not sys.stderr.isatty():
            return
        if self._bar is None:
            # Its rate is of what is done from here on.
            self._bar = tqdm(initial=done, unit=f" {self._unit}", dynamic_ncols=True)
        self._bar.n, self._bar.total = done, total
        self._bar.set_postfix_str(words)

    def close(self, words: str, interrupted: bool) -> None:
        """Leave the bar behind, in red where the run was interrupted, and say how it ended."""
        if self._bar is not None:
            if interrupted:
                self._bar.colour = "red"
            self._bar.close()
        print(words, flush=True)
