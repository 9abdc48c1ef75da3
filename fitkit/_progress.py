"""How far a run is: a bar in a notebook or a terminal, and one line at the end in a log file."""

import html
import sys
from typing import Any

from fitkit._front_end import has_person


class Progress:
    """The bar of one run, by tqdm, and its last words.

    A log file, where a bar would leave a line for every look at it, gets the last words alone, as
    does a notebook that a program runs. A notebook keeps no bar either: it is a widget, which is
    broken where the notebook is opened again, and whether there is one depends on how long the run
    took. A bar that was interrupted leaves its last state there, as text.

    Parameters
    ----------
    unit
        What is counted, in the plural.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: Any = None
        self._shown: Any = None

    def show(self, done: int, total: int | None, words: str = "") -> None:
        """Say how far the run is, of a total if there is one."""
        # tqdm asks whether this is a notebook or a terminal when it is imported.
        from tqdm.auto import tqdm
        from tqdm.notebook import tqdm_notebook

        in_notebook = issubclass(tqdm, tqdm_notebook)
        if not (has_person() if in_notebook else sys.stderr.isatty()):
            return
        if self._bar is None:
            # Its rate is of what is done from here on.
            how = {"initial": done, "unit": f" {self._unit}", "dynamic_ncols": True}
            self._bar = tqdm_notebook(display=False, **how) if in_notebook else tqdm(**how)
            if in_notebook:
                from IPython.display import display

                self._shown = display(self._bar.container, display_id=True)
        self._bar.n, self._bar.total = done, total
        self._bar.set_postfix_str(words)

    def close(self, words: str, interrupted: bool) -> None:
        """End the bar, in red where the run was interrupted, and say how it ended."""
        if self._bar is not None:
            if interrupted:
                self._bar.colour = "red"
            self._bar.close()
            if self._shown is not None:
                last = str(self._bar)
                red = f'<pre style="color: red">{html.escape(last)}</pre>'
                left = {"text/html": red, "text/plain": last} if interrupted else {}
                self._shown.update(left, raw=True)
                self._bar.container.close()
        print(words, flush=True)
