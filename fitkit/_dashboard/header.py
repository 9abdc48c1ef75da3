"""Status, progress and the buttons that run a fit."""

import html
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from fitkit._dashboard.rows import Act, Ask
from fitkit._dashboard.style import STATUS_COLOURS
from fitkit._fit import Fit, Snapshot, Status
from fitkit._format import count, number


class Header:
    """Widgets that show how the fit does, and buttons that call its public methods.

    Parameters
    ----------
    fit
        The fit.
    act, ask
        Do what a button asks, here or in the background.
    more
        Buttons that others answer.

    Attributes
    ----------
    saved
        Where the fit was saved last; empty once something else was done.
    """

    def __init__(self, fit: Fit, act: Act, ask: Ask, more: Sequence[widgets.Widget] = ()) -> None:
        self._fit, self.saved = fit, ""
        self.status = widgets.HTML()
        self.status.add_class("fitkit-status")
        self.notice = widgets.HTML()
        self.notice.add_class("fitkit-status")
        self.count = widgets.Text(
            value="1000",
            placeholder="until stopped",
            description="steps",
            # Letter by letter, the last might reach a busy kernel after a click on Run.
            continuous_update=False,
            tooltip="Steps to run; none or 0 runs until stopped, or until the fit has converged",
        )
        self.count.add_class("fitkit-count")
        self.run = button("Run", "play", "Run this many steps in the background")
        self.pause = button("Pause", "pause", "Pause, keeping everything; resume later")
        self.pause.add_class("fitkit-pause")
        self.stop = button("Stop", "stop", "End this run, keeping everything")
        self.best = button("Rewind to best", "step-backward", "Return to the lowest loss")
        self.undo = button("Undo", "undo", "Take back the last change of a control")
        self.save = button("Save", "download", "Write the fit to a file, to load it later")
        self.close = button("Close", "times", "Leave the picture alone; the fit goes on")
        self.run.on_click(lambda _: act(lambda: fit.start(steps_of(self.count.value))))
        self.pause.on_click(lambda _: act(self._pause_or_resume))
        self.stop.on_click(lambda _: act(lambda: fit.stop(block=False)))
        self.best.on_click(
            lambda _: ask("Rewinding…", lambda: fit.rewind(fit.snapshot.lowest.step))
        )
        self.undo.on_click(lambda _: self._undo(act, ask))
        self.save.on_click(lambda _: ask("Saving…", self._save))
        spring = widgets.HTML()
        spring.add_class("fitkit-spring")
        self.buttons = widgets.HBox(
            [
                *(self.run, self.count, self.pause, self.stop, self.best, self.undo, self.save),
                *(*more, spring, self.close),
            ]
        )
        self.buttons.add_class("fitkit-buttons")
        self.parts = [self.status, self.notice, self.buttons]

    def _pause_or_resume(self) -> None:
        if self._fit.status is Status.PAUSED:
            self._fit.resume()
        else:
            self._fit.pause(block=False)

    def _undo(self, act: Act, ask: Ask) -> None:
        past = self._fit.snapshot.steering.past
        if past and past[-1].values:
            ask("Undoing…", self._fit.undo)  # The loss of the old values is evaluated.
        else:
            act(self._fit.undo)

    def _save(self) -> None:
        file = Path.cwd() / f"fit-at-step-{self._fit.step}.fitkit"
        self._fit.save(file)
        self.saved = f"Saved as {file}. To go on with it: Fit.load({file.name!r}, …)."

    def refresh(self, now: Snapshot, started: int, doing: str = "") -> None:
        """Set everything from the fit.

        Parameters
        ----------
        now
            The fit at this moment.
        started
            The step at which the run began.
        doing
            What else is being done.
        """
        busy, paused = now.status.busy, now.status is Status.PAUSED
        self.status.value = status_line(now, started, doing or self.saved)
        self.run.disabled = busy
        self.pause.disabled = not (busy or paused)
        self.pause.description = "Resume" if paused else "Pause"
        self.pause.icon = "play" if paused else "pause"
        self.stop.disabled = not (busy or paused)
        self.best.disabled = busy or not len(now.history)
        undoable = self._fit.undoable
        self.undo.disabled = not undoable
        self.undo.tooltip = f"Take back: {undoable}" if undoable else "Nothing to take back"

    def say(self, words: str) -> None:
        """Show a notice where the eye is; empty words take it away."""
        self.notice.value = notice(words)


