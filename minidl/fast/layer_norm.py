"""Numba twins of minidl/layers/layer_norm.py: a row stays in the cache for all its passes; sums in float64."""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit


@jit
def _normalise_rows(x, weight, bias, eps, y, mean, inverse):
    rows, width = x.shape
    for i in range(rows):
        line, out = x[i], y[i]
        total, square = 0.0, 0.0
        for j in range(width):
            total += line[j]
        centre = total / width
        for j in range(width):
            square += (line[j] - centre) * (line[j] - centre)
        mean[i, 0], inverse[i, 0] = centre, 1 / np.sqrt(square / width + eps)
        m, inv = mean[i, 0], inverse[i, 0]
        for j in range(width):
            out[j] = (line[j] - m) * inv * weight[j] + bias[j]


@jit
def _normalise_rows_backward(g, x, weight, mean, inverse, dx, dweight, dbias):
    rows, width = x.shape
    for i in range(rows):
        line, back, out = x[i], g[i], dx[i]
        m, inv = mean[i, 0], inverse[i, 0]
        plain, with_x = 0.0, 0.0
        for j in range(width):
            scaled, xhat = back[j] * weight[j], (line[j] - m) * inv
            plain += scaled
            with_x += np.float64(scaled) * xhat
            dweight[j] += np.float64(back[j]) * xhat
            dbias[j] += back[j]
        shift, slope = x.dtype.type(plain / width), x.dtype.type(with_x / width)
        for j in range(width):
            out[j] = (back[j] * weight[j] - shift - (line[j] - m) * inv * slope) * inv


def _fits(x, *others):
    return all(a.dtype == x.dtype and a.flags.c_contiguous for a in (x, *others))


def normalise_rows(x, weight, bias, eps):
    if not _fits(x, weight, bias):
        return NotImplemented
    y, mean, inverse = np.empty_like(x), *np.empty((2, len(x), 1), x.dtype)
    _normalise_rows(x, weight, bias, eps, y, mean, inverse)
    return y, mean, inverse


def normalise_rows_backward(g, x, weight, mean, inverse):
    if not _fits(g, x, weight):
        return NotImplemented
    dx, dweight, dbias = np.empty_like(x), *np.zeros((2, x.shape[1]))
    _normalise_rows_backward(g, x, weight, mean, inverse, dx, dweight, dbias)
    return dx, dweight.astype(x.dtype), dbias.astype(x.dtype)
