"""Numba twins of minidl/ternary/ternarise.py: the same integers, about as fast as copying the gradient.

The loops have no branch and no call, so LLVM vectorises them: hash, float64 product, rounding and shift of eight
elements at a time. They are serial and release the interpreter lock, so a communication thread may call them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 1024
GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def exact_jit(function):
    """Compile a serial kernel as fast/jit.py does, but with none of its flags: no sum may be reordered or fused here,
    because the bits must be NumPy's."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(nogil=True)(function)


@njit(inline="always")
def _trit(q, u):
    return np.int8((q + u) >> 24)


@njit(inline="always")
def _draw(element, key):
    x = np.uint64(element) * GOLDEN + key
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return np.int32((x ^ (x >> np.uint64(31))) >> np.uint64(40))


@exact_jit
def _trits_of(q, u, out):
    for i in range(q.size):
        out[i] = _trit(q[i], u[i])


def trits_of(q, u):
    if not (q.dtype == u.dtype == np.int32 and q.ndim == 1 and q.shape == u.shape):
        return NotImplemented
    out = np.empty(q.size, np.int8)
    _trits_of(q, u, out)
    return out


@exact_jit
def _ternarise(g, s, key, own, block, out):
    for b in range(s.size):
        scale = np.float64(s[b])
        inverse = 16777216.0 / scale if scale > 0 else 0.0
        limit = min(np.float64(own[b]) * inverse, 16777216.0)
        first = b * block
        x, t = g[first : first + block], out[first : first + block]  # slices: their indices need no sign check
        for i in range(x.size):
            y = min(max(np.float64(x[i]) * inverse, -limit), limit)
            t[i] = _trit(np.int32(np.rint(y)), _draw(first + i, key))


def ternarise(g, s, key, own, block):
    if g.dtype not in FLOATS or not g.flags.c_contiguous or not s.dtype == own.dtype == np.float32:
        return NotImplemented
    out = np.empty(g.size, np.int8)
    with np.errstate(over="ignore"):  # for plain Python: the hash is meant to run over
        _ternarise(g, s, key, own, block, out)
    return out


@exact_jit
def _moments(g, largest, total, squares):
    first = np.float64(g[0])
    for start in range(0, g.size, LANES):
        row = g[start : start + LANES]
        for lane in range(row.size):
            x = np.float64(row[lane])
            d = x - first
            total[lane] += d
            squares[lane] += d * d
            largest[lane] = max(largest[lane], abs(x))


def moments(g):
    if g.dtype not in FLOATS or not g.flags.c_contiguous:
        return NotImplemented
    largest, total, squares = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    with np.errstate(over="ignore", invalid="ignore"):  # for plain Python; see the NumPy form
        _moments(g, largest, total, squares)
    return float(largest.max()), total, squares
