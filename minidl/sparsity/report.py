"""Report: how sparse each layer is after every epoch, how long the groups are, and how far the optimum is.

report = Report(penalty, batch=(x, y))
fit(model, batches, optimizer, epochs=10, callbacks=[penalty, report])
print(report); report.epochs[9].alive; report.draw(figure)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.layers import cross_entropy
from minidl.sparsity.group_lasso import GroupLasso
from minidl.tensor import Tensor

BINS = np.concatenate([[0.0], 10.0 ** np.arange(-6, 3.5, 0.5)])
"""Bounds of the histogram of norms: exactly 0 below the first, then half decades; shorter and longer join the ends."""


@dataclass(frozen=True)
class Sparsity:
    """One look at a penalty's groups. Printed, it is a table.

    alive: {"layer kind": (groups that are not 0, all groups)}; weights: {parameter: (weights not 0, all)}; histogram:
    how many groups are exactly 0, then how many norms lie in each half decade of BINS; kkt: the largest KKT violation
    on the batch, None without one.
    """

    lam: float
    alive: dict[str, tuple[int, int]]
    weights: dict[str, tuple[int, int]]
    histogram: np.ndarray
    kkt: float | None = None

    groups_zero = property(lambda self: _zero(self.alive), doc="share of the groups that are 0")
    weights_zero = property(lambda self: _zero(self.weights), doc="share of the weights that are 0")

    def __str__(self):
        rows = [*self.alive.items(), *((name, n) for name, n in self.weights.items())]
        lines = [f"{'':32} {'not 0':>11} {'of':>11} {'0':>7}"]
        lines += [f"{name:32} {left:11,} {total:11,} {1 - left / max(total, 1):7.1%}" for name, (left, total) in rows]
        kkt = "" if self.kkt is None else f", KKT violation {self.kkt:.2e}"
        return "\n".join([*lines, f"lambda {self.lam:g}{kkt}"])


def sparsity_of(penalty: GroupLasso, kkt: float | None = None) -> Sparsity:
    """The Sparsity of a penalty's groups now."""
    norms = penalty.norms()
    short = np.clip(norms[norms > 0], BINS[1], BINS[-1])
    histogram = np.concatenate([[np.count_nonzero(norms == 0)], np.histogram(short, BINS[1:])[0]])
    weights = {name: (int(np.count_nonzero(p.data)), p.numel()) for name, p in penalty.parameters.items()}
    return Sparsity(penalty.lam, penalty.alive(), weights, histogram, kkt)


class Report(Callback):
    """Record {epoch: Sparsity} after every epoch of `fit`.

    batch: (x, y), on which the KKT violation is measured with loss(model(x), y): the gradient of the data alone, in
    evaluation mode. show: print each table.
    """

    def __init__(self, penalty: GroupLasso, *, batch=None, loss: Callable = cross_entropy, show: bool = False):
        self.penalty, self.batch, self.loss, self.show = penalty, batch, loss, show
        self.epochs: dict[int, Sparsity] = {}

    def after_epoch(self, run) -> None:
        found = sparsity_of(self.penalty, None if self.batch is None else self._violation(run.model))
        self.epochs[len(self.epochs)] = found
        if self.show:
            print(f"epoch {run.epoch}\n{found}")

    def _violation(self, model) -> float:
        """With gradients of its own: those of the training step are put back, and so is the mode."""
        before, was = {name: p.grad for name, p in model.named_parameters()}, model.training
        try:
            model.eval()
            for p in model.parameters():
                p.grad = None
            x, y = self.batch
            self.loss(model(Tensor(x) if x.dtype.kind == "f" else x), y).backward()
            unused = [name for name, p in self.penalty.parameters.items() if p.grad is None]
            if unused:
                raise InputError(f"the loss on the report's batch does not depend on {', '.join(unused)}")
            return self.penalty.kkt_violation({name: p.grad for name, p in self.penalty.parameters.items()})
        finally:
            model.train(was)
            for name, p in model.named_parameters():
                p.grad = before[name]

    def __str__(self):
        names = list(next(iter(self.epochs.values())).alive) if self.epochs else []
        lines = [" ".join([f"{'epoch':>5}", *(f"{name:>18}" for name in names), f"{'KKT':>10}"])]
        for epoch, found in self.epochs.items():
            cells = [f"{left:,} of {total:,}" for left, total in found.alive.values()]
            kkt = "" if found.kkt is None else f"{found.kkt:.2e}"
            lines.append(" ".join([f"{epoch:5}", *(f"{cell:>18}" for cell in cells), f"{kkt:>10}"]))
        return "\n".join(lines)

    def draw(self, figure) -> None:
        """Fill an empty matplotlib Figure: groups that are not 0, by layer and epoch; the last histogram of norms."""
        if not self.epochs:
            raise InputError("nothing to draw: no epoch has ended yet")
        left, right = figure.subplots(1, 2)
        for k, name in enumerate(self.epochs[0].alive):
            shares = [found.alive[name][0] / found.alive[name][1] for found in self.epochs.values()]
            left.plot(list(self.epochs), shares, marker="osv^Dx"[k % 6], label=name)
        left.set(xlabel="epoch", ylabel="groups that are not 0", ylim=(0, 1.05))
        left.legend(fontsize="small")
        counts = list(self.epochs.values())[-1].histogram
        right.bar(range(len(counts)), counts)
        right.set_xticks(range(0, len(counts), 4), ["0", *(f"{b:.0e}" for b in BINS[4::4])][: len(counts) // 4 + 1])
        right.set(xlabel="norm of a group", ylabel="groups")


def _zero(counts: dict[str, tuple[int, int]]) -> float:
    return 1 - sum(left for left, _ in counts.values()) / max(sum(total for _, total in counts.values()), 1)
