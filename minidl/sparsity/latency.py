"""Latency: what the zeros of a network are worth in time, measured.

    latency = min seconds(small(x)) / min seconds(dense(x))        small, _ = compact(model, x)

Zeros alone save nothing: an ordinary layer multiplies them like any other number. So what is timed is the compacted
network. What else runs on the machine changes from minute to minute: so the dense network is timed beside it, turn by
turn. And whatever disturbs a run makes it longer, never shorter: so the shortest of each counts. A median does not do;
on a full machine two equal networks were measured to differ 150 times, since one of them was interrupted in most turns.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import InputError
from minidl.sparsity.compact import NothingToRemove, compact
from minidl.sparsity.units import arguments
from minidl.tensor import no_grad


class Latency:
    """latency(model) -> the compacted model's forward time, as a share of the first model's that was asked for.

    x: what is run, as for compact: the batch that inference will have, or a function model -> x (a state has the size
    of the network). rounds: turns, of which the shortest run counts. columns: as in compact, where groups are columns.
    clock() -> seconds. seconds: the two of the last measurement, (dense, small). A call costs a compaction, unless the
    same weights are 0 as in the last one; where nothing can be removed the answer is 1, unmeasured.
    """

    def __init__(
        self, x, *, rounds: int = 25, columns: bool = False, clock: Callable[[], float] = time.perf_counter
    ):  # fmt: skip
        if rounds < 1:
            raise InputError(f"Latency: {rounds} rounds; it must be at least 1, and takes 10 or more to be steady")
        self.x, self.rounds, self.columns, self.clock = x, rounds, columns, clock
        self.seconds: tuple[float, float] | None = None
        self._dense: Any = None
        self._small: Any = None
        self._zeros: list = []

    def __repr__(self):
        return "latency"

    def __call__(self, model) -> float:
        if self._dense is None:
            self._dense = copy.deepcopy(model)
        zeros = [(p.shape, np.packbits(p.data == 0).tobytes()) for p in model.parameters()]
        if zeros != self._zeros:
            self._small, self._zeros = self._compacted(model), zeros
        if [p.shape for p in self._small.parameters()] == [p.shape for p in self._dense.parameters()]:
            return 1.0
        runs, best = (self._ready(self._dense), self._ready(self._small)), [np.inf, np.inf]
        for turn in range(2 * self.rounds):
            which = (turn + turn // 2) % 2  # dense, small, small, dense, ...: neither always goes first
            best[which] = min(best[which], self._seconds(runs[which]))
        self.seconds = best[0], best[1]
        return best[1] / best[0]

    def _ready(self, model) -> Callable[[], object]:
        """A run of the model, in evaluation mode, its arguments made once."""
        model, args = model.eval(), arguments(self._x(model))
        return lambda: model(*args)

    def _x(self, model):
        return self.x(model) if callable(self.x) else self.x

    def _compacted(self, model):
        try:
            return compact(model, self._x(model), columns=self.columns)[0]
        except NothingToRemove:
            return copy.deepcopy(model)

    def _seconds(self, run) -> float:
        with no_grad():
            start = self.clock()
            run()
            return self.clock() - start
