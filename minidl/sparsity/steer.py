"""Steer: choose lambda while training, so that a wanted sparsity, cost or latency is reached.

    e = r(step) - (y + a)                   y is measured; r: where it should be by now, a line to the target, then flat
    log lambda = log lambda + gain e        a: the share of groups that will be 0 within `ahead` looks if they go on

Sparsity answers to lambda late: groups are pulled for many steps before the first one is 0. A control of y alone goes
on raising lambda meanwhile, until all groups die together, and those that are gone hardly come back. Norms show it in
advance: a group that shrank from m to n since the last look is on its way if n + ahead (n - m) <= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.sparsity.cost import cost
from minidl.sparsity.latency import Latency
from minidl.sparsity.penalty import Penalty


class Steer(Callback):
    """Change the lambda of a penalty every `every` steps of `fit`, so that what is measured arrives at `target`.

    measure: "sparsity", the share of groups (of weights for L1) that are 0 | "macs", the share of the first
    multiply-adds that is left when zero rows and columns are skipped (cost.py; x: one sample) | "latency", the share of
    the dense network's measured time that the compacted one takes (latency.py; x: a batch) | a function model -> number
    that falls as lambda rises, such as Latency(x) with options of its own (target in the same units). over: steps until
    the target is to be reached; the rest of the run holds it. Ask for about half of the run. every: a look at latency
    compacts the network, so give it some hundred steps, or an epoch. history: (step, lambda, measured) of every change.
    The penalty's lambda is the start, a factor of 10,000 either way the limit.

        fit(model, batches, optimizer, epochs=20, callbacks=[penalty, Steer(
            penalty, 0.5, "latency", over=10 * len(batches), every=len(batches), x=batch)])    # twice as fast

    At the first step InputError is raised if the target cannot be reached, because it is missed with every weight of
    the penalty 0 or met while no group is.
    """

    def __init__(
        self, penalty: Penalty, target: float, measure: str | Callable = "sparsity", *, over: int, every: int = 20,
        x=None, gain: float = 2.0, ahead: float = 5.0,
    ):  # fmt: skip
        share = not callable(measure)
        if share and measure not in ("sparsity", "macs", "latency"):
            raise InputError(f"measure={measure!r} is not 'sparsity', 'macs', 'latency' or a function of the model")
        if not (0 < target < 1 if share else 0 < target < np.inf):
            raise InputError(f"target {target} must lie between 0 and {'1: it is a share' if share else 'infinity'}")
        if measure == "macs" and x is None:
            raise InputError("measure='macs' counts multiply-adds on the tape of model(x): give x, one sample")
        if measure == "latency" and x is None:
            raise InputError("measure='latency' is the time of model(x): give x, a batch as inference will have it")
        if every < 1 or over < every:
            raise InputError(f"every {every}, over {over} steps: both at least 1, and over no shorter than every")
        if callable(penalty._lam):
            raise InputError("this penalty's lambda follows a schedule: give it a number, from which steering starts")
        self.penalty, self.target, self.x = penalty, float(target), x
        self.measure = Latency(x) if measure == "latency" else measure
        self.every, self.over, self.gain, self.ahead = every, over, gain, ahead
        self.history: list[tuple[int, float, float]] = []
        self._macs, self._limits = 0, (penalty.lam / 1e4, penalty.lam * 1e4)

    def __repr__(self):
        now = f", now {self.history[-1][2]:g}" if self.history else ""
        return f"Steer({self.measure} to {self.target:g} over {self.over} steps, lambda {self.penalty.lam:g}{now})"

    def measured(self, model) -> float:
        """What is to reach the target, now."""
        if not isinstance(self.measure, str):
            value = float(self.measure(model))
            if not np.isfinite(value):
                raise InputError(f"the function that Steer was given answered {value}: lambda cannot be steered by it")
            return value
        if self.measure == "sparsity":
            counts = list(self.penalty.alive().values())
            return 1 - sum(left for left, _ in counts) / sum(total for _, total in counts)
        found = cost(model, self.x)
        self._macs = self._macs or found.macs  # the first: the model may be compacted on the way
        return found.kept / self._macs

    def on_start(self, run) -> None:
        self._first, self._start, self._norms = self.measured(run.model), run.step, self.penalty.norms()
        self._unit = 1.0
        if self.measure != "sparsity":
            self._unit = -abs(self._first)
            self._check_reach(run.model)
        self._log = log(self.penalty.lam)

    def _check_reach(self, model) -> None:
        """Refuse a target that is below what is left when all the penalty's weights are 0, or above the start."""
        if self._norms.all() and self._first <= self.target:
            raise InputError(
                f"target {self.target:g} is met before any group is 0: {self.measure} is {self._first:g} now; give a "
                "smaller one, in the units of what is measured"
            )
        parameters = list(self.penalty.parameters.values())
        whole = [p.data for p in parameters]
        try:
            for p in parameters:
                p.data = np.zeros_like(p.data)
            least = self.measured(model)
        finally:
            for p, data in zip(parameters, whole, strict=True):
                p.data = data
        if least > self.target:
            raise InputError(
                f"target {self.target:g} cannot be reached: {self.measure} is {self._first:g} now, and still {least:g} "
                "with all weights of the penalty 0; give a larger one, or put groups on more layers"
            )

    def after_step(self, run) -> None:
        if not hasattr(self, "_first"):  # in a loop of one's own, which has no on_start
            self.on_start(run)
        done = run.step + 1 - self._start
        if done % self.every:
            return
        y, way, norms = self.measured(run.model), min(1.0, done / self.over), self.penalty.norms()
        wanted = self._first + way * (self.target - self._first)
        going = (norms > 0) & (norms + self.ahead * (norms - self._norms) <= 0)
        back = (norms > 0) & (self._norms == 0)  # some flicker around 0: what comes and what goes then cancel
        change = self.gain * ((wanted - y) / self._unit - going.mean() + back.mean())
        low, high = map(log, self._limits)
        self._log = min(max(self._log + min(max(change, -log(2)), log(2)), low), high)
        self.penalty.lam, self._norms = float(np.exp(self._log)), norms
        self.history.append((run.step, self.penalty.lam, y))
