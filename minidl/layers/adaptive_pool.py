"""Adaptive pooling: say the output's size, and the windows follow.

    x: (N, C, H, W) -> y: (N, C, P, Q);  window p of P covers rows floor(p H / P) up to ceil((p + 1) H / P) of H

Windows differ in size by one where P does not divide H, and may overlap by one. P = Q = 1 is global pooling. The mean
needs no kernel of its own: it is made of small ops. The maximum gives its gradient to the winner, the first of equals.
"""

from __future__ import annotations

import numpy as np

from minidl import rules
from minidl.errors import ShapeError
from minidl.layers.conv import pair
from minidl.layers.module import Module
from minidl.tensor import Op, Tensor


def spans(size: int, parts: int) -> list[tuple[int, int]]:
    """(first, one past the last) of every window along one axis."""
    return [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]


def _check(name, x, size) -> None:
    if x.ndim != 4 or 0 in x.shape[2:] or min(size) < 1:
        raise ShapeError(f"{name}: x has shape {x.shape}, the output {size}; they must be (N, C, H, W) and (P, Q)")


def adaptive_avg_pool2d(x: Tensor, output_size) -> Tensor:
    """The mean over windows of equal share.  x: (N, C, H, W) -> (N, C, *output_size)."""
    size = pair(output_size)
    _check("adaptive_avg_pool2d", x, size)
    n, c, h, w = x.shape
    p, q = size
    if size == (1, 1):
        return x.mean((2, 3), keepdim=True)
    if h % p == 0 and w % q == 0:
        return x.reshape(n, c, p, h // p, q, w // q).mean((3, 5))
    x = rules.stack(*(x[:, :, a:b].mean(2) for a, b in spans(h, p)), axis=2)
    return rules.stack(*(x[:, :, :, a:b].mean(3) for a, b in spans(w, q)), axis=3)


def winners(x, size):
    """The place row * W + column of the largest value of every window: (N, C, P, Q) integers."""
    n, c, h, w = x.shape
    found = np.empty((n, c, *size), np.int64)
    for i, (top, bottom) in enumerate(spans(h, size[0])):
        for j, (left, right) in enumerate(spans(w, size[1])):
            window = x[:, :, top:bottom, left:right].reshape(n, c, (bottom - top) * (right - left))
            row, column = np.divmod(window.argmax(2), right - left)
            found[:, :, i, j] = (top + row) * w + left + column
    return found


def _forward(x, *, output_size):
    size = pair(output_size)
    _check("adaptive_max_pool2d", x, size)
    winner = winners(x, size)
    flat = x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])
    return np.take_along_axis(flat, winner.reshape(*x.shape[:2], size[0] * size[1]), 2).reshape(winner.shape), winner


def _backward(g, out, winner, needs, x, *, output_size):
    n, c, h, w = x.shape
    dx = np.zeros((n, c, h * w), g.dtype)
    count = winner.shape[2] * winner.shape[3]
    images, channels = np.arange(n)[:, None, None], np.arange(c)[:, None]
    np.add.at(dx, (images, channels, winner.reshape(n, c, count)), g.reshape(n, c, count))  # windows may share a winner
    return (dx.reshape(x.shape),)


def _composed(x, *, output_size):
    n, c, h, w = x.shape
    winner = winners(x.data, pair(output_size))
    return x[np.arange(n)[:, None, None, None], np.arange(c)[:, None, None], winner // w, winner % w]


def _axes(u, shape, x, **kwargs):
    return (x[0], x[1], u.pinned(shape[2]), u.pinned(shape[3]))


adaptive_max_pool2d = Op(
    "adaptive_max_pool2d", "max over windows of equal share", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes,
)  # fmt: skip


class AdaptiveAvgPool2d(Module):
    """Average pooling to a given size, an int or (P, Q). x: (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(self, output_size):
        self.output_size = pair(output_size)

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return str(self.output_size)


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """Max-pooling to a given size, an int or (P, Q). x: (N, C, H, W) -> (N, C, P, Q)."""

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_max_pool2d(x, output_size=self.output_size)
