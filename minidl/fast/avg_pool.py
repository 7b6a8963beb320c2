"""Numba twins of minidl/layers/avg_pool.py: one pass over the image, the sum of a window in a register."""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit


@jit
def _mean_of_windows(x, share, y, kernel, stride, padding):
    n, c, h, w = x.shape
    p, q = share.shape
    for image in range(n):
        for channel in range(c):
            plane, out = x[image, channel], y[image, channel]
            for row in range(p):
                top = max(row * stride - padding, 0)
                bottom = min(row * stride - padding + kernel, h)
                for column in range(q):
                    left = max(column * stride - padding, 0)
                    right = min(column * stride - padding + kernel, w)
                    total = x.dtype.type(0)
                    for i in range(top, bottom):
                        for j in range(left, right):
                            total += plane[i, j]
                    out[row, column] = total * share[row, column]


@jit
def _spread_to_windows(g, share, x, kernel, stride, padding):
    n, c, h, w = x.shape
    p, q = share.shape
    for image in range(n):
        for channel in range(c):
            plane, back = x[image, channel], g[image, channel]
            for row in range(p):
                top = max(row * stride - padding, 0)
                bottom = min(row * stride - padding + kernel, h)
                for column in range(q):
                    left = max(column * stride - padding, 0)
                    right = min(column * stride - padding + kernel, w)
                    part = back[row, column] * share[row, column]
                    for i in range(top, bottom):
                        for j in range(left, right):
                            plane[i, j] += part


def mean_of_windows(x, share, kernel, stride, padding):
    if not x.flags.c_contiguous:
        return NotImplemented
    y = np.empty((*x.shape[:2], *share.shape), x.dtype)
    _mean_of_windows(x, share, y, kernel, stride, padding)
    return y


def spread_to_windows(g, share, shape, kernel, stride, padding):
    if not g.flags.c_contiguous:
        return NotImplemented
    x = np.zeros(shape, g.dtype)
    _spread_to_windows(g, share, x, kernel, stride, padding)
    return x
