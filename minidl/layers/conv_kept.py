"""conv2d_kept: a convolution that reads n chosen positions (c, k, l) of its windows, and no others.

    x: (N, C, H, W)   weight: (O, n)   kept: (3, n), rows c, k, l   bias: (O,)   y: (N, O, P, Q)
    y[n,o,p,q] = b[o] + sum_i weight[o,i] * x[n, c_i, p*stride + k_i*dilation - padding, q*stride + l_i*dilation - ...]

It is the matrix product of conv.py with n rows of im2col in place of C K L: what is left of a convolution whose other
columns are 0. (Wen et al. 2016, section 3.2)
"""

from __future__ import annotations

import numpy as np

from minidl import rules
from minidl.errors import ShapeError
from minidl.layers.conv import _around, _rows, _window, output_size, pair
from minidl.tensor import Op


def _windows(size, kept, kernel, stride, padding, dilation):
    """((P, Q), one index into the padded image for each kept position)."""
    options = pair(kernel), pair(stride), pair(padding), pair(dilation)
    p, q = map(output_size, size, *options)
    _, stride, _, dilation = options
    places = np.asarray(kept).T.tolist()
    all_ = slice(None)
    return (p, q), [
        (all_, c, _window(k, p, stride[0], dilation[0]), _window(l, q, stride[1], dilation[1])) for c, k, l in places
    ]


def _forward(x, weight, kept, bias=None, *, kernel, stride=1, padding=0, dilation=1):
    if x.ndim != 4 or weight.shape[1] != kept.shape[1] or x.shape[1] <= kept[0].max(initial=-1):
        raise ShapeError(
            f"conv2d_kept: x has shape {x.shape}, the weight {weight.shape} reads {kept.shape[1]} positions in "
            f"channels up to {kept[0].max(initial=-1)}: x must be (N, C, H, W) with more channels than that"
        )
    (p, q), windows = _windows(x.shape[2:], kept, kernel, stride, padding, dilation)
    image = np.pad(x, _around(pair(padding)))
    cols = np.empty((len(windows), len(x), p, q), x.dtype)
    for i, window in enumerate(windows):
        cols[i] = image[window]
    y = (weight @ cols.reshape(len(cols), -1)).reshape(len(weight), len(x), p, q)
    if bias is not None:
        y += bias[:, None, None, None]
    return np.ascontiguousarray(y.transpose(1, 0, 2, 3)), cols


def _backward(g, out, cols, needs, x, weight, kept, bias=None, *, kernel, stride=1, padding=0, dilation=1):
    rows = _rows(g, 1)[0]
    dx = None
    if needs[0]:
        (above, left), (h, w) = pair(padding), x.shape[2:]
        _, windows = _windows((h, w), kept, kernel, stride, padding, dilation)
        image = np.zeros((*x.shape[:2], h + 2 * above, w + 2 * left), x.dtype)
        for window, part in zip(windows, (weight.T @ rows).reshape(cols.shape), strict=True):
            image[window] += part
        dx = image[:, :, above : above + h, left : left + w]
    dbias = g.sum((0, 2, 3)) if bias is not None else None
    return dx, rows @ cols.reshape(len(cols), -1).T if needs[1] else None, None, dbias


def _composed(x, weight, kept, bias=None, *, kernel, stride=1, padding=0, dilation=1):
    kept = getattr(kept, "data", kept) if hasattr(kept, "requires_grad") else kept
    (p, q), windows = _windows(x.shape[2:], kept, kernel, stride, padding, dilation)
    image = np.pad(x, _around(pair(padding)))
    cols = rules.stack(*(image[window] for window in windows), axis=1)
    y = (weight @ cols.reshape(len(x), len(windows), p * q)).reshape(len(x), len(weight), p, q)
    return y if bias is None else y + bias.reshape(len(weight), 1, 1)


def _axes(u, shape, x, weight, kept, bias=None, **kwargs):
    u.pin(x[1])  # `kept` names channels by their place
    if bias is not None:
        u.unite(weight[0], bias[0])
    return (x[0], weight[0], u.pinned(shape[2]), u.pinned(shape[3]))


def _macs(shape, x, weight, *others, **kwargs):
    return int(np.prod(shape)) * weight[1]


conv2d_kept = Op(
    "conv2d_kept", "sum of weight * the kept positions of the window + b", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes, macs=_macs,
)  # fmt: skip
