"""Optimizers change weights from gradients, and nothing else does. They replace p.data; they never write into it.

SGD with momentum comes in two forms that differ when the learning rate changes:

    torch:  v = mu v + (g + wd w)          w = w - lr v
    caffe:  v = mu v + lr (g + wd w)       w = w - v            the rate is inside the buffer
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError


class SGD:
    """Stochastic gradient descent with momentum mu, Nesterov's form, dampening d and weight decay wd.

    params: Parameters, or (name, Parameter) pairs. The first step of a buffer takes g undamped, as PyTorch does.
    `lr` is an ordinary attribute: set it before a step to follow a schedule.
    """

    def __init__(
        self, params, lr: float, *, momentum=0.0, weight_decay=0.0, nesterov=False, dampening=0.0, form="torch"
    ):  # fmt: skip
        if form not in ("torch", "caffe"):
            raise InputError(f"form {form!r} is neither 'torch' nor 'caffe'")
        if nesterov and (momentum <= 0 or dampening):
            raise InputError(f"Nesterov's form needs momentum > 0 and no dampening; got {momentum} and {dampening}")
        self.params = [p[1] if isinstance(p, tuple) else p for p in params]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.nesterov, self.dampening, self.form = nesterov, dampening, form
        self.velocity: dict[int, np.ndarray] = {}  # position in params -> v
        self.steps = 0

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        lr, mu, decay = float(self.lr), float(self.momentum), float(self.weight_decay)  # np.float64 would change dtypes
        for k, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = np.asarray(p.grad) + decay * p.data if decay else np.asarray(p.grad)
            if self.form == "caffe":
                g = lr * g
            if mu:
                v = self.velocity.get(k)
                v = g.copy() if v is None else mu * v + (1 - self.dampening) * g
                self.velocity[k] = v
                g = g + mu * v if self.nesterov else v
            p.data = p.data - (g if self.form == "caffe" else lr * g)
        self.steps += 1


def clip_grad_norm(params, limit: float) -> float:
    """Scale all gradients so that their joint L2 norm is at most `limit`; returns the norm before.

    ||g|| = sqrt(sum of g^2 over all parameters);  g = g limit / ||g|| where ||g|| > limit.
    """
    grads = [p for p in params if p.grad is not None]
    norm = float(np.sqrt(sum(float(np.vdot(p.grad, p.grad)) for p in grads)))
    if norm > limit:
        for p in grads:
            p.grad = p.grad * (float(limit) / norm)
    return norm


def inv(lr: float, gamma: float, power: float):
    """Caffe's policy: lr (1 + gamma step)^(-power), as a function of the step."""
    return lambda step: lr * (1 + gamma * step) ** -power


def multistep(lr: float, gamma: float, at):
    """lr times gamma for every listed step that has been reached."""
    return lambda step: lr * gamma ** sum(step >= s for s in at)


def poly(lr: float, power: float, total: int):
    """lr (1 - step / total)^power: down to 0 at the last step."""
    return lambda step: lr * (1 - step / total) ** power
