"""Numba twins of minidl/layers/conv.py: the copies into columns and back, row by row, without temporaries.

Which kernel a convolution gets depends on its shape:

    3 x 3, stride 1, one group     straight from the image, see conv3x3.py; for many channels by winograd.py
    columns of more than KEEP      a few images at a time, so that their columns stay in the cache; none are kept
    the rest                       the NumPy form, with the columns of the whole batch

`down`, `above` and `dilation_down` are stride, padding and dilation along the height; the others run along the width.
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers, conv3x3, winograd
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts
from minidl.layers.conv import _rows, output_size

KEEP = 1 << 20  # bytes of the columns of a whole batch
BLOCK = 1 << 19  # bytes of columns at a time


@jit
def _im2col(x, cols, down, stride, above, padding, dilation_down, dilation):
    n, c, h, w = x.shape
    kh, kw, p, q = cols.shape[1], cols.shape[2], cols.shape[4], cols.shape[5]
    for channel in range(c):
        for k in range(kh):
            for l in range(kw):
                left = l * dilation - padding  # column of the image that output column 0 meets
                first = min(q, max(0, -(left // stride))) if left < 0 else 0
                last = max(first, min(q, (w - left + stride - 1) // stride))
                for image in range(n):
                    for row in range(p):
                        out = cols[channel, k, l, image, row]
                        y = row * down + k * dilation_down - above
                        if y < 0 or y >= h:
                            out[:] = 0
                            continue
                        line = x[image, channel, y]
                        for j in range(first):
                            out[j] = 0
                        if stride == 1:
                            target, source = out[first:last], line[left + first : left + last]
                            for j in range(source.size):
                                target[j] = source[j]
                        else:
                            for j in range(first, last):
                                out[j] = line[left + j * stride]
                        for j in range(last, q):
                            out[j] = 0


@jit
def _col2im(cols, x, down, stride, above, padding, dilation_down, dilation):
    n, c, h, w = x.shape
    kh, kw, p, q = cols.shape[1], cols.shape[2], cols.shape[4], cols.shape[5]
    for image in range(n):  # the image stays in the cache while its columns come in
        for channel in range(c):
            for k in range(kh):
                for l in range(kw):
                    left = l * dilation - padding
                    first = min(q, max(0, -(left // stride))) if left < 0 else 0
                    last = max(first, min(q, (w - left + stride - 1) // stride))
                    for row in range(p):
                        y = row * down + k * dilation_down - above
                        if y < 0 or y >= h:
                            continue
                        line, add = x[image, channel, y], cols[channel, k, l, image, row]
                        if stride == 1:
                            target, source = line[left + first : left + last], add[first:last]
                            for j in range(source.size):
                                target[j] += source[j]
                        else:
                            for j in range(first, last):
                                line[left + j * stride] += add[j]


def im2col(x, kernel, stride, padding, dilation):
    if not x.flags.c_contiguous:
        return NotImplemented
    n, c = x.shape[:2]
    p, q = map(output_size, x.shape[2:], kernel, stride, padding, dilation)
    cols = np.empty((c, *kernel, n, p, q), x.dtype)
    _im2col(x, cols, *stride, *padding, *dilation)
    return cols


def col2im(cols, shape, stride, padding, dilation):
    if not cols.flags.c_contiguous:
        return NotImplemented
    x = np.zeros(shape, cols.dtype)
    _col2im(cols, x, *stride, *padding, *dilation)
    return x


def _images_at_a_time(shape, kernel, sizes, itemsize):
    """How many images have columns of BLOCK bytes, or None where those of the whole batch are fewer than KEEP."""
    size = int(np.prod([shape[1], *kernel, *sizes])) * itemsize
    return max(1, BLOCK // size) if shape[0] * size > KEEP else None


def _columns(x, first, last, images, kernel, sizes, stride, padding, dilation):
    """(which images, their columns) for a few images at a time, from first to last."""
    for begin in range(first, last, images):
        part = x[begin : min(begin + images, last)]
        cols = np.empty((x.shape[1], *kernel, len(part), *sizes), x.dtype)
        _im2col(part, cols, *stride, *padding, *dilation)
        yield slice(begin, begin + len(part)), cols


def _correlate_3x3(x, weight, bias, padding):
    sizes = (size + 2 * pad - 2 for size, pad in zip(x.shape[2:], padding, strict=True))
    way = winograd if winograd.handles(*weight.shape[:2], *sizes) else conv3x3
    return way.correlate(x, weight, bias, padding)


def conv_forward(x, weight, bias, stride, padding, dilation, groups):
    kernel, o = weight.shape[2:], len(weight)
    if conv3x3.handles(kernel, stride, padding, dilation, groups, x, weight):
        return _correlate_3x3(x, weight, bias, padding), None
    sizes = tuple(map(output_size, x.shape[2:], kernel, stride, padding, dilation))
    images = _images_at_a_time(x.shape, kernel, sizes, x.itemsize)
    if images is None or x.dtype != weight.dtype:
        return NotImplemented
    filters = weight.reshape(groups, o // groups, -1)
    x, y = np.ascontiguousarray(x), buffers.empty((len(x), o, *sizes), x.dtype)

    def part(_, first, last):
        for some, cols in _columns(x, first, last, images, kernel, sizes, stride, padding, dilation):
            rows = filters @ cols.reshape(groups, filters.shape[2], -1)
            y[some] = rows.reshape(o, -1, *sizes).transpose(1, 0, 2, 3)
            if bias is not None:
                y[some] += bias[:, None, None]

    in_parts(len(x), part, y.size * filters.shape[2], blas=True)
    return y, None


def conv_backward_data(g, weight, shape, stride, padding, dilation, groups):
    kernel, o = weight.shape[2:], len(weight)
    if conv3x3.handles(kernel, stride, padding, dilation, groups, g, weight):
        turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)  # dL/dx: g, correlated with the filters turned around
        return _correlate_3x3(g, turned, None, (2 - padding[0], 2 - padding[1]))
    images = _images_at_a_time(shape, kernel, g.shape[2:], g.itemsize)
    if images is None or g.dtype != weight.dtype:
        return NotImplemented
    turned = weight.reshape(groups, o // groups, -1).transpose(0, 2, 1)
    dx = buffers.empty(shape, g.dtype)

    def part(_, first, last):
        dx[first:last] = 0
        for begin in range(first, last, images):
            some = slice(begin, min(begin + images, last))
            dcols = (turned @ _rows(g[some], groups)).reshape(shape[1], *kernel, -1, *g.shape[2:])
            _col2im(dcols, dx[some], *stride, *padding, *dilation)

    in_parts(len(g), part, g.size * turned.shape[1], blas=True)
    return dx


def conv_backward_weight(g, x, cols, kernel, stride, padding, dilation, groups):
    if cols is not None:
        return NotImplemented
    if conv3x3.handles(kernel, stride, padding, dilation, groups, g, x):
        return conv3x3.backward_weight(g, x, padding)
    images = _images_at_a_time(x.shape, kernel, g.shape[2:], x.itemsize)
    if images is None or g.dtype != x.dtype:
        return NotImplemented
    o, per_group = g.shape[1], x.shape[1] // groups
    taps, x = per_group * kernel[0] * kernel[1], np.ascontiguousarray(x)
    sums: dict[int, np.ndarray] = {}

    def part(number, first, last):
        sums[number] = np.zeros((groups, o // groups, taps), x.dtype)
        for some, cols in _columns(x, first, last, images, kernel, g.shape[2:], stride, padding, dilation):
            sums[number] += _rows(g[some], groups) @ cols.reshape(groups, taps, -1).transpose(0, 2, 1)

    parts = in_parts(len(x), part, g.size * taps, blas=True)
    dweight = sum(sums[k] for k in range(parts))
    return dweight.reshape(o, per_group, *kernel)
