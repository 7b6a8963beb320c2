"""Plain L1, to compare with: it makes single weights 0, wherever they are, and a network does not become smaller by it.

    E(w) = E_D(w) + lambda sum_i |w_i|

    rule="exact"      w = sign(v) max(0, |v| - t) after the step, t by the optimizer's rule (pull.py); behind Adam t / D
    rule="published"  lambda sign(w) (0 at 0) is added to the gradient, and |w| < 1e-4 becomes 0 after the step

With group Lasso at once (sparse groups), shrink single weights first, then groups: the two proximal steps in that order
are that of the sum, because every weight lies in one group (Jenatton et al. 2011).
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.optim import Adam
from minidl.sparsity.penalty import Penalty
from minidl.sparsity.pull import metrics
from minidl.tensor import Tensor


class L1(Penalty):
    """lambda sum |w| over the weights of a model, biases left out, or over parameters {name: Parameter} of your own.

    lam, rule, per: as in Penalty.
    """

    def __init__(self, model, lam, rule: str = "exact", per: str = "mean"):
        named = model if isinstance(model, dict) else {n: p for n, p in model.named_parameters() if p.ndim > 1}
        if not named:
            raise InputError("L1 finds no weights here: a bias has one axis and is left out; give {name: Parameter}")
        super().__init__(named, lam, rule, per)

    def __repr__(self):
        return f"L1({len(self.parameters)} parameters, lambda {self.lam:g}, rule {self.rule}, per {self.per})"

    def value(self) -> float:
        """lambda sum |w|."""
        return self.lam * float(sum(np.abs(p.data).sum(dtype=np.float64) for p in self.parameters.values()))

    def norms(self) -> np.ndarray:
        """|w| of every weight, parameter after parameter."""
        return np.concatenate([np.abs(p.data).ravel() for p in self.parameters.values()])

    def alive(self) -> dict[str, tuple[int, int]]:
        """{parameter: (weights that are not 0, all weights)}."""
        return {name: (int(np.count_nonzero(p.data)), p.numel()) for name, p in self.parameters.items()}

    def _tensor(self) -> Tensor:
        parts = [np.abs(p).sum() for p in self.parameters.values()]
        return sum(parts[1:], parts[0]) * self.lam

    def _direction(self):
        return [p.data.dtype.type(self.lam) * np.sign(p.data) for p in self.parameters.values()]

    def _proximal(self, optimizer):
        own = self._pull(optimizer, self.parameters)
        scales = metrics(optimizer, self.parameters) if isinstance(optimizer, Adam) else [1.0] * len(own)
        return [
            np.sign(p.data) * np.maximum(np.abs(p.data) - (self.lam * move / d), 0).astype(p.data.dtype)
            for p, move, d in zip(self.parameters.values(), own, scales, strict=True)
        ]

    def kkt_violation(self, grads: dict[str, np.ndarray] | None = None) -> float:
        """How far from a minimum: the largest of |g + lambda sign(w)| where w is not 0, |g| - lambda where it is."""
        worst = 0.0
        for name, p in self.parameters.items():
            g = np.asarray((grads or {}).get(name, p.grad), np.float64)
            rest = np.where(p.data == 0, np.abs(g) - self.lam, np.abs(g + self.lam * np.sign(p.data)))
            worst = max(worst, float(rest.max(initial=0)))
        return worst
