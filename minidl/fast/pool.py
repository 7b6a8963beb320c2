"""Numba twins of minidl/layers/pool.py: one pass over the image instead of one per window position."""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts
from minidl.layers.pool import pooled_size

COST = 8  # a pixel of the image, in multiply-adds


@jit
def _max_of_windows(x, values, winner, kernel, stride, padding):
    n, c, h, w = x.shape
    p, q = values.shape[2], values.shape[3]
    for image in range(n):
        for channel in range(c):
            plane = x[image, channel]
            for row in range(p):
                for column in range(q):
                    best, where = -np.inf, -1
                    for k in range(kernel):
                        y = row * stride + k - padding
                        if y < 0 or y >= h:
                            continue
                        for l in range(kernel):
                            at = column * stride + l - padding
                            if at < 0 or at >= w:
                                continue
                            value = plane[y, at]
                            if where < 0 or value > best or value != value:
                                best, where = value, k * kernel + l
                    values[image, channel, row, column] = best
                    winner[image, channel, row, column] = where


@jit
def _max_of_2x2(x, values, winner):
    """Windows of 2 x 2 that do not overlap, written with selections so that the loop vectorises."""
    n, c, p, q = values.shape
    for image in range(n):
        for channel in range(c):
            for row in range(p):
                upper, lower = x[image, channel, 2 * row], x[image, channel, 2 * row + 1]
                out, won = values[image, channel, row], winner[image, channel, row]
                for j in range(q):
                    best, where = upper[2 * j], np.uint8(0)
                    value = upper[2 * j + 1]
                    take = (value > best) | (value != value)
                    best, where = (value if take else best), (np.uint8(1) if take else where)
                    value = lower[2 * j]
                    take = (value > best) | (value != value)
                    best, where = (value if take else best), (np.uint8(2) if take else where)
                    value = lower[2 * j + 1]
                    take = (value > best) | (value != value)
                    out[j], won[j] = (value if take else best), (np.uint8(3) if take else where)


@jit
def _scatter_to_winners(g, winner, x, kernel, stride, padding):
    n, c, p, q = g.shape
    for image in range(n):
        for channel in range(c):
            plane = x[image, channel]
            for row in range(p):
                for column in range(q):
                    where = winner[image, channel, row, column]
                    y = row * stride + where // kernel - padding
                    plane[y, column * stride + where % kernel - padding] += g[image, channel, row, column]


def max_of_windows(x, kernel, stride, padding, ceil_mode=False):
    if not x.flags.c_contiguous:
        return NotImplemented
    p, q = (pooled_size(size, kernel, stride, padding, ceil_mode) for size in x.shape[2:])
    values, winner = np.empty((*x.shape[:2], p, q), x.dtype), np.empty((*x.shape[:2], p, q), np.uint8)
    quarters = (kernel, stride, padding) == (2, 2, 0) and 2 * p <= x.shape[2] and 2 * q <= x.shape[3]

    def part(_, i, j):
        if quarters:
            _max_of_2x2(x[i:j], values[i:j], winner[i:j])
        else:
            _max_of_windows(x[i:j], values[i:j], winner[i:j], kernel, stride, padding)

    in_parts(len(x), part, x.size * COST)
    return values, winner


def scatter_to_winners(g, winner, shape, kernel, stride, padding):
    if not g.flags.c_contiguous:
        return NotImplemented
    x = buffers.empty(shape, g.dtype)

    def part(_, i, j):
        x[i:j] = 0
        _scatter_to_winners(g[i:j], winner[i:j], x[i:j], np.int64(kernel), stride, padding)

    in_parts(len(x), part, x.size * COST)
    return x
