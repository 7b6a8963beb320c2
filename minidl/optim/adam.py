"""Adam: every weight has a rate of its own, from running means of its gradient and of the gradient's square.

    m = b1 m + (1 - b1) g            v = b2 v + (1 - b2) g^2
    mhat = m / (1 - b1^t)            vhat = v / (1 - b2^t)          both start at 0: the divisors undo that bias
    w = w - lr mhat / (sqrt(vhat) + eps)

Weight decay is part of g in Adam (and so divided by sqrt(vhat) too); AdamW takes it from the weights directly,
w = w - lr wd w. (Kingma and Ba 2015; Loshchilov and Hutter 2019)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.optim.optimizer import Optimizer


class Adam(Optimizer):
    """Adam with PyTorch's defaults and numbers."""

    decoupled = False

    def __init__(self, params, lr: float = 1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, group):
        if len(group["betas"]) != 2 or not all(0 <= b < 1 for b in group["betas"]):
            raise InputError(f"{type(self).__name__}: betas are {group['betas']}; give two, at least 0 and below 1")

    def update(self, w, g, group, state):
        (b1, b2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        t = state["t"] = state.get("t", np.int64(0)) + 1
        if decay:
            w, g = (w * (1 - lr * decay), g) if self.decoupled else (w, g + decay * w)
        state["m"] = b1 * state["m"] + (1 - b1) * g if "m" in state else (1 - b1) * g
        state["v"] = b2 * state["v"] + (1 - b2) * (g * g) if "v" in state else (1 - b2) * (g * g)
        rate, scale = lr / (1 - b1 ** int(t)), (1 - b2 ** int(t)) ** 0.5
        return w - rate * state["m"] / (np.sqrt(state["v"]) / scale + group["eps"])


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.01 by default as in PyTorch."""

    decoupled = True

    def __init__(self, params, lr: float = 1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)
