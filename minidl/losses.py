"""Losses: how far a prediction is from its target, with PyTorch's names, meanings and reductions.

    mse_loss                          (x - y)^2
    l1_loss                           |x - y|
    huber_loss                        (x - y)^2 / 2  up to |x - y| = delta, from there on a straight line
    binary_cross_entropy_with_logits  -y log s(x) - (1 - y) log(1 - s(x)),   s = sigmoid
    kl_div                            y (log y - x),        x = log of the predicted probabilities
    nll_loss                          -x[label]             x = log of the predicted probabilities

Each is built from functions of the table and so differentiable twice; reduction is "mean", "sum" or "none" (the
elements). x and y have one shape: (B, 1) beside (B,) would broadcast to (B, B), and is refused. Cross-entropy, the one
with a hand-written backward, is in layers/loss.py.
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError, ShapeError
from minidl.layers.activation import as_module
from minidl.layers.loss import cross_entropy, reduced
from minidl.tensor import Tensor

__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip


def _alike(name, x, y):
    """y in the dtype of x; a Tensor stays the Tensor it is. Raises ShapeError."""
    if np.shape(x) != np.shape(y):
        raise ShapeError(f"{name}: the input has shape {np.shape(x)}, the target {np.shape(y)}; they must be equal")
    return _array(x, y)


def _array(x, y):  # float64 data would turn a float32 loss, and all gradients on their way, into float64
    return y if isinstance(y, Tensor) else np.asarray(y, x.dtype)


def mse_loss(x: Tensor, target, reduction: str = "mean") -> Tensor:
    """(x - target)^2.  x, target: one shape. Raises ShapeError, InputError."""
    target = _alike("mse_loss", x, target)
    return reduced(np.square(x - target), reduction)


def l1_loss(x: Tensor, target, reduction: str = "mean") -> Tensor:
    """|x - target|; the derivative at 0 is 0.  x, target: one shape. Raises ShapeError, InputError."""
    target = _alike("l1_loss", x, target)
    return reduced(abs(x - target), reduction)


def huber_loss(x: Tensor, target, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - target. Raises ShapeError, InputError."""
    target = _alike("huber_loss", x, target)
    if delta <= 0:
        raise InputError(f"huber_loss: delta is {delta}; it must be above 0")
    d = x - target
    far = abs(d)
    return reduced(np.where(far <= delta, np.square(d) * 0.5, (far - 0.5 * delta) * delta), reduction)


def binary_cross_entropy_with_logits(
    x: Tensor, target, weight=None, reduction: str = "mean", pos_weight=None
) -> Tensor:  # fmt: skip
    """(1 - y) x + (1 + (pos_weight - 1) y) log(1 + exp(-x)), y = target: no exponential of a large number.

    x, target: one shape; weight and pos_weight are broadcast to it. Raises ShapeError, InputError.
    """
    target = _alike("binary_cross_entropy_with_logits", x, target)
    softplus = np.logaddexp(-x, 0.0)
    scale = 1.0 if pos_weight is None else target * (_array(x, pos_weight) - 1.0) + 1.0
    rows = x * (1.0 - target) + softplus * scale
    return reduced(rows if weight is None else rows * _array(x, weight), reduction)


def kl_div(x: Tensor, target, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - x), x = log of the predicted probabilities; where the target is 0, 0.

    reduction "batchmean" is the divergence itself: the sum over the batch size; "mean" divides by all elements, as in
    PyTorch. log_target: the target is given as its logarithm. Raises ShapeError, InputError.
    """
    target = _alike("kl_div", x, target)
    if log_target:
        rows = np.exp(target) * (target - x)
    else:
        rows = target * (np.log(np.where(target > 0, target, 1.0)) - x)
    if reduction == "batchmean":
        return np.sum(rows) * (1 / x.shape[0] if x.ndim and x.shape[0] else float("nan"))
    return reduced(rows, reduction)


def nll_loss(x: Tensor, labels, weight=None, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-weight[label] x[label]; "mean" divides by the weights of the labels that count.

    x: (B, V) or (B, V, ...) log-probabilities, labels: (B,) or (B, ...) integers. Raises ShapeError, InputError.
    """
    labels = np.asarray(getattr(labels, "data", labels))
    if x.ndim < 2 or labels.shape != (x.shape[0], *x.shape[2:]):
        raise ShapeError(f"nll_loss takes x (B, V, ...) and labels (B, ...); got {x.shape} and {labels.shape}")
    keep = labels != ignore_index
    labels = np.where(keep, labels, 0)
    if labels.size and not (0 <= labels.min() and labels.max() < x.shape[1]):
        raise InputError(f"labels run from {labels.min()} to {labels.max()}, x has {x.shape[1]} classes")
    of_row = (keep if weight is None else np.asarray(getattr(weight, "data", weight))[labels] * keep).astype(x.dtype)
    rows = x.gather(1, np.expand_dims(labels, 1)).squeeze(1) * -of_row
    return reduced(rows, reduction, float(of_row.sum()))


# nn.HuberLoss(delta=0.5)(x, target) is huber_loss(x, target, delta=0.5)
MSELoss, L1Loss = as_module("MSELoss", mse_loss, 2), as_module("L1Loss", l1_loss, 2)
HuberLoss, KLDivLoss = as_module("HuberLoss", huber_loss, 2), as_module("KLDivLoss", kl_div, 2)
BCEWithLogitsLoss = as_module("BCEWithLogitsLoss", binary_cross_entropy_with_logits, 2)
CrossEntropyLoss, NLLLoss = as_module("CrossEntropyLoss", cross_entropy, 2), as_module("NLLLoss", nll_loss, 2)
