"""Max-pooling: the largest value of each window.

    x: (N, C, H, W) -> y: (N, C, P, Q);  y[n,c,p,q] = max_{k,l} x[n, c, p*stride + k - padding, q*stride + l - padding]

Padding is -infinity, so that it never wins. The gradient goes to the position that won; among equals the first in
reading order, as in PyTorch. The composed form uses the same winners: it differs only in how they are looked up.

Along an axis there are (size + 2 padding - kernel) / stride + 1 windows, rounded down; with ceil_mode rounded up, but
no window starts beyond the image and its left padding.
"""

from __future__ import annotations

import numpy as np

from minidl.arguments import by_position
from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.layers.conv import _window, output_size
from minidl.layers.module import Module
from minidl.tensor import Op, Tensor


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool = False) -> int:
    """How many pooling windows lie along one axis."""
    if not ceil_mode or size + 2 * padding + stride <= kernel:  # where not even that fits, the error says so
        return output_size(size, kernel, stride, padding)
    out = output_size(size + stride - 1, kernel, stride, padding)
    return out - 1 if (out - 1) * stride >= size + padding else out


def edges(shape, counts, kernel, stride, padding):
    """What np.pad needs so that all windows are full: the last may reach beyond the right padding (ceil_mode)."""
    far = [max(padding, (m - 1) * stride + kernel - padding - n) for n, m in zip(shape[2:], counts, strict=True)]
    return (0, 0), (0, 0), (padding, far[0]), (padding, far[1])


@twin
def max_of_windows(x, kernel, stride, padding, ceil_mode=False):
    """(largest value, its position k * kernel + l in the window) of every window.

    x: (N, C, H, W) -> values: (N, C, P, Q), winner: (N, C, P, Q) uint8.
    """
    p, q = (pooled_size(size, kernel, stride, padding, ceil_mode) for size in x.shape[2:])
    edge = edges(x.shape, (p, q), kernel, stride, padding)
    image = np.pad(x, edge, constant_values=-np.inf) if any(map(any, edge)) else x
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
    (_, _, (above, below), (left, right)) = edges(shape, g.shape[2:], kernel, stride, padding)
    image = np.zeros((n, c, above + h + below, left + w + right), g.dtype)
    for position in range(kernel * kernel):
        k, l = divmod(position, kernel)
        hit = np.where(winner == position, g, 0)
        image[:, :, _window(k, g.shape[2], stride, 1), _window(l, g.shape[3], stride, 1)] += hit
    return image[:, :, above : above + h, left : left + w]


def check_window(name: str, x, kernel, padding) -> None:
    """Refuse what no pooling means: fewer than four axes, or windows that lie in the padding alone."""
    if x.ndim != 4:
        raise ShapeError(f"{name}: x has shape {x.shape}; it must be (N, C, H, W)")
    if padding > kernel // 2:
        raise ShapeError(f"{name}: kernel {kernel} and padding {padding}: the padding must be at most half the kernel")


def by_window(name: str, forward, *order: str):
    """by_position for pooling: the kernel is called kernel_size too, and the stride without one is the kernel."""
    sort = by_position(name, forward, *order)

    def arrays(args, given):
        if "kernel_size" in given:
            given["kernel"] = given.pop("kernel_size")
        args = sort(args, given)
        given["stride"] = given["kernel"] if given.get("stride") is None else given["stride"]
        for option, value in given.items():
            if np.ndim(value):
                given[option] = value[0] if len(set(value)) == 1 else value
        refused = {k: v for k, v in given.items() if np.ndim(v) or (k == "dilation" and v != 1)}
        if refused:
            raise InputError(f"{name}: {refused}: a window is square here and has no gaps; give one number, dilation 1")
        given.pop("dilation", None)
        return args

    return arrays


def _forward(x, *, kernel, stride=None, padding=0, ceil_mode=False):
    check_window("max_pool2d", x, kernel, padding)
    if kernel > 15:
        raise ShapeError(f"max_pool2d: kernel {kernel} must be at most 15, a winner's position is kept in one byte")
    return max_of_windows(x, kernel, stride, padding, ceil_mode)


def _backward(g, out, winner, needs, x, *, kernel, stride, padding=0, ceil_mode=False):
    return (scatter_to_winners(g, winner, x.shape, kernel, stride, padding),)


def _composed(x, *, kernel, stride, padding=0, ceil_mode=False):
    n, c, h, w = x.shape
    winner = max_of_windows.numpy(x.data, kernel, stride, padding, ceil_mode)[1].astype(int)
    p, q = np.arange(winner.shape[2])[:, None], np.arange(winner.shape[3])
    rows, columns = p * stride + winner // kernel - padding, q * stride + winner % kernel - padding
    return x[np.arange(n)[:, None, None, None], np.arange(c)[:, None, None], rows, columns]


def _axes(u, shape, x, **kwargs):
    return (x[0], x[1], u.pinned(shape[2]), u.pinned(shape[3]))


max_pool2d = Op(
    "max_pool2d", "max over each window", forward=_forward, backward=_backward, composed=_composed, axes=_axes,
    arrays=by_window("max_pool2d", _forward, "kernel", "stride", "padding", "dilation", "ceil_mode"),
)  # fmt: skip


class MaxPool2d(Module):
    """Max-pooling over kernel x kernel windows; stride defaults to the kernel. x: (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, *, ceil_mode: bool = False):
        self.options = dict(kernel=kernel_size, stride=stride or kernel_size, padding=padding)
        if ceil_mode:
            self.options["ceil_mode"] = True

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.options.items())
