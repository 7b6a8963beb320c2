"""Callbacks: what else happens while `fit` trains. Each is an object that is told when something has happened.

    class Callback:  on_start(run)  after_backward(run)  after_step(run)  after_epoch(run)  on_end(run)

`run` holds the model, the optimizer, the step, the epoch and the history; run.stop("why") ends the training after the
present step.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl import checkpoint
from minidl.errors import InputError
from minidl.not_finite import finite


class History(list):
    """The loss of every step, a list of numbers; validation: one value an epoch; stopped: why, or None."""

    def __init__(self, losses=()):
        super().__init__(losses)
        self.validation: list[float] = []
        self.stopped: str | None = None


@dataclass
class Run:
    """A training under way: step counts from `start` of fit, epoch from 0; both name the one that is being done."""

    model: Any
    optimizer: Any
    step: int = 0
    epoch: int = 0
    history: History = field(default_factory=History)

    def stop(self, reason: str) -> None:
        """End the training after this step."""
        self.history.stopped = reason


class Callback:
    """Base of callbacks: override what you want to be told."""

    def on_start(self, run: Run) -> None:
        """Before the first step."""

    def after_backward(self, run: Run) -> None:
        """Between backward and step: p.grad may be changed."""

    def after_step(self, run: Run) -> None:
        """After step and history: p.data may be changed."""

    def after_epoch(self, run: Run) -> None:
        """After the validation of an epoch."""

    def on_end(self, run: Run) -> None:
        """After the last step, also when Ctrl-C made it the last; not after an error."""


class EarlyStop(Callback):
    """Stop when the validation has not improved for `patience` epochs, and put the best weights back.

    lowest: whether the smallest value is the best (a loss) or the largest (an accuracy, the default). Keeping the best
    weights costs nothing but their memory: a step replaces arrays.
    """

    def __init__(self, patience: int = 5, *, lowest: bool = False):
        self.patience, self.lowest = patience, lowest
        self.best: float | None = None
        self.best_epoch, self._weights = 0, None

    def after_epoch(self, run):
        if not run.history.validation:
            raise InputError("EarlyStop needs a validation after each epoch: give fit(..., validate=...)")
        value = run.history.validation[-1]
        if self.best is None or (value < self.best if self.lowest else value > self.best):
            self.best, self.best_epoch, self._weights = value, run.epoch, run.model.state_dict()
        elif run.epoch - self.best_epoch >= self.patience:
            run.stop(f"no better than {self.best:g} of epoch {self.best_epoch} for {self.patience} epochs")

    def on_end(self, run):
        interrupted = (run.history.stopped or "").startswith("interrupted")
        if self._weights is not None and not interrupted:  # an interrupted run wants to go on from where it was
            run.model.load_state_dict(self._weights)


class SaveEvery(Callback):
    """A checkpoint every so many steps and at the end; Ctrl-C and kill -9 lose at most the steps since the last.

    The run goes on with the same bits, given the same program:

        saver = SaveEvery("run.npz", 100, data=loader)
        fit(model, loader, optimizer, start=saver.resume(model, optimizer), epochs=10 - loader.epoch, callbacks=[saver])

    A model that is no longer finite is not saved: the last good checkpoint stays. data, rngs: as in checkpoint.save.
    """

    def __init__(self, path, every: int = 100, *, data=None, rngs=None):
        if every < 1:
            raise InputError(f"SaveEvery: every {every} steps; it must be at least 1")
        self.path, self.every, self.members = Path(path), every, {"data": data, "rngs": rngs}
        self._past: dict[str, Any] = {"losses": (), "validation": ()}

    def resume(self, model, optimizer) -> int:
        """Load the checkpoint if there is one; the number of steps that are done."""
        if not self.path.exists():
            return 0
        found = checkpoint.load(self.path, model=model, optimizer=optimizer, **self.members)
        self._past = found.extra
        return found.step

    def on_start(self, run):
        run.history[:0], run.history.validation[:0] = map(float, self._past["losses"]), self._past["validation"]

    def after_step(self, run):
        if (run.step + 1) % self.every == 0:
            self._save(run, run.step + 1)

    def on_end(self, run):
        self._save(run, run.step)

    def _save(self, run, step):
        if not all(map(finite, run.model.state_dict().values())):
            return  # an update was too large; the next step will say so
        past = {"losses": np.array(run.history, float), "validation": [float(v) for v in run.history.validation]}
        past |= self.extra()
        checkpoint.save(
            self.path, model=run.model, optimizer=run.optimizer, step=step, extra=past, **self.members
        )  # fmt: skip

    def extra(self) -> dict[str, Any]:
        """What else belongs into the checkpoint: nothing here."""
        return {}


def last_good(callbacks) -> str:
    """Where a run that has to give up can be taken up again: the file of a SaveEvery among its callbacks."""
    paths = [c.path for c in callbacks if isinstance(c, SaveEvery) and c.path.exists()]
    return f"the last good checkpoint is {paths[0]}" if paths else "no SaveEvery among the callbacks has written one"


@contextmanager
def stops_on_ctrl_c(run: Run):
    """Inside the block Ctrl-C lets the present step be finished and then stops the run; a second one stops at once.

    An exception in the middle of a step would leave some weights stepped and some not. Only the main thread may set a
    signal's handler, and only Python's own handler is replaced: elsewhere Ctrl-C stays what it was.
    """

    def wait_for_the_step(number, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this step; Ctrl-C once more stops at once", file=sys.stderr)
        run.stop(f"interrupted at step {run.step}")

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, wait_for_the_step)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
