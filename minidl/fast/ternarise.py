"""Numba twins of minidl/ternary/ternarise.py: the same integers, about as fast as copying the gradient.

The loops have no branch and no call, so LLVM vectorises them: hash, float64 product, rounding and shift of eight
elements at a time. They are serial and release the interpreter lock, so a communication thread may call them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from minidl.ternary.ternarise import LANES

ROWS = 8
TO_INTEGER = 1.5 * 2.0**52
GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def exact_jit(function):
    """Compile a serial kernel as fast/jit.py does, but with none of its flags: no sum may be reordered or fused here,
    because the bits must be NumPy's."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(nogil=True)(function)


@exact_jit
def _trits_of(q, u, out):
    for i in range(q.size):
        out[i] = np.int8((q[i] + u[i]) >> 24)


def trits_of(q, u):
    if not (q.dtype == u.dtype == np.int32 and q.ndim == 1 and q.shape == u.shape):
        return NotImplemented
    out = np.empty(q.size, np.int8)
    _trits_of(q, u, out)
    return out


@njit(inline="always")
def trits_of_block(x, s, own, element, key, t):
    """The trits of one block, the first of which is this element of the tensor.

    TO_INTEGER + y has the integer nearest to y in its lowest bits: q, in the 64 bits of a lane, where the hash is too.
    That saves rint and two conversions. After the shift the trit is the lowest byte, far below the bits of TO_INTEGER.
    """
    inverse = 16777216.0 / np.float64(s) if s > 0 else 0.0
    limit = min(own, s)
    h = np.uint64(element) * GOLDEN + key
    for i in range(x.size):
        y = np.float64(min(max(x[i], -limit), limit)) * inverse
        z = (h ^ (h >> np.uint64(30))) * MIX_1
        z = (z ^ (z >> np.uint64(27))) * MIX_2
        u = z >> np.uint64(40)  # the hash ends with z ^ (z >> 31), which leaves the highest 24 bits as they are
        t[i] = np.int8((np.float64(y + TO_INTEGER).view(np.uint64) + u) >> np.uint64(24))
        h += GOLDEN


@exact_jit
def _ternarise(g, s, key, own, block, first, out):
    for b in range(s.size):
        x, t = g[b * block : (b + 1) * block], out[b * block : (b + 1) * block]  # slices: their indices need no check
        trits_of_block(x, s[b], own[b], first + b * block, key, t)


def ternarise(g, s, key, own, block, first=0):
    if g.dtype not in FLOATS or not g.flags.c_contiguous or not s.dtype == own.dtype == np.float32:
        return NotImplemented
    out = np.empty(g.size, np.int8)
    with np.errstate(over="ignore"):  # for plain Python: the hash is meant to run over
        _ternarise(g, s, key, own, block, first, out)
    return out


@exact_jit
def _moments(g, largest, total, squares):
    """Eight rows of lanes at a time: a lane's sums are loaded once for eight additions, which keep their order."""
    first, lanes, tiles = np.float64(g[0]), total.size, g.size // (ROWS * LANES)
    for tile in range(tiles):
        x = g[tile * ROWS * LANES : (tile + 1) * ROWS * LANES].reshape(ROWS, LANES)
        for lane in range(LANES):
            a, b, most = total[lane], squares[lane], largest[lane]
            for row in range(ROWS):
                d = np.float64(x[row, lane]) - first
                a += d
                b += d * d
                most = max(most, abs(x[row, lane]))
            total[lane], squares[lane], largest[lane] = a, b, most
    for start in range(tiles * ROWS * LANES, g.size, lanes):
        row = g[start : start + lanes]
        for lane in range(row.size):
            d = np.float64(row[lane]) - first
            total[lane] += d
            squares[lane] += d * d
            largest[lane] = max(largest[lane], abs(row[lane]))


def moments(g):
    if g.dtype not in FLOATS or not g.flags.c_contiguous:
        return NotImplemented
    lanes = min(LANES, g.size)
    largest, total, squares = np.zeros(lanes, g.dtype), np.zeros(lanes), np.zeros(lanes)
    with np.errstate(over="ignore", invalid="ignore"):  # for plain Python; see the NumPy form
        _moments(g, largest, total, squares)
    return float(largest.max()), total, squares
