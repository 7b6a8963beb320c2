"""Cross-entropy: how surprised the network is by the right answer.

    logits: (B, V)   labels: (B,) integers
    L_b = -log softmax(z_b)[y_b] = logsumexp(z_b) - z_b[y_b]
    dL_b/dz_b = softmax(z_b) - onehot(y_b)

Class weights w and smoothing e:  L_b = (1 - e) w[y_b] (-log p_b[y_b]) + e/V sum_v w[v] (-log p_b[v]),  p = softmax(z).
"""

from __future__ import annotations

import numpy as np

from minidl.activations import log_softmax, softmax  # noqa: F401  PyTorch users look for them here
from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.tensor import Op, Tensor


def _composed(logits, labels):
    return logits.logsumexp(1) - logits[np.arange(len(labels)), labels]


@twin
def exponentials(logits):
    """(largest, exp(logits - largest), their sum) of every row.  logits: (B, V) -> (B, 1), (B, V), (B, 1)."""
    top = logits.max(axis=1, keepdims=True)
    exps = np.exp(logits - top)
    return top, exps, exps.sum(axis=1, keepdims=True)


@twin
def scaled_rows(rows, scale):
    """rows: (B, V), each times its number in scale: (B,)."""
    return rows * scale[:, None]


def _forward(logits, labels):
    top, exps, total = exponentials(logits)
    picked = logits[np.arange(len(labels)), labels]
    return np.log(total[:, 0]) + top[:, 0] - picked, (exps, total)


def _backward(g, out, saved, needs, logits, labels):
    exps, total = saved
    dlogits = scaled_rows(exps, g / total[:, 0])
    dlogits[np.arange(len(labels)), labels] -= g
    return dlogits, None


def _axes(u, shape, logits, labels):
    u.pin(logits[1])  # the softmax adds over all classes: none can go
    return (logits[0],)


softmax_cross_entropy = Op(
    "softmax_cross_entropy", "logsumexp(z) - z[label]", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes,
)  # fmt: skip


def cross_entropy(
    logits: Tensor, labels, weight=None, *, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Softmax cross-entropy in nats: "mean" (by the weights of the rows that count), "sum", or per row ("none").

    logits: (B, V) or (B, V, ...), labels: (B,) or (B, ...) integers in 0..V-1, or probabilities of the logits' shape;
    weight: (V,). A row labelled ignore_index counts nothing. Raises ShapeError, InputError.
    """
    labels = np.asarray(labels.data if isinstance(labels, Tensor) else labels)
    if labels.dtype.kind == "f" or logits.ndim != 2 or labels.shape != logits.shape[:1]:
        return _general(logits, labels, weight, ignore_index, reduction, label_smoothing)
    classes, keep = logits.shape[1], None
    least = labels.min() if labels.size else 0
    if ignore_index >= 0 or least < 0:
        keep = labels != ignore_index
        labels = np.where(keep, labels, 0)
        least = labels.min() if labels.size else 0
    if labels.size and not (0 <= least and labels.max() < classes):
        raise InputError(f"labels run from {labels.min()} to {labels.max()}, the logits have {classes} classes")
    rows = softmax_cross_entropy(logits, labels)
    if weight is None and keep is None and not label_smoothing:
        return reduced(rows, reduction)
    w = np.ones(classes, logits.dtype) if weight is None else np.asarray(getattr(weight, "data", weight))
    if w.shape != (classes,):
        raise ShapeError(f"cross_entropy: the weight has shape {w.shape}, the logits {classes} classes")
    of_row = w[labels] if keep is None else w[labels] * keep
    rows = rows * of_row.astype(logits.dtype)
    if label_smoothing:
        every = logits.logsumexp(1) * float(w.sum()) - logits @ w.astype(logits.dtype)
        every = every if keep is None else every * keep.astype(logits.dtype)
        rows = rows * (1 - label_smoothing) + every * (label_smoothing / classes)
    return reduced(rows, reduction, float(of_row.sum()))


def _general(logits, labels, weight, ignore_index, reduction, label_smoothing):
    """Probabilities instead of labels, or classes on axis 1 of more axes."""
    if labels.dtype.kind == "f":
        if labels.shape != logits.shape or logits.ndim < 2:
            raise ShapeError(f"cross_entropy: probabilities {labels.shape} and logits {logits.shape} must be alike")
        p = labels * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        if weight is not None:
            p = p * np.asarray(weight).reshape(-1, *(1,) * (logits.ndim - 2))
        rows = -(logits.log_softmax(1) * p.astype(logits.dtype)).sum(1)
        return reduced(rows, reduction, rows.numel() / max(1, np.prod(rows.shape[1:])) if rows.ndim > 1 else None)
    if logits.ndim < 3 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ShapeError(
            f"cross_entropy takes logits (B, V) and labels (B,), or (B, V, ...) and (B, ...); "
            f"got {logits.shape} and {labels.shape}"
        )
    flat = logits.permute(0, *range(2, logits.ndim), 1).reshape(-1, logits.shape[1])
    options = dict(ignore_index=ignore_index, label_smoothing=label_smoothing)
    rows = cross_entropy(flat, labels.reshape(-1), weight, reduction=reduction, **options)  # type: ignore[arg-type]
    return rows.reshape(labels.shape) if reduction == "none" else rows


def reduced(rows, reduction: str, count: float | None = None):
    """The mean of rows (their sum over count, where that is given), their sum, or the rows themselves."""
    if reduction == "mean":
        return np.mean(rows) if count is None else np.sum(rows) * (1 / count if count else float("nan"))
    if reduction not in ("sum", "none"):
        raise InputError(f"reduction is {reduction!r}; it is 'mean', 'sum' or 'none'")
    return np.sum(rows) if reduction == "sum" else rows
