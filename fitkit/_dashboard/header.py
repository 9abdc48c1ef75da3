"""Status, progress and the buttons that run a fit."""

import html
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard.rows import Act, Ask
from fitkit._dashboard.style import DOTS, GREY
from fitkit._plotting import figures

BUSY = frozenset({"compiling", "running"})


class Header:
    """Widgets that say how the fit does, and buttons that call its public methods."""

    def __init__(self, fit: Any, act: Act, ask: Ask):
        self._fit, self.saved = fit, ""
        self.status = widgets.HTML()
        self.status.add_class("fitkit-status")
        self.notice = widgets.HTML()
        self.notice.add_class("fitkit-status")
        self.count = widgets.BoundedIntText(
            value=1000, min=1, max=10**9, step=100, description="steps", tooltip="Steps to run"
        )
        self.count.add_class("fitkit-count")
        self.run = self._button("Run", "play", "Run this many steps in the background")
        self.pause = self._button("Pause", "pause", "Pause, keeping everything; resume later")
        self.pause.add_class("fitkit-pause")
        self.stop = self._button("Stop", "stop", "End this run, keeping everything")
        self.best = self._button("Rewind to best", "step-backward", "Return to the lowest loss")
        self.undo = self._button("Undo", "undo", "Take back the last change of a control")
        self.save = self._button("Save", "download", "Write the fit to a file, to load it later")
        self.close = self._button("Close", "times", "Leave the picture alone; the fit goes on")
        self.run.on_click(lambda _: act(lambda: fit.start(self.count.value)))
        self.pause.on_click(lambda _: act(self._pause_or_resume))
        self.stop.on_click(lambda _: act(lambda: fit.stop(block=False)))
        self.best.on_click(lambda _: ask("Rewinding…", lambda: fit.rewind(fit.best.step)))
        self.undo.on_click(lambda _: act(fit.undo))
        self.save.on_click(lambda _: ask("Saving…", self._save))
        spring = widgets.HTML()
        spring.add_class("fitkit-spring")
        self.buttons = widgets.HBox(
            [
                *(self.run, self.count, self.pause, self.stop, self.best, self.undo, self.save),
                *(spring, self.close),
            ]
        )
        self.buttons.add_class("fitkit-buttons")
        self.parts = [self.status, self.notice, self.buttons]

    @staticmethod
    def _button(words: str, icon: str, tooltip: str) -> widgets.Button:
        return widgets.Button(description=words, icon=icon, tooltip=tooltip)

    def _pause_or_resume(self) -> None:
        if self._fit.status == "paused":
            self._fit.resume()
        else:
            self._fit.pause(block=False)

    def _save(self) -> None:
        file = Path.cwd() / f"fit-at-step-{self._fit.step}.fitkit"
        self._fit.save(file)
        self.saved = f"Saved as {file}. To go on with it: Fit.load({file.name!r}, …)."

    def refresh(self, started: int, doing: str = "") -> None:
        """Set everything from the fit; the run began at step `started`, and what else is done."""
        fit = self._fit
        status = fit.status
        busy, paused = status in BUSY, status == "paused"
        self.status.value = status_line(fit, status, started, doing or self.saved)
        self.run.disabled = busy
        self.pause.disabled = not (busy or paused)
        self.pause.description = "Resume" if paused else "Pause"
        self.pause.icon = "play" if paused else "pause"
        self.stop.disabled = not (busy or paused)
        self.best.disabled = busy or not len(fit.history)
        self.undo.disabled = not fit.undoable
        self.undo.tooltip = f"Take back: {fit.undoable}" if fit.undoable else "Nothing to take back"

    def say(self, words: str) -> None:
        """Show a notice where the eye is; empty words take it away."""
        text = html.escape(words)
        self.notice.value = f"<div class='fitkit-notice' role='alert'>{text}</div>" if text else ""


def status_line(fit: Any, status: str, started: int, news: str = "") -> str:
    """Write the status, its numbers, what else happens, and the progress bar."""
    step, target = fit.step, fit.target
    words = [
        f"<span role='status'><span class='fitkit-dot' style='background:{DOTS.get(status, GREY)}'>"
        f"</span><b>{headline(status)}</b></span>"
    ]
    live = status in BUSY or status == "paused"
    total = f" of {target:,}" if live and target else ""
    words.append(f"<span>step {step:,}{total}</span>")
    words.append(f"<span>loss {figures(fit.loss)}</span>")
    rate = fit.steps_per_second
    if status == "running" and rate:
        words.append(f"<span class='fitkit-dim'>{figures_of_speed(rate)} steps/s</span>")
        words.append(f"<span class='fitkit-dim'>{duration((target - step) / rate)} left</span>")
    if news:
        words.append(f"<span class='fitkit-news' role='status'>{html.escape(news)}</span>")
    done = (step - started) / (target - started) if live and target > started else float(not live)
    share = 100 * min(max(done, 0.0), 1.0)
    return (
        f"<div class='fitkit-line'>{''.join(words)}</div>"
        f"<div class='fitkit-bar' role='progressbar' aria-label='steps done' aria-valuemin='0' "
        f"aria-valuemax='100' aria-valuenow='{share:.0f}'>"
        f"<div style='width:{share:.1f}%;background:{DOTS.get(status, GREY)}'></div></div>"
    )


def headline(status: str) -> str:
    """Write the status as a person would."""
    words = {"compiling": "Compiling…", "ready": "Ready to run", "failed": "Stopped by an error"}
    return words.get(status, status.capitalize())


def figures_of_speed(rate: float) -> str:
    """Write steps per second without false precision."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """Write a time left in the unit a person would use."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60):02d} s"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"
