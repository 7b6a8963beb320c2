"""How strongly a proximal step has to pull: as far as the optimizer would have moved a weight with gradient lambda.

At a minimum of E = E_D + lambda R the data gradient and a subgradient of the penalty cancel. An optimizer turns a
constant data gradient g into steps of lr g, or lr g / (1 - mu) once momentum has built up; if the proximal step took
back only lr lambda, it would stop where ||g|| = (1 - mu) lambda. So t = lambda * move, with

    plain SGD          move = lr
    momentum mu        move = lr (1 - mu^k) / (1 - mu) at step k         first v = g, as in sgd.py
    with dampening d   move = lr (mu^(k-1) + (1 - d) (1 - mu^(k-1)) / (1 - mu))
    Nesterov           move = lr (1 + mu pull), pull the second factor of the line for momentum
    Adam, AdamW        move = lr, in the metric D = sqrt(vhat) + eps: w = w - lr mhat / D (metric.py)

Velocities stay as they are, those of dead groups too: at the minimum such a group's velocity is g / (1 - mu), shorter
than the pull. Setting it to 0 in every step would leave only lr g against lr lambda / (1 - mu), and groups would stay
dead as long as ||g|| <= lambda / (1 - mu): from w = 0 a wrong optimum, from a random start nothing to be seen.
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.optim import SGD, Adam


class Pull:
    """The moves of one optimizer's parameter groups, followed step by step through changing rates and momenta."""

    def __init__(self):
        self._built: dict[int, float] = {}
        self._step = -1

    def __call__(self, optimizer, parameters: dict) -> list[float]:
        """The move of each of the parameters {name: Parameter} in the step that `optimizer` has just made."""
        if not isinstance(optimizer, SGD | Adam):
            raise InputError(
                f"no proximal step is known behind {type(optimizer).__name__}: take SGD, Adam or AdamW, or "
                "rule='published', whose subgradient goes through any optimizer"
            )
        k = optimizer.steps
        if k < 1:
            raise InputError("prox_ comes after optimizer.step(): this optimizer has made 0 steps")
        group_of = {id(p): n for n, group in enumerate(optimizer.groups) for p in group["params"]}
        foreign = [name for name, p in parameters.items() if id(p) not in group_of]
        if foreign:
            raise InputError(f"{', '.join(foreign)} of the penalty is not stepped by this optimizer: give it the same")
        moves = [self._move(n, group, k, isinstance(optimizer, Adam)) for n, group in enumerate(optimizer.groups)]
        self._step = k
        return [moves[group_of[id(p)]] for p in parameters.values()]

    def _move(self, n, group, k, adam) -> float:
        if adam:
            return group["lr"]
        mu, caffe = group["momentum"], group["form"] == "caffe"  # Caffe's rate is inside the velocity
        g, damped = group["lr"] if caffe else 1.0, 1 - group["dampening"]
        if k == self._step + 1 and n in self._built:
            self._built[n] = mu * self._built[n] + damped * g
        elif k != self._step:  # the first call, or steps in between without a proximal one: as if lr had been constant
            before = mu ** (k - 1)
            self._built[n] = g * (before + damped * (1 - before) / (1 - mu))
        move = g + mu * self._built[n] if group["nesterov"] else self._built[n] if mu else g
        return move if caffe else group["lr"] * move


def metrics(optimizer: Adam, parameters: dict) -> list[np.ndarray]:
    """Adam's D = sqrt(vhat) + eps of each parameter, as in the step it has just made."""
    found = {}
    k = 0
    for group in optimizer.groups:
        for p in group["params"]:
            state = optimizer.state[k]
            if "v" in state:
                bias = (1 - group["betas"][1] ** int(state["t"])) ** 0.5
                found[id(p)] = np.sqrt(state["v"]) / bias + group["eps"]
            k += 1
    unmoved = [name for name, p in parameters.items() if id(p) not in found]
    if unmoved:
        raise InputError(f"{', '.join(unmoved)} never had a gradient, so Adam has no scale for it: leave it out")
    return [found[id(p)] for p in parameters.values()]
