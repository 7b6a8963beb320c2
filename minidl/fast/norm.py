"""Numba twins of minidl/layers/norm.py: fused passes over (N, C, HW), sums in float64.

Rows (N, C) have nothing to run along; NumPy's form is as good there.
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

COST = 8  # an element read from memory, in multiply-adds


@jit
def _statistics(x, mean, variance, first, last):
    n, c, hw = x.shape
    for channel in range(first, last):
        total = 0.0
        for image in range(n):
            line = x[image, channel]
            part = 0.0
            for j in range(hw):
                part += line[j]
            total += part
        centre = total / (n * hw)
        square = 0.0
        for image in range(n):
            line = x[image, channel]
            part = 0.0
            for j in range(hw):
                part += (line[j] - centre) * (line[j] - centre)
            square += part
        mean[channel], variance[channel] = centre, square / (n * hw)


@jit
def _normalise(x, mean, scale, bias, y, first, last):
    n, c, hw = x.shape
    for image in range(first, last):
        for channel in range(c):
            line, out = x[image, channel], y[image, channel]
            m, s, b = mean[channel], scale[channel], bias[channel]
            for j in range(hw):
                out[j] = (line[j] - m) * s + b


@jit
def _normalise_backward(g, x, mean, inverse, weight, dx, dweight, dbias, start, stop):
    n, c, hw = x.shape
    for channel in range(start, stop):
        m, inv = mean[channel], inverse[channel]
        with_x, plain = 0.0, 0.0
        for image in range(n):
            line, back = x[image, channel], g[image, channel]
            first, second = 0.0, 0.0
            for j in range(hw):
                first += back[j]
                second += np.float64(back[j]) * (line[j] - m)
            plain += first
            with_x += second
        with_x *= inv
        dweight[channel], dbias[channel] = with_x, plain
        scale = x.dtype.type(weight[channel] * inv)
        shift, slope = x.dtype.type(plain / (n * hw)), x.dtype.type(with_x * inv / (n * hw))
        for image in range(n):
            line, back, out = x[image, channel], g[image, channel], dx[image, channel]
            for j in range(hw):
                out[j] = (back[j] - shift - (line[j] - m) * slope) * scale


def _planes(*arrays):
    """Each as (N, C, HW), or None where a twin does not apply."""
    if any(a.ndim < 3 or not a.flags.c_contiguous for a in arrays):
        return None
    return [a.reshape(*a.shape[:2], a[0, 0].size if a.size else 0) for a in arrays]


def channel_statistics(x):
    planes = _planes(x)
    if planes is None or not x.size:
        return NotImplemented
    mean, variance = np.empty((2, x.shape[1]), x.dtype)
    in_parts(len(mean), lambda _, i, j: _statistics(*planes, mean, variance, i, j), x.size * COST)
    return mean, variance


def normalise(x, mean, inverse, weight, bias):
    planes = _planes(x)
    if planes is None:
        return NotImplemented
    y, scale = buffers.empty(planes[0].shape, x.dtype), inverse * weight
    in_parts(len(x), lambda _, i, j: _normalise(*planes, mean, scale, bias, y, i, j), x.size * COST)
    return y.reshape(x.shape)


def normalise_backward(g, x, mean, inverse, weight):
    planes = _planes(g, x)
    if planes is None or g.dtype != x.dtype:
        return NotImplemented
    dx, dweight, dbias = buffers.empty(planes[1].shape, x.dtype), *np.empty((2, x.shape[1]), x.dtype)
    rest = mean, inverse, weight, dx, dweight, dbias
    in_parts(len(mean), lambda _, i, j: _normalise_backward(*planes, *rest, i, j), x.size * COST)
    return dx.reshape(x.shape), dweight, dbias
