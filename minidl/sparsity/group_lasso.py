"""Group Lasso: a penalty on the norms of groups of weights, under which whole groups become exactly 0.

    E(w) = E_D(w) + lambda R_g(w)          R_g(w) = sum_g a_g ||w_g||,  ||w_g|| = sqrt(sum of w^2 in group g)

It pulls every nonzero group towards 0 with the same force lambda a_g, however small the group has become; a square
would pull less and less. Two ways to minimise it:

    rule="exact"      after the optimizer's step, the proximal step (prox.py): groups become exactly 0, and stay there
                      as long as their data gradient is no longer than lambda a_g. The library's default.
    rule="published"  before the step, add the subgradient lambda a_g w_g / ||w_g|| (0 at 0) to the gradient; after it,
                      set every |w| < 1e-4 to 0. (Wen et al. 2016; for LSTM units, Wen et al. 2018, ||w_g|| is
                      sqrt(sum + 1e-8), and weights where a unit's row and column cross are summed twice.)

What belongs where in a training step is in penalty.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.errors import InputError
from minidl.optim import Adam
from minidl.rules import scatter
from minidl.sparsity.groups import Groups
from minidl.sparsity.metric import shrink_in_metric
from minidl.sparsity.penalty import Penalty
from minidl.sparsity.prox import _zeroed, group_norms, shrink
from minidl.sparsity.pull import metrics
from minidl.tensor import Tensor


class GroupLasso(Penalty):
    """lambda sum_g a_g ||w_g|| over a set of groups.

    lam: lambda > 0, in units of the loss, or a schedule, step -> lambda; weights: a_g, "none" (1, as published) |
    "sqrt_size" (the square root of the number of weights in the group) | an array of one number per group. per: what
    the loss that lam was chosen for adds up, "mean" (over all predictions) or "sum" (over the time steps): from one to
    the other, lambda, the clipping limit, weight decay and 1/lr all change by the number of steps. gap: relative
    duality gap of the proximal step where groups overlap. smooth: e in sqrt(sum + e), rule="published" only, default
    1e-8 for units and 0 otherwise; with e > 0 nothing becomes 0 but by the threshold.
    """

    def __init__(
        self, groups: Groups, lam, weights="none", rule: str = "exact", per: str = "mean", gap: float = 1e-6,
        smooth: float | None = None,
    ):  # fmt: skip
        super().__init__(groups.parameters, lam, rule, per)
        if smooth is not None and not (smooth >= 0 and (smooth == 0 or rule == "published")):
            raise InputError(f"smooth={smooth} with rule={rule!r}: it must not be below 0, and needs rule='published'")
        self.groups, self.gap = groups, gap
        self._twice = rule == "published"
        self._eps = (1e-8 if rule == "published" and "unit" in groups.by else 0.0) if smooth is None else float(smooth)
        self._blocks = groups.blocks()
        self._weighting = weights if isinstance(weights, str) else "array"
        self.weights = self._checked_weights(weights)
        self._dual = None  # the last proximal step's dual solution: the next step starts from it

    def _checked_weights(self, weights) -> np.ndarray:
        count = self.groups.count
        if isinstance(weights, str):
            if weights not in ("none", "sqrt_size"):
                raise InputError(f"weights={weights!r} is not 'none', 'sqrt_size' or an array of {count} numbers")
            return np.ones(count) if weights == "none" else np.sqrt(self.sizes())
        weights = np.asarray(weights, float)
        if weights.shape != (count,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise InputError(f"weights of shape {weights.shape}: give {count} numbers, one per group, none below 0")
        return weights

    def __repr__(self):
        return (
            f"GroupLasso({self.groups.count} groups by {self.groups.by}, lambda {self.lam:g}, "
            f"weights {self._weighting}, rule {self.rule}, per {self.per})"
        )

    # -- what it is --------------------------------------------------------------------------------------------------
    def _spread(self, values) -> list[list[np.ndarray]]:
        """For each parameter, the same array over its blocks for every face."""
        return [[v] * len(cut.faces) for cut, v in zip(self._blocks, values, strict=True)]

    def _block_norms(self, arrays=None) -> list[np.ndarray]:
        arrays = arrays or [p.data for p in self.parameters.values()]
        return [cut.norms(a) for cut, a in zip(self._blocks, arrays, strict=True)]

    def sizes(self) -> np.ndarray:
        """The number of weights in each group."""
        return self.groups.sizes(self._twice)

    def norms(self) -> np.ndarray:
        """||w_g|| of each group, by the rule's own definition but without its 1e-8."""
        return group_norms(self._blocks, self._spread(self._block_norms()), self.groups.count, self._twice)[:-1]

    def value(self) -> float:
        """lambda R_g(w): what the penalty adds to the loss."""
        return float(self.lam * (self.weights @ np.sqrt(np.square(self.norms()) + self._eps)))

    def alive(self) -> dict[str, tuple[int, int]]:
        """{"layer kind": (groups that are not 0, all groups)}."""
        norms = self.norms()
        return {
            f"{s.layer} {s.kind}": (int(np.count_nonzero(norms[s.start : s.stop])), s.stop - s.start)
            for s in self.groups.sections
        }

    def _direction(self) -> list[np.ndarray]:
        """lambda a_g w_g / ||w_g||, added over the groups a weight lies in; 0 where a group is 0."""
        norms = np.sqrt(np.square(self.norms()) + self._eps)
        force = np.append(np.divide(self.lam * self.weights, norms, out=np.zeros_like(norms), where=norms > 0), 0)
        parts = []
        for cut, p in zip(self._blocks, self.parameters.values(), strict=True):
            faces = [np.broadcast_to(force[labels], cut.shape).copy() for labels in cut.faces]
            factor = sum(_zeroed(f, None if self._twice else a) for f, a in zip(faces, cut.again, strict=True))
            parts.append(cut.scale(p.data, factor))
        return parts

    def _tensor(self) -> Tensor:
        parts: list[Tensor] = []
        for cut, p in zip(self._blocks, self.parameters.values(), strict=True):
            every = cut.spread(np.ones(cut.shape), p.data)
            for labels, again in zip(cut.faces, cut.again, strict=True):
                once = 1 if self._twice or again is None else cut.spread(_zeroed(np.ones(cut.shape), again), p.data)
                of = cut.spread(np.broadcast_to(labels, cut.shape) % (self.groups.count + 1), every.astype(int))
                summed = scatter((p * p * once).reshape(-1), index=of.ravel(), shape=(self.groups.count + 1,))
                parts.append(summed[:-1])
        squares = sum(parts[1:], parts[0])
        alive = self.norms() > 0
        root = np.sqrt(squares + (self._eps + ~alive).astype(squares.dtype))  # away from 0, where its slope is infinite
        return (root * (self.lam * self.weights * alive).astype(squares.dtype)).sum()

    def _proximal(self, optimizer, remember: bool = True) -> list[np.ndarray]:
        t, data = self.threshold(optimizer) * self.weights, [p.data for p in self.parameters.values()]
        if isinstance(optimizer, Adam):
            return shrink_in_metric(self._blocks, data, metrics(optimizer, self.parameters), t)
        factors, dual, _ = shrink(self._blocks, self._block_norms(), t, gap=self.gap, start=self._dual)
        if remember:
            self._dual = dual
        return [cut.scale(w, factor) for cut, w, factor in zip(self._blocks, data, factors, strict=True)]

    def threshold(self, optimizer) -> float | np.ndarray:
        """t_g / a_g in the step that `optimizer` has just made (pull.py): one number, or one for each group where the
        optimizer moves parameters at different rates. Called once per step; raises InputError where a group's
        parameters differ in theirs."""
        moves = self._pull(optimizer, self.parameters)
        if len(set(moves)) == 1:
            return self.lam * moves[0]
        of = np.full(self.groups.count, np.nan)
        for cut, move, name in zip(self._blocks, moves, self.parameters, strict=True):
            mine = np.unique(np.concatenate([labels[labels >= 0] for labels in cut.faces]))
            other = of[mine][(of[mine] != move) & ~np.isnan(of[mine])]
            if len(other):
                raise InputError(
                    f"a group lies in {name}, which the optimizer moves by {move:g} per unit of gradient, and in "
                    f"another parameter that it moves by {other[0]:g}: give both the same rate and momentum"
                )
            of[mine] = move
        return self.lam * of

    # -- how far from the optimum --------------------------------------------------------------------------------------
    def kkt_violation(self, grads: dict[str, np.ndarray] | None = None) -> float:
        """How far the weights are from a minimum of E: the largest norm, over groups, of what no subgradient cancels.

        A group that is not 0 must have grad E_D = -lambda a_g w_g / ||w_g||, a dead one ||grad E_D|| <= lambda a_g.
        grads: {parameter name: dE_D/dw}, the data gradient without the penalty; default p.grad.
        """
        grads = grads or {name: p.grad for name, p in self.parameters.items()}
        rest = [-grads[n] - part for n, part in zip(self.parameters, self._direction(), strict=True)]
        dead = np.where(self.norms() > 0, 0.0, self.lam * self.weights)
        norms = self._block_norms(rest)
        factors, _, _ = shrink(self._blocks, norms, dead, gap=1e-9)
        left = self._spread([m * f for m, f in zip(norms, factors, strict=True)])
        return float(group_norms(self._blocks, left, self.groups.count)[:-1].max())

    def steps(self, E_D: float = 0.0, optimizer=None) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of each intermediate under the talk's names; nothing changes.

        Arrays over weights come as {parameter name: array}. With an optimizer that has stepped, the proximal step too.
        """
        names, norms = list(self.parameters), self.norms()
        yield "E_D", E_D
        yield "||w_g||", norms
        yield "R_g", float(self.weights @ norms)
        yield "E = E_D + lambda R_g", E_D + self.value()
        yield "lambda w/||w||", dict(zip(names, self._direction(), strict=True))
        if optimizer is None:
            return
        yield "t", self.threshold(optimizer) * self.weights
        yield "max(0, 1 - t/||w||) w", dict(zip(names, self._proximal(optimizer, remember=False), strict=True))
