"""Numba twins of minidl/layers/conv.py: the copies into columns and back, row by row, without temporaries.

`down`, `above` and `dilation_down` are stride, padding and dilation along the height; the others run along the width.
"""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit
from minidl.layers.conv import output_size


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
