"""SmoothOut: take the gradient at weights moved by fresh noise, and step from the weights themselves.

    theta ~ U(-a, a), elementwise             a new draw for every minibatch (or part of one)
    g = grad L(w + theta)                     forward and backward at the moved weights
    w = w - lr g                              the noise is gone again before the step

The mean of g over theta is the gradient of L_a(w) = E[L(w + theta)]: the loss seen through a box of width 2a. A valley
narrower than the box fills up, a wide one stays; so descent leaves sharp minima and rests in flat ones:

    L_a(w) = L(w) + a^2/6 trace(Hessian) + ...        cos(k w) becomes cos(k w) sin(k a) / (k a): a low-pass filter

Two other draws scale with the weights (AdaSmoothOut), u ~ U(-1, 1):

    kind="filter":  theta_f = u_f / (||u_f|| + 1e-6) ||w_f|| a       f: one row of the first axis; one element of a bias
    kind="weight":  theta = u |w| a

BatchNorm's gamma and beta get no noise. Its running statistics see the moved weights, as in the published code;
`renew_statistics` takes them again at w.

Source: Wen et al., "SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep Learning", 2018,
arXiv:1805.07898, and its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from minidl.errors import InputError, MinidlError
from minidl.layers import BatchNorm1d, BatchNorm2d, Module, Parameter
from minidl.tensor import Tensor, no_grad

KINDS = ("uniform", "filter", "weight")


@contextmanager
def smoothout(
    model: Module, *, a: float, rng: np.random.Generator, kind: str = "uniform", keep_zeros: bool = False
) -> Iterator[None]:
    """Inside the block every parameter but BatchNorm's is w + theta, theta drawn afresh; afterwards it is w again.

        with smoothout(model, a=0.01, rng=rng):
            cross_entropy(model(x), y).backward()
        optimizer.step()                                  # outside: from w, with the gradient at w + theta

    a: the noise's largest size, in the unit of the weights ("uniform") or relative to them ("filter", "weight").
    kind: see above. keep_zeros: weights that are exactly 0 stay 0, so that pruned ones stay pruned.
    The old arrays themselves come back, bit for bit, also when the block raises. A step taken inside the block would
    be lost with the noise: that raises MinidlError. Raises InputError for an unknown kind, or a negative or nan a.
    """
    named = noisy_parameters(model)
    params = [p for _, p in named]
    moved = [p.data + noise(p.data, a, rng, kind, keep_zeros) for p in params]
    with replaced(params, moved):
        yield
        lost = [name for (name, p), array in zip(named, moved, strict=True) if p.data is not array]
    if lost:
        raise MinidlError(
            f"{len(lost)} of {len(named)} parameters ({lost[0]}, ...) were changed inside the smoothout block and the "
            "change was lost with the noise: call optimizer.step() after the block"
        )


def noise(
    w: np.ndarray, a: float, rng: np.random.Generator, kind: str = "uniform", keep_zeros: bool = False
) -> np.ndarray:
    """One draw of theta for one parameter: an array of w's shape and dtype. Arguments and errors as in `smoothout`.

    Only for "uniform" is the gradient at w + theta exactly unbiased for the smoothed loss: the other two noises move
    with w, and the published method, like this one, does not differentiate through them.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if not (a >= 0 and math.isfinite(a)):
        raise InputError(f"a = {a} is not a size of noise: give a finite number, 0 or above")
    theta = rng.random(w.shape, w.dtype)
    theta *= 2
    theta -= 1  # u ~ U(-1, 1)
    if kind == "weight":
        theta *= np.abs(w)
    if kind == "filter":
        u, filters = (x.reshape(*w.shape[:1], -1) for x in (theta, w))
        u *= np.linalg.norm(filters, axis=-1, keepdims=True) / (np.linalg.norm(u, axis=-1, keepdims=True) + 1e-6)
    theta *= a
    return theta * (w != 0) if keep_zeros else theta


def noisy_parameters(model: Module) -> list[tuple[str, Parameter]]:
    """(name, Parameter) of everything that gets noise: all but BatchNorm's gamma and beta, shared ones once."""
    norms = [m for m in model.modules() if isinstance(m, (BatchNorm1d, BatchNorm2d))]
    still = {id(p) for m in norms for p in (m.weight, m.bias)}
    return [(name, p) for name, p in model.named_parameters() if id(p) not in still]


@contextmanager
def replaced(params: list[Parameter], arrays: list[np.ndarray]) -> Iterator[None]:
    """Inside the block each parameter holds its array of `arrays`; afterwards the array object it held before.

    Nothing is added and subtracted again: (w + theta) - theta is not w in floating point.
    """
    before = [p.data for p in params]
    try:
        for p, array in zip(params, arrays, strict=True):
            p.data = array
        yield
    finally:
        for p, w in zip(params, before, strict=True):
            p.data = w


def renew_statistics(model: Module, inputs: Iterable[np.ndarray]) -> None:
    """Replace BatchNorm's running statistics by their plain mean over `inputs`, minibatches (N, ...), at the weights w.

    mean_k = (1 - 1/k) mean_(k-1) + 1/k batch_k: the running rule with momentum 1/k.
    Training leaves statistics of moved, and of older, weights; a large batch, which renews them seldom, the oldest.
    """
    norms = [m for m in model.modules() if isinstance(m, (BatchNorm1d, BatchNorm2d))]
    before = [(m, m.training) for m in model.modules()], [m.momentum for m in norms]
    model.train()
    try:
        with no_grad():
            for k, x in enumerate(inputs, 1):
                for m in norms:
                    m.momentum = 1 / k
                model(Tensor(x))
    finally:
        for module, training in before[0]:
            module.training = training
        for m, momentum in zip(norms, before[1], strict=True):
            m.momentum = momentum


def steps(
    model: Module, loss: Callable[[], Tensor], *, a: float, rng: np.random.Generator, kind: str = "uniform"
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Walk through one SmoothOut gradient: yields (the talk's name, {parameter: array}) for each intermediate.

    w; theta; w + theta; grad L(w + theta), which is also left in p.grad; and w, restored. loss() -> scalar Tensor.
    The model holds w whenever a step is looked at: the walk may be left at any point.
    """
    named = noisy_parameters(model)
    params = [p for _, p in named]
    yield "w", {name: p.data for name, p in named}
    theta = {name: noise(p.data, a, rng, kind) for name, p in named}
    yield "theta", theta
    moved = {name: p.data + theta[name] for name, p in named}
    yield "w + theta", moved
    for p in model.parameters():
        p.grad = None
    with replaced(params, list(moved.values())):
        loss().backward()
    yield "grad L(w + theta)", {name: p.grad for name, p in named}
    yield "w, restored", {name: p.data for name, p in named}