def notice(words: str) -> str:
    """Write what went wrong where the eye is; nothing for empty words."""
    text = html.escape(words)
    return f"<div class='fitkit-notice' role='alert'>{text}</div>" if text else ""


def button(words: str, icon: str, tooltip: str) -> widgets.Button:
    """Make a button with an icon beside its words."""
    return widgets.Button(description=words, icon=icon, tooltip=tooltip)


def steps_of(text: str) -> int | None:
    """Read how many steps to run; None, without an end, of an empty text or 0."""
    digits = "".join(text.split()).replace(",", "").replace("_", "")
    try:
        # As people write millions: 1e6.
        number = float(digits or 0)
        if number >= 0 and number == int(number):
            return int(number) or None
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"Run: {text!r} steps; must be a whole number, or empty to run until stopped.")


def shown_loss(now: Snapshot) -> float:
    """Return the loss to show: the present one at rest, and while the fit runs the last recorded.

    The present one would have to be evaluated. So would that of a step at which the user's function
    raised an exception, and it would raise again.
    """
    if now.status.busy or now.error is not None:
        recorded = now.history.summary("loss").last
        return float(recorded[-1]) if len(recorded) else now.start_loss
    return now.loss


def status_line(now: Snapshot, started: int, news: str = "") -> str:
    """Write the status, its numbers, what else happens, and the progress bar."""
    status, step, target, rate = now.status, now.step, now.target, now.steps_per_second
    words = [headline_with_dot(status)]
    live = status.busy or status is Status.PAUSED
    words.append(f"<span>step {step:,}{f' of {target:,}' if live and target else ''}</span>")
    words.append(f"<span>loss {number(shown_loss(now), typeset=True)}</span>")
    if status is Status.RUNNING and rate:
        words.append(f"<span class='fitkit-dim'>{count(rate)} steps/s</span>")
        if target is not None:
            words.append(f"<span class='fitkit-dim'>{duration((target - step) / rate)} left</span>")
    if news:
        words.append(f"<span class='fitkit-news' role='status'>{html.escape(news)}</span>")
    return f"<div class='fitkit-line'>{''.join(words)}</div>{_bar(now, live, started)}"


def _bar(now: Snapshot, live: bool, started: int) -> str:
    """Write the progress bar: striped all along where no end is known."""
    target = now.target
    if live and target is None:
        return bar(None, now.status, "steps done")
    done = float(not live)
    if live and target is not None and target > started:
        done = min(max((now.step - started) / (target - started), 0.0), 1.0)
    return bar(done, now.status, "steps done")


def bar(done: float | None, status: Status, label: str) -> str:
    """Write a progress bar: striped all along where no share of it is known to be done."""
    colour, role = STATUS_COLOURS[status], f"role='progressbar' aria-label='{label}'"
    if done is None:
        return (
            f"<div class='fitkit-bar fitkit-endless' {role} aria-valuetext='no end set'>"
            f"<div style='width:100%;background-color:{colour}'></div></div>"
        )
    return (
        f"<div class='fitkit-bar' {role} aria-valuemin='0' aria-valuemax='100' "
        f"aria-valuenow='{100 * done:.0f}'>"
        f"<div style='width:{100 * done:.1f}%;background-color:{colour}'></div></div>"
    )


def headline_with_dot(status: Status, words: str = "") -> str:
    """Write the status, or other words in its place, behind a dot of its colour."""
    return (
        "<span role='status'>"
        f"<span class='fitkit-dot' style='background:{STATUS_COLOURS[status]}'>"
        f"</span><b>{words or headline(status)}</b></span>"
    )


def headline(status: Status) -> str:
    """Write the status as a person would."""
    words = {
        Status.COMPILING: "Compiling…",
        Status.READY: "Ready to run",
        Status.FAILED: "Stopped by an error",
    }
    return words.get(status, status.capitalize())


def duration(seconds: float) -> str:
    """Write a time left in the unit a person would use."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60):02d} s"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"
