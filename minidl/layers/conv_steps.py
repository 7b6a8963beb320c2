"""One window of a convolution, number by number: what a loop over y[n, o, p, q] would see.

    window     (C/groups, K, L)   the pixels that meet the filter, zeros where the padding is
    weight     (C/groups, K, L)   filter o
    products   (C/groups, K, L)   window * weight
    partial    (C K L,)           the sums so far, term by term, in reading order
    sum        ()                 the last of them
    b          ()                 the bias of filter o, if there is one
    y          ()                 sum + b = y[n, o, p, q]

The names and numbers are the same in all forms; where the window comes from is each form's own way: a column of im2col,
slices of the padded image, or indices counted in a loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.backend import current_form, twin
from minidl.errors import InputError, ShapeError
from minidl.layers.conv import im2col, output_size, pair
from minidl.tensor import Tensor


@twin
def one_window(x, weight, n, o, p, q, stride, padding, dilation, groups):
    """(window, weight[o], their products, the sums so far).  Options are pairs; see the module's docstring."""
    own = _channels(weight, o, groups)
    cols = im2col.numpy(x[n : n + 1, own], weight.shape[2:], stride, padding, dilation)
    window = cols[:, :, :, 0, p, q]
    products = window * weight[o]
    return window, weight[o], products, np.cumsum(products)


def _composed_window(x, weight, n, o, p, q, stride, padding, dilation, groups):
    (above, left), (kh, kw) = padding, weight.shape[2:]
    image = np.pad(x[n], ((0, 0), (above, above), (left, left)))
    rows = slice(p * stride[0], p * stride[0] + (kh - 1) * dilation[0] + 1, dilation[0])
    columns = slice(q * stride[1], q * stride[1] + (kw - 1) * dilation[1] + 1, dilation[1])
    window = image[_channels(weight, o, groups), rows, columns]
    products = window * weight[o]
    return window, weight[o], products, np.cumsum(products.reshape(-1), axis=0)


def _channels(weight, o, groups):  # the channels that filter o sees
    count = weight.shape[1]
    first = o * groups // weight.shape[0] * count
    return slice(first, first + count)


def conv_steps(
    x, weight, bias=None, *, n=0, o=0, p=0, q=0, stride=1, padding=0, dilation=1, groups=1
) -> Iterator[tuple[str, np.ndarray]]:  # fmt: skip
    """(name, array) of everything that makes y[n, o, p, q] of conv2d(x, weight, bias), in the chosen form.

    x: (N, C, H, W), weight: (O, C/groups, K, L), bias: (O,), Tensors or arrays.
    """
    x, weight = Tensor(x), Tensor(weight)
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    if x.ndim != 4 or x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(f"conv_steps: x has shape {x.shape}, the weight {weight.shape}, groups={groups}")
    sizes = (
        x.shape[0], weight.shape[0],
        *map(output_size, x.shape[2:], weight.shape[2:], stride, padding, dilation),
    )  # fmt: skip
    if not all(0 <= i < size for i, size in zip((n, o, p, q), sizes, strict=True)):
        raise InputError(f"conv_steps: y has shape {sizes}; there is no [{n}, {o}, {p}, {q}]")
    options = (n, o, p, q, stride, padding, dilation, groups)
    if current_form() == "composed":
        found = [t.data for t in _composed_window(x, weight, *options)]
    else:
        found = one_window(x.data, weight.data, *options)
    yield from zip(("window", "weight", "products", "partial"), found, strict=True)
    total = found[3][-1]
    yield "sum", total
    if bias is not None:
        b = Tensor(bias).data[o]
        yield "b", b
        total = total + b
    yield "y", total
