"""Cross-entropy: how surprised the network is by the right answer.

    logits: (B, V)   labels: (B,) integers
    L_b = -log softmax(z_b)[y_b] = logsumexp(z_b) - z_b[y_b]
    dL_b/dz_b = softmax(z_b) - onehot(y_b)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError, ShapeError
from minidl.tensor import Op, Tensor


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """x - logsumexp(x) along dim."""
    return x - x.logsumexp(dim, keepdim=True)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along dim."""
    return log_softmax(x, dim).exp()


def _composed(logits, labels):
    return logits.logsumexp(1) - logits[np.arange(len(labels)), labels]


def _forward(logits, labels):
    top = logits.max(axis=1, keepdims=True)
    exps = np.exp(logits - top)
    total = exps.sum(axis=1, keepdims=True)
    picked = logits[np.arange(len(labels)), labels]
    return np.log(total[:, 0]) + top[:, 0] - picked, (exps, total)


def _backward(g, out, saved, needs, logits, labels):
    exps, total = saved
    dlogits = exps * (g[:, None] / total)
    dlogits[np.arange(len(labels)), labels] -= g
    return dlogits, None


def _axes(u, shape, logits, labels):
    u.pin(logits[1])  # the softmax adds over all classes: none can go
    return (logits[0],)


softmax_cross_entropy = Op(
    "softmax_cross_entropy", "logsumexp(z) - z[label]", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes,
)  # fmt: skip


def cross_entropy(logits: Tensor, labels, reduction: str = "mean") -> Tensor:
    """Softmax cross-entropy in nats, averaged over the batch ("mean"), added ("sum") or per row ("none").

    logits: (B, V), labels: (B,) integers in 0..V-1. Raises ShapeError, InputError.
    """
    labels = np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(f"cross_entropy takes logits (B, V) and labels (B,); got {logits.shape} and {labels.shape}")
    if labels.size and not (0 <= labels.min() and labels.max() < logits.shape[1]):
        raise InputError(f"labels run from {labels.min()} to {labels.max()}, the logits have {logits.shape[1]} classes")
    rows = softmax_cross_entropy(logits, labels)
    if reduction == "none":
        return rows
    return rows.mean() if reduction == "mean" else rows.sum()
