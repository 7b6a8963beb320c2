"""Penalty: what group Lasso and plain L1 have in common. lambda, two rules, and when in a step each of them acts.

    rule="exact"      after the optimizer's step, the proximal step: zeros are exactly 0. The library's default.
    rule="published"  before the step, add a subgradient of lambda R to the gradient; after it, set |w| < 1e-4 to 0.

    for x, y in data:                                  for x, y in data:
        loss.backward()                                    loss.backward()
        [clip the data gradient]                           [clip the data gradient]
        optimizer.step()                                   penalty.add_subgradient_()
        penalty.prox_(optimizer)                           optimizer.step()
                                                           penalty.threshold_()

As a callback of `fit` a penalty does its part by itself: fit(..., callbacks=[penalty]), clipping in fit's
after_backward, which comes first. That is Caffe's order: clip, weight decay, penalty, momentum, update, zero out. A
gradient clipped after the penalty was added would make lambda depend on the clip.

`loss + penalty()` is the same subgradient, through the tape: to look at, or to try other optimizers with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.sparsity.pull import Pull
from minidl.tensor import Tensor


class Penalty(Callback):
    """lambda R(w) over parameters {name: Parameter}; subclasses say what R is.

    lam: lambda > 0, in units of the loss, or a schedule, step -> lambda (optim.schedule), which may be 0 at some steps.
    per: what the loss that lam was chosen for adds up, "mean" (over all predictions) or "sum" (over the time steps).
    """

    def __init__(self, parameters: dict, lam: float | Callable[[int], float], rule: str, per: str):
        for name, value, possible in (("rule", rule, ("exact", "published")), ("per", per, ("mean", "sum"))):
            if value not in possible:
                raise InputError(f"{name}={value!r} is neither {possible[0]!r} nor {possible[1]!r}")
        self.parameters, self.rule, self.per, self.lam = parameters, rule, per, lam
        self.step, self._in_loss, self._pull = 0, False, Pull()

    # -- lambda --------------------------------------------------------------------------------------------------------
    @property
    def lam(self) -> float:
        """lambda at the present step; may be set between steps, to another number above 0 or to a schedule."""
        if not callable(self._lam):
            return self._lam
        value = float(self._lam(self.step))
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"the schedule gives lambda {value} at step {self.step}: it must not be below 0")
        return value

    @lam.setter
    def lam(self, value) -> None:
        if not callable(value):
            value = float(value)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"lambda {value} must be above 0: with 0 there is no penalty, so leave the call out")
        self._lam = value

    # -- what a subclass says ------------------------------------------------------------------------------------------
    def value(self) -> float:
        """lambda R(w): what the penalty adds to the loss."""
        raise NotImplementedError

    def norms(self) -> np.ndarray:
        """The lengths that R adds up: of every group, or of every weight."""
        raise NotImplementedError

    def alive(self) -> dict[str, tuple[int, int]]:
        """{where: (how many of them are not 0, all)}."""
        raise NotImplementedError

    def _tensor(self) -> Tensor:
        raise NotImplementedError

    def _direction(self) -> list[np.ndarray]:
        raise NotImplementedError

    def _proximal(self, optimizer) -> list[np.ndarray]:
        raise NotImplementedError

    # -- in a step -----------------------------------------------------------------------------------------------------
    def __call__(self) -> Tensor:
        """lambda R(w) as a scalar Tensor, to be added to the loss; its gradient is the subgradient with 0 at 0."""
        result = self._tensor()
        if result.requires_grad:  # not under no_grad, where it is only looked at
            self._in_loss = True
            self.step += 1
        return result

    def add_subgradient_(self, per: str | None = None) -> None:
        """Before the step: p.grad = p.grad + a subgradient of lambda R. Momentum then acts on it as on any gradient.

        per: how the loss adds up ("mean" or "sum"), to have it compared with lambda's convention. Raises InputError.
        """
        self._check("published", "add_subgradient_", per)
        for p, part in zip(self.parameters.values(), self._direction(), strict=True):
            p.grad = part if p.grad is None else p.grad + part
        self.step += 1

    below = 1e-4  # the limit of threshold_; highway networks and BiDAF were published with 4e-4

    def threshold_(self, below: float | None = None, params=None) -> None:
        """After the step: every weight with |w| < `below` (default: self.below, which may be set) becomes 0.

        params: of which parameters; default the penalty's own. Caffe does it to all, biases and BatchNorm too:
        model.parameters(). For LSTMs the published limit is max(1e-4, 2 weight decay).
        """
        self._check("published", "threshold_", once=False)
        below = self.below if below is None else below
        for p in self.parameters.values() if params is None else list(params):
            p.data = np.where(np.abs(p.data) < below, p.data.dtype.type(0), p.data)

    def prox_(self, optimizer, per: str | None = None) -> None:
        """After optimizer.step(): w = prox(w), with that step's threshold and metric (pull.py); velocity untouched.

        optimizer: SGD in every form, Adam or AdamW. per: as in add_subgradient_. Raises InputError and changes nothing.
        """
        self._check("exact", "prox_", per)
        for p, data in zip(self.parameters.values(), self._proximal(optimizer), strict=True):
            p.data = data
        self.step += 1

    def after_backward(self, run) -> None:
        self.step = run.step
        if self.rule == "published" and not self._in_loss:
            self.add_subgradient_()

    def after_step(self, run) -> None:
        self.prox_(run.optimizer) if self.rule == "exact" else self.threshold_()

    def _check(self, rule: str, name: str, per: str | None = None, once: bool = True) -> None:
        if self.rule != rule:
            raise InputError(
                f"{name} belongs to rule={rule!r}, this penalty has rule={self.rule!r}: the subgradient and the "
                "proximal step each apply lambda once, and both together would apply it twice"
            )
        if once and self._in_loss:
            raise InputError(
                f"penalty() is in the loss already, and {name} would apply lambda twice: leave one of them out; only "
                "to look at the value, ask penalty.value(); to go over to the other, make a new penalty"
            )
        if per not in (None, self.per):
            raise InputError(
                f"lambda was chosen for a loss per={self.per!r}, this loss is per={per!r}: with T steps, a mean takes "
                "lambda / T, clipping limit / T, weight decay / T and lr T of the sum's"
            )
