"""SGD: step against the gradient, with a memory of earlier steps.

    d = g + wd w                            weight decay
    v = mu v + (1 - dampening) d            momentum; the first v is d undamped, as PyTorch does
    w = w - lr v                            Nesterov: w - lr (d + mu v), the step seen from where v leads

Two forms differ when the learning rate changes:

    torch:  v = mu v + d           w = w - lr v
    caffe:  v = mu v + lr d        w = w - v            the rate is inside the buffer

(Polyak 1964; Nesterov 1983; Sutskever et al. 2013)
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError
from minidl.optim.optimizer import Optimizer, option


@twin
def sgd_step(w, g, v, lr, momentum, dampening, weight_decay, nesterov, form):
    """(new w, new v) of one parameter; v is None before the first step, and stays None without momentum."""
    if weight_decay:
        g = g + weight_decay * w
    if form == "caffe":
        g, lr = lr * g, 1
    if momentum:
        v = g.copy() if v is None else momentum * v + (1 - dampening) * g
        g = g + momentum * v if nesterov else v
    return w - (g if lr == 1 else lr * g), v


class SGD(Optimizer):
    """Stochastic gradient descent with momentum mu, Nesterov's form, dampening and weight decay wd.

    params: as in Optimizer. form: "torch" or "caffe". Options may be set before a step; groups may differ in them.
    """

    momentum, dampening, weight_decay = option("momentum"), option("dampening"), option("weight_decay")
    nesterov, form = option("nesterov"), option("form")

    def __init__(
        self, params, lr: float, *, momentum=0.0, weight_decay=0.0, nesterov=False, dampening=0.0, form="torch"
    ):  # fmt: skip
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, dampening=dampening,
            form=form,
        )  # fmt: skip

    def check(self, group) -> None:
        if group["form"] not in ("torch", "caffe"):
            raise InputError(f"form {group['form']!r} is neither 'torch' nor 'caffe'")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"]):
            raise InputError(
                f"Nesterov's form needs momentum > 0 and no dampening; got {group['momentum']} and {group['dampening']}"
            )

    def update(self, w, g, group, state):
        options = {name: value for name, value in group.items() if name != "params"}
        w, v = sgd_step(w, g, state.get("v") if group["momentum"] else None, **options)
        if v is not None:
            state["v"] = v
        return w

    @property
    def velocity(self) -> dict[int, np.ndarray]:
        """position in params -> v, for every parameter that has been moved with momentum; may be set."""
        return {k: state["v"] for k, state in enumerate(self.state) if "v" in state}

    @velocity.setter
    def velocity(self, arrays: dict[int, np.ndarray]) -> None:
        self.state = [{"v": arrays[k]} if k in arrays else {} for k in range(len(self.params))]
