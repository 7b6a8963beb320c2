"""Average pooling: the mean of each window.

    x: (N, C, H, W) -> y: (N, C, P, Q)
    y[n,c,p,q] = 1/m[p,q] sum_{k,l} x[n, c, p*stride + k - padding, q*stride + l - padding]

m counts the pixels of the window: those of the image and of its padding (zeros), or of the image alone with
count_include_pad=False. What a last window has beyond the padding (ceil_mode) never counts. As in PyTorch.
Backwards every pixel of a window receives g / m.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.layers.conv import _window
from minidl.layers.module import Module
from minidl.layers.pool import by_window, check_window, edges, pooled_size
from minidl.tensor import Op, Tensor


def counts(size, kernel, stride, padding, ceil_mode, count_include_pad):
    """How many pixels count in each window along one axis: (P,) integers. m is the product over both axes."""
    start = np.arange(pooled_size(size, kernel, stride, padding, ceil_mode)) * stride - padding
    if count_include_pad:
        return np.minimum(start + kernel, size + padding) - start
    return np.minimum(start + kernel, size) - np.maximum(start, 0)


def shares(x, kernel, stride, padding, ceil_mode, count_include_pad):
    """1 / m for every window: (P, Q), in x's dtype."""
    p, q = (counts(size, kernel, stride, padding, ceil_mode, count_include_pad) for size in x.shape[2:])
    return (1 / np.multiply.outer(p, q)).astype(x.dtype)


@twin
def mean_of_windows(x, share, kernel, stride, padding):
    """share times the sum of every window.  x: (N, C, H, W), share: (P, Q) -> y: (N, C, P, Q)."""
    p, q = share.shape
    image = np.pad(x, edges(x.shape, (p, q), kernel, stride, padding))
    y = np.zeros((*x.shape[:2], p, q), x.dtype)
    for k in range(kernel):
        for l in range(kernel):
            y += image[:, :, _window(k, p, stride, 1), _window(l, q, stride, 1)]
    return y * share


@twin
def spread_to_windows(g, share, shape, kernel, stride, padding):
    """The transpose of mean_of_windows: add share * g to every pixel of the window.

    g: (N, C, P, Q), share: (P, Q) -> x: shape (N, C, H, W).
    """
    n, c, h, w = shape
    _, _, (above, below), (left, right) = edges(shape, share.shape, kernel, stride, padding)
    image = np.zeros((n, c, above + h + below, left + w + right), g.dtype)
    part = g * share
    for k in range(kernel):
        for l in range(kernel):
            image[:, :, _window(k, g.shape[2], stride, 1), _window(l, g.shape[3], stride, 1)] += part
    return image[:, :, above : above + h, left : left + w]


def _forward(x, *, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    check_window("avg_pool2d", x, kernel, padding)
    share = shares(x, kernel, stride, padding, ceil_mode, count_include_pad)
    return mean_of_windows(x, share, kernel, stride, padding), share


def _backward(g, out, share, needs, x, *, kernel, stride, padding=0, ceil_mode=False, count_include_pad=True):
    return (spread_to_windows(g, share, x.shape, kernel, stride, padding),)


def _composed(x, *, kernel, stride, padding=0, ceil_mode=False, count_include_pad=True):
    share = shares(x, kernel, stride, padding, ceil_mode, count_include_pad)
    p, q = share.shape
    image, y = np.pad(x, edges(x.shape, (p, q), kernel, stride, padding)), 0.0
    for k in range(kernel):
        for l in range(kernel):
            y = y + image[:, :, _window(k, p, stride, 1), _window(l, q, stride, 1)]
    return y * share


def _axes(u, shape, x, **kwargs):
    return (x[0], x[1], u.pinned(shape[2]), u.pinned(shape[3]))


avg_pool2d = Op(
    "avg_pool2d", "mean over each window", forward=_forward, backward=_backward, composed=_composed, axes=_axes,
    arrays=by_window("avg_pool2d", _forward),
)  # fmt: skip


class AvgPool2d(Module):
    """Average pooling over kernel x kernel windows; stride defaults to the kernel. x: (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, *, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):  # fmt: skip
        self.options = dict(
            kernel=kernel_size, stride=stride or kernel_size, padding=padding, ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.options.items())
