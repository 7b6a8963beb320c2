"""Group Lasso: a penalty on the norms of groups of weights, under which whole groups become exactly 0.

    E(w) = E_D(w) + lambda R_g(w)          R_g(w) = sum_g a_g ||w_g||,  ||w_g|| = sqrt(sum of w^2 in group g)

It pulls every nonzero group towards 0 with the same force lambda a_g, however small the group has become; a square
would pull less and less. Two ways to minimise it:

    rule="exact"      after the optimizer's step, the proximal step (prox.py): groups become exactly 0, and stay there
                      as long as their data gradient is no longer than lambda a_g. The library's default.
    rule="published"  before the step, add the subgradient lambda a_g w_g / ||w_g|| (0 at 0) to the gradient; after it,
                      set every |w| < 1e-4 to 0. (Wen et al. 2016; for LSTM units, Wen et al. 2018, ||w_g|| is
                      sqrt(sum + 1e-8), and weights where a unit's row and column cross are summed twice.)

    for x, y in data:                                  for x, y in data:
        loss.backward()                                    loss.backward()
        optimizer.step()                                   penalty.add_subgradient_()
        penalty.prox_(optimizer)                           optimizer.step()
                                                           penalty.threshold_()
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.errors import InputError
from minidl.sparsity.groups import Groups
from minidl.sparsity.prox import _zeroed, group_norms, shrink


class GroupLasso:
    """lambda sum_g a_g ||w_g|| over a set of groups.

    lam: lambda > 0, in units of the loss; weights: a_g, "none" (1, as published) | "sqrt_size" (the square root of the
    number of weights in the group) | an array of one number per group. per: what the loss that lam was chosen for adds
    up, "mean" (over all predictions) or "sum" (over the time steps): from one to the other, lambda, the clipping limit,
    weight decay and 1/lr all change by the number of steps. gap: relative duality gap of the proximal step where groups
    overlap.
    """

    def __init__(
        self, groups: Groups, lam: float, weights="none", rule: str = "exact", per: str = "mean", gap: float = 1e-6
    ):
        for name, value, possible in (("rule", rule, ("exact", "published")), ("per", per, ("mean", "sum"))):
            if value not in possible:
                raise InputError(f"{name}={value!r} is neither {possible[0]!r} nor {possible[1]!r}")
        self.groups, self.rule, self.per, self.gap, self.lam = groups, rule, per, gap, lam
        self._twice = rule == "published"
        self._eps = 1e-8 if rule == "published" and "unit" in groups.by else 0.0
        self._blocks = groups.blocks()
        self._weighting = weights if isinstance(weights, str) else "array"
        self.weights = self._checked_weights(weights)
        self._dual = None  # the last proximal step's dual solution: the next step starts from it
        self._pull, self._step = 0.0, -1

    @property
    def lam(self) -> float:
        """lambda; may be changed between steps, to another number above 0."""
        return self._lam

    @lam.setter
    def lam(self, value: float) -> None:
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"lambda {value} must be above 0: with 0 there is no penalty, so leave the call out")
        self._lam = float(value)

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
        arrays = arrays or [p.data for p in self.groups.parameters.values()]
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
        for cut, p in zip(self._blocks, self.groups.parameters.values(), strict=True):
            faces = [np.broadcast_to(force[labels], cut.shape).copy() for labels in cut.faces]
            factor = sum(_zeroed(f, None if self._twice else a) for f, a in zip(faces, cut.again, strict=True))
            parts.append(cut.scale(p.data, factor))
        return parts

    # -- rule="published" --------------------------------------------------------------------------------------------
    def add_subgradient_(self, per: str | None = None) -> None:
        """Before the step: p.grad = p.grad + lambda a_g w_g / ||w_g||. Momentum then acts on it as on any gradient.

        per: how the loss adds up ("mean" or "sum"), to have it compared with lambda's convention. Raises InputError.
        """
        self._check("published", "add_subgradient_", per)
        for p, part in zip(self.groups.parameters.values(), self._direction(), strict=True):
            p.grad = part if p.grad is None else p.grad + part

    def threshold_(self, below: float = 1e-4) -> None:
        """After the step: every weight of the groups' parameters with |w| < `below` becomes 0."""
        self._check("published", "threshold_")
        for p in self.groups.parameters.values():
            p.data = np.where(np.abs(p.data) < below, p.data.dtype.type(0), p.data)

    # -- rule="exact" ------------------------------------------------------------------------------------------------
    def prox_(self, optimizer, per: str | None = None) -> None:
        """After optimizer.step(): w = prox(w) with the threshold that belongs to this optimizer; velocity untouched.

        A constant gradient g moves the weights by lr g / (1 - mu) a step once momentum has built up: so must lambda,
        t_g = lr lambda a_g (1 - dampening) / (1 - mu), and by less in the first steps. `per` as in add_subgradient_.
        """
        self._check("exact", "prox_", per)
        self._dual, shrunk = self._shrunk(self.threshold(optimizer) * self.weights)
        for p, data in zip(self.groups.parameters.values(), shrunk, strict=True):
            p.data = data

    def _shrunk(self, t):
        factors, dual, _ = shrink(self._blocks, self._block_norms(), t, gap=self.gap, start=self._dual)
        parts = zip(self._blocks, self.groups.parameters.values(), factors, strict=True)
        return dual, [cut.scale(p.data, factor) for cut, p, factor in parts]

    def threshold(self, optimizer) -> float:
        """How far this step of `optimizer` would have moved a weight whose gradient had been lambda from the start on.

        Follows the optimizer's own rule (optim.py): v = mu v + (1 - dampening) g, first v = g; Nesterov g + mu v;
        in Caffe's form the learning rate of each step is inside v. Called once per step.
        """
        k, mu = optimizer.steps, optimizer.momentum
        if k < 1:
            raise InputError("prox_ comes after optimizer.step(): this optimizer has made 0 steps")
        g, damped = optimizer.lr if optimizer.form == "caffe" else 1.0, 1 - optimizer.dampening
        if k == self._step + 1:
            self._pull = mu * self._pull + damped * g
        elif k != self._step:  # the first call, or steps in between without a proximal one: as if lr had been constant
            before = mu ** (k - 1)
            self._pull = g * (before + damped * (1 - before) / (1 - mu))
        self._step = k
        move = g + mu * self._pull if optimizer.nesterov else self._pull if mu else g
        return self.lam * (move if optimizer.form == "caffe" else optimizer.lr * move)

    def _check(self, rule: str, name: str, per: str | None = None) -> None:
        if self.rule != rule:
            raise InputError(
                f"{name} belongs to rule={rule!r}, this penalty has rule={self.rule!r}: the subgradient and the "
                "proximal step each apply lambda once, and both together would apply it twice"
            )
        if per not in (None, self.per):
            raise InputError(
                f"lambda was chosen for a loss per={self.per!r}, this loss is per={per!r}: with T steps, a mean takes "
                "lambda / T, clipping limit / T, weight decay / T and lr T of the sum's"
            )

    # -- how far from the optimum --------------------------------------------------------------------------------------
    def kkt_violation(self, grads: dict[str, np.ndarray] | None = None) -> float:
        """How far the weights are from a minimum of E: the largest norm, over groups, of what no subgradient cancels.

        A group that is not 0 must have grad E_D = -lambda a_g w_g / ||w_g||, a dead one ||grad E_D|| <= lambda a_g.
        grads: {parameter name: dE_D/dw}, the data gradient without the penalty; default p.grad.
        """
        grads = grads or {name: p.grad for name, p in self.groups.parameters.items()}
        rest = [-grads[n] - part for n, part in zip(self.groups.parameters, self._direction(), strict=True)]
        dead = np.where(self.norms() > 0, 0.0, self.lam * self.weights)
        norms = self._block_norms(rest)
        factors, _, _ = shrink(self._blocks, norms, dead, gap=1e-9)
        left = self._spread([m * f for m, f in zip(norms, factors, strict=True)])
        return float(group_norms(self._blocks, left, self.groups.count)[:-1].max())

    def steps(self, E_D: float = 0.0, optimizer=None) -> Iterator[tuple[str, object]]:
        """Yield (name, value) of each intermediate under the talk's names; nothing changes.

        Arrays over weights come as {parameter name: array}. With an optimizer that has stepped, the proximal step too.
        """
        names, norms = list(self.groups.parameters), self.norms()
        yield "E_D", E_D
        yield "||w_g||", norms
        yield "R_g", float(self.weights @ norms)
        yield "E = E_D + lambda R_g", E_D + self.value()
        yield "lambda w/||w||", dict(zip(names, self._direction(), strict=True))
        if optimizer is None:
            return
        t = self.threshold(optimizer) * self.weights
        yield "t", t
        yield "max(0, 1 - t/||w||) w", dict(zip(names, self._shrunk(t)[1], strict=True))
