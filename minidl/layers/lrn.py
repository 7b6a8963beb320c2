"""Local response normalisation: a loud pixel quietens its neighbours.

    s = k + alpha/m sum of x^2 over the window      y = x s^(-beta)
    across channels: the window is `size` channels around c at one pixel, m = size           (AlexNet; PyTorch's)
    within channels: size x size pixels of one channel, m = size^2                           (Caffe's WITHIN_CHANNEL)

What lies outside counts as 0 and is part of m. With W^T the transpose of the windowed sum:

    dL/dx = g s^(-beta) - 2 alpha beta / m * x * W^T(g y / s)

PyTorch's defaults: alpha 1e-4, beta 0.75, k 1. Caffe's: alpha 1, beta 0.75, k 1. AlexNet in Caffe: size 5, alpha 1e-4.
The paper's formula has no 1/m, and k 2. (Krizhevsky, Sutskever and Hinton 2012)
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.layers.module import Module
from minidl.tensor import Op, Tensor


def window_sums(a, size, within, before):
    """Sums over windows that reach `before` places back, of arrays or Tensors. a: (N, C, H, W), the same shape."""
    for axis in (2, 3) if within else (1,):
        width = [(0, 0)] * 4
        width[axis] = (before, size - 1 - before)
        padded, n, total = np.pad(a, width), a.shape[axis], 0.0
        for k in range(size):
            total = total + padded[(slice(None),) * axis + (slice(k, k + n),)]
        a = total
    return a


@twin
def lrn_forward(x, size, alpha, beta, k, within):
    """(y, s).  x: (N, C, H, W) -> two of its shape."""
    s = k + alpha / size ** (1 + within) * window_sums(x * x, size, within, size // 2)
    return x * s**-beta, s


@twin
def lrn_backward(g, x, y, s, size, alpha, beta, within):
    """dL/dx.  All arrays: (N, C, H, W)."""
    back = window_sums(g * y / s, size, within, (size - 1) // 2)  # the transpose reaches as far forward as W back
    return g * s**-beta - (2 * alpha * beta / size ** (1 + within)) * x * back


def _forward(x, *, size, alpha=1e-4, beta=0.75, k=1.0, within=False):
    if x.ndim != 4:
        raise ShapeError(f"local_response_norm: x has shape {x.shape}; it must be (N, C, H, W)")
    return lrn_forward(x, size, alpha, beta, k, within)


def _backward(g, out, s, needs, x, *, size, alpha=1e-4, beta=0.75, k=1.0, within=False):
    return (lrn_backward(g, x, out, s, size, alpha, beta, within),)


def _composed(x, *, size, alpha=1e-4, beta=0.75, k=1.0, within=False):
    s = k + alpha / size ** (1 + within) * window_sums(x * x, size, within, size // 2)
    return x * s**-beta


def _axes(u, shape, x, *, within=False, **kwargs):
    if within:  # a channel sees itself alone, but every pixel its neighbours
        return (x[0], x[1], u.pinned(shape[2]), u.pinned(shape[3]))
    u.pin(x[1])  # without a channel its neighbours' windows would hold others
    return x


local_response_norm = Op(
    "local_response_norm", "x (k + alpha/m sum of x^2 over the window)^(-beta)", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes,
)  # fmt: skip


class LocalResponseNorm(Module):
    """Local response normalisation across channels with PyTorch's defaults; with within=True, Caffe's within channels.

    x: (N, C, H, W) -> y of the same shape.
    """

    def __init__(self, size: int, alpha=1e-4, beta=0.75, k=1.0, *, within: bool = False):
        if size < 1 or (within and size % 2 == 0):
            raise InputError(f"local_response_norm: a window of {size}; it must be at least 1, within channels odd")
        self.options = dict(size=size, alpha=float(alpha), beta=float(beta), k=float(k), within=within)

    def forward(self, x: Tensor) -> Tensor:
        return local_response_norm(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.options.items())
