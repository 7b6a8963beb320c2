"""Layers and optimizers beside PyTorch: what golden_cases.py does for functions. Stored in golden_layers.npz."""

from __future__ import annotations

from collections.abc import Callable

from golden_cases import Case

from minidl import optim

CASES: dict[str, Case] = {}
FLOAT32: tuple[str, ...] = ()  # these also in float32


def case(name: str, inputs, torch, minidl) -> None:
    CASES[name] = Case(tuple(inputs), torch, minidl)


# -- optimizers: five steps on the same gradients, two groups, the rates changed before the fourth ---------------------
OPTIMIZERS: dict[str, tuple[str, dict, dict]] = {  # what -> (class, options, other options of the second group)
    "SGD": ("SGD", dict(momentum=0.9, weight_decay=0.05), dict(momentum=0.5, weight_decay=0.0)),
    "SGD nesterov and not": ("SGD", dict(momentum=0.8, nesterov=True), dict(nesterov=False, dampening=0.3)),
    "Adam": ("Adam", {}, dict(betas=(0.5, 0.9))),
    "Adam weight decay": ("Adam", dict(weight_decay=0.1), dict(weight_decay=0.01, eps=1e-3)),
    "AdamW": ("AdamW", {}, dict(weight_decay=0.2)),
    "RMSprop": ("RMSprop", {}, dict(alpha=0.9)),
    "RMSprop momentum": ("RMSprop", dict(momentum=0.9, weight_decay=0.1), dict(eps=1e-2)),
    "RMSprop centered": ("RMSprop", dict(centered=True), dict(momentum=0.5)),
}
SECOND = 0.5  # the second group's rate, as a part of the first's

# -- schedules: the rates of the first LONG steps ----------------------------------------------------------------------
LONG = 12
SCHEDULES: dict[str, tuple[Callable, Callable]] = {  # what -> (PyTorch's way to say it, minidl's)
    "constant": (lambda s, o: s.LambdaLR(o, lambda t: 1.0), optim.constant(0.8)),
    "step": (lambda s, o: s.StepLR(o, 3, 0.1), optim.step(0.8, 0.1, 3)),
    "multistep": (lambda s, o: s.MultiStepLR(o, [7, 2, 7], 0.5), optim.multistep(0.8, 0.5, [7, 2, 7])),
    "exponential": (lambda s, o: s.ExponentialLR(o, 0.9), optim.exponential(0.8, 0.9)),
    "poly": (lambda s, o: s.PolynomialLR(o, 9, power=0.5), optim.poly(0.8, 0.5, 9)),
    "cosine": (lambda s, o: s.CosineAnnealingLR(o, 11, eta_min=0.1), optim.cosine(0.8, 11, 0.1)),
    "warm-up": (lambda s, o: s.LinearLR(o, 0.25, 1.0, 4), optim.warm_up(optim.constant(0.8), 4, 0.25)),
    "warm-up of a falling rate": (
        lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.25, 1.0, 4), s.ExponentialLR(o, 0.9)]),
        optim.warm_up(optim.exponential(0.8, 0.9), 4, 0.25),
    ),
    "chained": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.25, 1.0, 4), s.CosineAnnealingLR(o, 8)], [4]),
        optim.chained((0, optim.warm_up(optim.constant(0.8), 4, 0.25)), (4, optim.cosine(0.8, 8))),
    ),
}
