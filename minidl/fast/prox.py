"""Numba twins of minidl/sparsity/prox.py: one pass over the weights for the norms, one for the scaling.

Both see x (a, i, b, c, j, d), where block (i, j) holds all of a, b, c and d, as lines: (a i b c, j, d), of which line
l has the row label (l // (b c)) % i. Runs of d > 1 weights share a block (filters, channels); with d = 1 neighbours lie
in different blocks (columns), and eight lines are added up before the sums are touched. As many threads as Numba has.

The result takes the memory of weights that were replaced (buffers.py): with pages fresh from the system, scaling 60
million weights was measured to take twice as long.
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
TILE = 1024  # columns whose sums stay in the nearest cache


@jit
def _squares_of_runs(x, first, last, n, inner, out):  # x: (lines, j, d), out: (n, j)
    for line in range(first, last):
        i = (line // inner) % n
        for j in range(x.shape[1]):
            run = x[line, j]
            total = 0.0
            for k in range(run.size):
                total += np.float64(run[k]) * np.float64(run[k])
            out[i, j] += total


@jit
def _squares_of_columns(x, first, last, n, inner, out):  # x: (lines, j), out: (n, j)
    for start in range(0, x.shape[1], TILE):
        line = first
        while line < last:
            i = (line // inner) % n
            end = min(last, (line // inner + 1) * inner)  # until here the row label is the same
            sums = out[i, start : start + TILE]
            while line + 8 <= end:
                a, b = x[line, start : start + TILE], x[line + 1, start : start + TILE]
                c, d = x[line + 2, start : start + TILE], x[line + 3, start : start + TILE]
                e, f = x[line + 4, start : start + TILE], x[line + 5, start : start + TILE]
                g, h = x[line + 6, start : start + TILE], x[line + 7, start : start + TILE]
                for j in range(sums.size):
                    p, q, r, s = np.float64(a[j]), np.float64(b[j]), np.float64(c[j]), np.float64(d[j])
                    t, u, v, w = np.float64(e[j]), np.float64(f[j]), np.float64(g[j]), np.float64(h[j])
                    sums[j] += (p * p + q * q + r * r + s * s) + (t * t + u * u + v * v + w * w)
                line += 8
            while line < end:
                a = x[line, start : start + TILE]
                for j in range(sums.size):
                    sums[j] += np.float64(a[j]) * np.float64(a[j])
                line += 1


@jit
def _scale_runs(x, first, last, n, inner, factor, out):
    for line in range(first, last):
        f = factor[(line // inner) % n]
        for j in range(x.shape[1]):
            run, result, scale = x[line, j], out[line, j], f[j]
            for k in range(run.size):
                result[k] = run[k] * scale


@jit
def _scale_columns(x, first, last, n, inner, factor, out):
    for line in range(first, last):
        f, a, result = factor[(line // inner) % n], x[line], out[line]
        for j in range(a.size):
            result[j] = a[j] * f[j]


def _lines(x):
    """x as (lines, j, d) or (lines, j); the number of row labels; how many lines in a row share one."""
    a, i, b, c, j, d = x.shape
    return x.reshape((a * i * b * c, j, d) if d > 1 else (a * i * b * c, j)), i, b * c


def block_squares(x):
    if x.dtype not in FLOATS or not x.flags.c_contiguous or not x.size:
        return NotImplemented
    lines, n, inner = _lines(x)
    kernel = _squares_of_runs if lines.ndim == 3 else _squares_of_columns
    sums = {}  # each thread's own: a label may have lines in several parts

    def run(k, first, last):
        sums[k] = np.zeros((n, x.shape[4]))
        kernel(lines, first, last, n, inner, sums[k])

    in_parts(len(lines), run, x.size)
    return sum(sums[k] for k in sorted(sums))


def scaled_blocks(x, factor):
    if x.dtype not in FLOATS or not x.flags.c_contiguous:
        return NotImplemented
    lines, n, inner = _lines(x)
    kernel = _scale_runs if lines.ndim == 3 else _scale_columns
    out, factor = buffers.empty(x.shape, x.dtype), np.ascontiguousarray(factor, x.dtype)
    to = out.reshape(lines.shape)
    in_parts(len(lines), lambda k, first, last: kernel(lines, first, last, n, inner, factor, to), x.size)
    return out
