"""RMSprop: divide the gradient by the root of a running mean of its square.

    v = a v + (1 - a) g^2        w = w - lr g / (sqrt(v) + eps)
    centered: sqrt(v - m^2) with m = a m + (1 - a) g;   momentum: b = mu b + g / (...), w = w - lr b

(Hinton's lecture 6e; PyTorch's order, eps outside the root.)
"""

from __future__ import annotations

import numpy as np

from minidl.optim.optimizer import Optimizer


class RMSprop(Optimizer):
    """RMSprop with PyTorch's defaults and numbers."""

    def __init__(self, params, lr=1e-2, *, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered
        )

    def update(self, w, g, group, state):
        alpha, mu = group["alpha"], group["momentum"]
        g = g + group["weight_decay"] * w if group["weight_decay"] else g
        state["v"] = v = alpha * state.get("v", 0) + (1 - alpha) * (g * g)
        if group["centered"]:
            state["m"] = m = alpha * state.get("m", 0) + (1 - alpha) * g
            v = v - m * m
        change = g / (np.sqrt(v) + group["eps"])
        if mu:
            state["b"] = change = mu * state.get("b", 0) + change
        return w - group["lr"] * change
