"""Max-pooling: the largest value of each window.

    x: (N, C, H, W) -> y: (N, C, P, Q);  y[n,c,p,q] = max_{k,l} x[n, c, p*stride + k - padding, q*stride + l - padding]

Padding is -infinity, so that it never wins. The gradient goes to the position that won; among equals the first in
reading order, as in PyTorch. The composed form uses the same winners: it differs only in how they are looked up.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import ShapeError
from minidl.layers.conv import _window, output_size
from minidl.layers.module import Module
from minidl.tensor import Op, Tensor


@twin
def max_of_windows(x, kernel, stride, padding):
    """(largest value, its position k * kernel + l in the window) of every window.

    x: (N, C, H, W) -> values: (N, C, P, Q), winner: (N, C, P, Q) uint8.
    """
    p, q = (output_size(size, kernel, stride, padding) for size in x.shape[2:])
    edge = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    image = np.pad(x, edge, constant_values=-np.inf) if padding else x
    values = image[:, :, _window(0, p, stride, 1), _window(0, q, stride, 1)].copy()
    inside = [np.maximum(0, padding - stride * np.arange(count)) for count in (p, q)]  # first position in the image:
    winner = np.broadcast_to(inside[0][:, None] * kernel + inside[1], values.shape).astype(np.uint8)  # -inf may win
    for position in range(1, kernel * kernel):
        k, l = divmod(position, kernel)
        candidate = image[:, :, _window(k, p, stride, 1), _window(l, q, stride, 1)]
        better = (candidate > values) | np.isnan(candidate)  # NaN wins, so that it is seen at the end
        winner[better] = position
        values = np.where(better, candidate, values)
    return values, winner


@twin
def scatter_to_winners(g, winner, shape, kernel, stride, padding):
    """The transpose of max_of_windows: add every g to the pixel that won its window.

    g, winner: (N, C, P, Q) -> x: shape (N, C, H, W).
    """
    n, c, h, w = shape
    image = np.zeros((n, c, h + 2 * padding, w + 2 * padding), g.dtype)
    for position in range(kernel * kernel):
        k, l = divmod(position, kernel)
        hit = np.where(winner == position, g, 0)
        image[:, :, _window(k, g.shape[2], stride, 1), _window(l, g.shape[3], stride, 1)] += hit
    return image[:, :, padding : h + padding, padding : w + padding]


def _forward(x, *, kernel, stride, padding=0):
    if kernel > 15 or padding > kernel // 2:
        raise ShapeError(f"max_pool2d: kernel {kernel} must be at most 15 and padding {padding} at most half of it")
    return max_of_windows(x, kernel, stride, padding)


def _backward(g, out, winner, needs, x, *, kernel, stride, padding=0):
    return (scatter_to_winners(g, winner, x.shape, kernel, stride, padding),)


def _composed(x, *, kernel, stride, padding=0):
    n, c, h, w = x.shape
    winner = max_of_windows.numpy(x.data, kernel, stride, padding)[1].astype(int)
    p, q = np.arange(winner.shape[2])[:, None], np.arange(winner.shape[3])
    rows, columns = p * stride + winner // kernel - padding, q * stride + winner % kernel - padding
    return x[np.arange(n)[:, None, None, None], np.arange(c)[:, None, None], rows, columns]


def _axes(u, shape, x, **kwargs):
    return (x[0], x[1], u.pinned(shape[2]), u.pinned(shape[3]))


max_pool2d = Op(
    "max_pool2d", "max over each window", forward=_forward, backward=_backward, composed=_composed, axes=_axes
)  # fmt: skip


class MaxPool2d(Module):
    """Max-pooling over kernel x kernel windows; stride defaults to the kernel. x: (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0):
        self.options = dict(kernel=kernel_size, stride=stride or kernel_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.options.items())
