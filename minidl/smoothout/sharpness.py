"""How sharp is a minimum: the worst loss in a small box around the weights, and the mean loss under noise.

    sharpness = 100 (max over x in the box of f(x) - f(w)) / (1 + f(w))      box: |x_i - w_i| <= eps (|w_i| + 1)

f is the mean loss over given examples, the model in evaluation mode, all parameters moved, BatchNorm's gamma and beta
too. The maximum is sought by ten iterations of L-BFGS-B, a local method: it finds *a* high point, a lower bound of the
maximum, and does so in the same way for every model that is compared.

    smoothing(a) = E[f(w + theta)] - f(w),  theta ~ U(-a, a)                 about a^2/6 trace(Hessian) for small a

Source: Keskar et al., "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", ICLR 2017,
Metric 2.1 with A = I; eps and iterations as in SmoothOut's measure_sharpness.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from minidl.errors import InputError, MinidlError, MissingExtra, ShapeError
from minidl.layers import Module, cross_entropy
from minidl.smoothout.smoothout import replaced, smoothout
from minidl.tensor import Tensor, grad, no_grad


def sharpness(
    model: Module,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float = 5e-4,
    iterations: int = 10,
    start: str = "w",
    rng: np.random.Generator | None = None,
    loss: Callable = cross_entropy,
    batch: int = 500,
) -> float:
    """Keskar's sharpness of the mean loss at the model's weights, in per cent of 1 + f(w); never negative.

    start: where the search begins. "w", as published: it cannot move where the gradient is exactly 0, and a
        stationary point then scores 0 however sharp it is. "random": anywhere in the box, drawn from rng.
    x: (N, ...), y: (N, ...): the examples f averages over; loss(model(x), y) -> the mean over a minibatch.
    The model is as before afterwards, and no .grad is touched. Raises InputError for an unknown start or a missing
    rng, MissingExtra without SciPy, MinidlError if the loss is not finite.
    """
    if start not in ("w", "random") or (start == "random" and rng is None):
        raise InputError(f"start={start!r} with rng={rng}: give start='w', or start='random' and a Generator")
    try:
        from scipy.optimize import Bounds, minimize
    except ImportError as error:
        raise MissingExtra("sharpness needs SciPy for L-BFGS-B: pip install 'minidl[jit]'") from error
    params = model.parameters()
    w = np.concatenate([p.data.ravel() for p in params]).astype(np.float64)
    ends = np.cumsum([p.data.size for p in params])[:-1]

    def negative(flat):
        arrays = [part.reshape(p.shape).astype(p.dtype) for part, p in zip(np.split(flat, ends), params, strict=True)]
        with replaced(params, arrays):
            value, gradients = mean_loss_and_gradient(model, x, y, loss=loss, batch=batch)
        return -value, -np.concatenate([g.ravel() for g in gradients]).astype(np.float64)

    at_w = mean_loss(model, x, y, loss=loss, batch=batch)
    reach = eps * (np.abs(w) + 1)
    first = w if start == "w" or rng is None else w + reach * rng.uniform(-1, 1, w.size)
    found = minimize(
        negative, first, jac=True, method="L-BFGS-B", bounds=Bounds(w - reach, w + reach),
        options={"maxiter": iterations},
    )  # fmt: skip
    highest = max(-float(found.fun), at_w)  # w itself is in the box
    if not np.isfinite(highest):
        raise MinidlError(f"the loss in the box of eps = {eps:g} is {highest} (at the weights {at_w:g}); lower eps")
    return 100 * (highest - at_w) / (1 + at_w)


def smoothing(
    model: Module,
    x: np.ndarray,
    y: np.ndarray,
    *,
    a: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    kind: str = "uniform",
    loss: Callable = cross_entropy,
    batch: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """The curve E[f(w + theta)] - f(w) over the noise a, by `draws` draws: (mean, its standard error), each (len(a),).

    Every a sees the same directions, only scaled: the curve is smooth although each of its points is a random mean.
    Arguments as in `sharpness` and `smoothout`, errors too; draws: at least 2. Unit: the loss's.
    """
    if draws < 2:
        raise InputError(f"draws = {draws} gives no standard error; take 2 or more")
    at_w = mean_loss(model, x, y, loss=loss, batch=batch)
    seeds = rng.integers(2**63, size=draws)
    rises = np.empty((len(a), draws))
    for i, size in enumerate(a):
        for j, seed in enumerate(seeds):
            with smoothout(model, a=size, rng=np.random.default_rng(seed), kind=kind):
                rises[i, j] = mean_loss(model, x, y, loss=loss, batch=batch) - at_w
    return rises.mean(1), rises.std(1, ddof=1) / draws**0.5


def mean_loss(
    model: Module, x: np.ndarray, y: np.ndarray, *, loss: Callable = cross_entropy, batch: int = 500
) -> float:
    """f(w): the mean of loss(model(x), y) over all examples, in evaluation mode, every example with the same weight."""
    with evaluating(model), no_grad():
        return sum(loss(model(rows), labels).item() * share for rows, labels, share in _minibatches(x, y, batch))


def mean_loss_and_gradient(
    model: Module, x: np.ndarray, y: np.ndarray, *, loss: Callable = cross_entropy, batch: int = 500
) -> tuple[float, list[np.ndarray]]:
    """f(w) as in `mean_loss` and its gradient, one array per parameter; .grad is not touched."""
    params = model.parameters()
    total, sums = 0.0, [np.zeros_like(p.data) for p in params]
    with evaluating(model):
        for rows, labels, share in _minibatches(x, y, batch):
            value = loss(model(rows), labels)
            total += value.item() * share
            for own, g in zip(sums, grad(value, params), strict=True):
                own += g * share
    return total, sums


def _minibatches(x, y, batch):
    """(inputs, labels, share of all examples): a shorter last minibatch counts for less."""
    if len(x) != len(y) or not len(x):
        raise ShapeError(f"x holds {len(x)} examples and y {len(y)}; give the same number of each, at least 1")
    for at in range(0, len(x), batch):
        rows = x[at : at + batch]
        yield Tensor(rows) if rows.dtype.kind == "f" else rows, y[at : at + batch], len(rows) / len(x)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Evaluation mode inside the block: no dropout, BatchNorm's running statistics used and left alone."""
    before = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for m, training in before:
            m.training = training
