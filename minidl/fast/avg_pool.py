"""Numba twins of minidl/layers/avg_pool.py: the rows of a window are added up first, whole lines at a time."""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit


@jit
def _mean_of_windows(x, share, y, line, kernel, stride, padding):
    n, c, h, w = x.shape
    p, q = share.shape
    for image in range(n):
        for channel in range(c):
            plane = x[image, channel]
            for row in range(p):
                top, out = row * stride - padding, y[image, channel, row]
                line[:] = 0
                for i in range(max(top, 0), min(top + kernel, h)):
                    source = plane[i]
                    for j in range(w):
                        line[j] += source[j]
                for column in range(q):
                    left = column * stride - padding
                    total = line.dtype.type(0)
                    for j in range(max(left, 0), min(left + kernel, w)):
                        total += line[j]
                    out[column] = total * share[row, column]


@jit
def _spread_to_windows(g, share, x, line, kernel, stride, padding):
    n, c, h, w = x.shape
    p, q = share.shape
    for image in range(n):
        for channel in range(c):
            plane = x[image, channel]
            for row in range(p):
                top, back = row * stride - padding, g[image, channel, row]
                line[:] = 0
                for column in range(q):
                    left, part = column * stride - padding, back[column] * share[row, column]
                    for j in range(max(left, 0), min(left + kernel, w)):
                        line[j] += part
                for i in range(max(top, 0), min(top + kernel, h)):
                    target = plane[i]
                    for j in range(w):
                        target[j] += line[j]


def mean_of_windows(x, share, kernel, stride, padding):
    if not x.flags.c_contiguous:
        return NotImplemented
    y = np.empty((*x.shape[:2], *share.shape), x.dtype)
    _mean_of_windows(x, share, y, np.empty(x.shape[3], x.dtype), kernel, stride, padding)
    return y


def spread_to_windows(g, share, shape, kernel, stride, padding):
    if not g.flags.c_contiguous:
        return NotImplemented
    x = np.zeros(shape, g.dtype)
    _spread_to_windows(g, share, x, np.empty(shape[3], g.dtype), kernel, stride, padding)
    return x
