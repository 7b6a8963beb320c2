"""Numba twins of minidl/layers/lrn.py: windows summed along the planes, the power by square roots where beta is 3/4."""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit


@jit
def _sums_across(a, out, before, after):
    n, c, hw = a.shape
    for image in range(n):
        for channel in range(c):
            target = out[image, channel]
            for other in range(max(0, channel - before), min(c, channel + after + 1)):
                source = a[image, other]
                for j in range(hw):
                    target[j] += source[j]


@jit
def _sums_within(a, out, sideways, reach):
    n, c, h, w = a.shape
    for image in range(n):
        for channel in range(c):
            plane = a[image, channel]
            sideways[:] = 0
            for row in range(h):
                source, target = plane[row], sideways[row]
                for k in range(max(-reach, 1 - w), min(reach, w - 1) + 1):
                    first, last = max(0, -k), min(w, w - k)
                    from_, to = source[first + k : last + k], target[first:last]
                    for j in range(to.size):
                        to[j] += from_[j]
            for row in range(h):
                target = out[image, channel, row]
                for y in range(max(0, row - reach), min(h, row + reach + 1)):
                    source = sideways[y]
                    for j in range(w):
                        target[j] += source[j]


@jit
def _power(s, beta, out):
    """s^(-beta), flat arrays."""
    if beta == 0.75:
        for j in range(s.size):
            root = np.sqrt(s[j])
            out[j] = 1 / (root * np.sqrt(root))
    else:
        for j in range(s.size):
            out[j] = s[j] ** -beta


def _sums(a, within, before, after):
    out = np.zeros_like(a)
    if within:
        _sums_within(a, out, np.empty(a.shape[2:], a.dtype), before)
    else:
        n, c, h, w = a.shape
        _sums_across(a.reshape(n, c, h * w), out.reshape(n, c, h * w), before, after)
    return out


def _quieter(s, beta):
    out = np.empty_like(s)
    _power(s.reshape(-1), s.dtype.type(beta), out.reshape(-1))
    return out


def _fits(size, within, *arrays):
    same = all(a.flags.c_contiguous and a.dtype == arrays[0].dtype for a in arrays)
    return same and not (within and size % 2 == 0)


def lrn_forward(x, size, alpha, beta, k, within):
    if not _fits(size, within, x):
        return NotImplemented
    s = _sums(x * x, within, size // 2, (size - 1) // 2)
    s *= alpha / size ** (1 + within)
    s += k
    return x * _quieter(s, beta), s


def lrn_backward(g, x, y, s, size, alpha, beta, within):
    if not _fits(size, within, g, x, y, s):
        return NotImplemented
    back = _sums(g * y / s, within, (size - 1) // 2, size // 2)
    back *= x
    back *= -2 * alpha * beta / size ** (1 + within)
    back += g * _quieter(s, beta)
    return back
