"""Numba twins of minidl/rules.py: relu and its gradient in one pass each."""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

LEAST = 1 << 14  # elements below which NumPy's form is as fast
COST = 8  # an element read from memory and written to it, in multiply-adds


@jit
def _relu(x, y):
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= zero else x[i]  # NaN is not below zero: it stays


@jit
def _gate(g, x, y):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.size):
        y[i] = g[i] * (one if x[i] > zero else zero)  # a product: NaN in g stays NaN


def _elementwise(kernel, *arrays):
    """kernel(*flat arrays, flat result), in parts; NotImplemented where an array is not what the kernel takes."""
    first = arrays[0]
    for a in arrays:
        if not isinstance(a, np.ndarray) or a.size < LEAST or not a.flags.c_contiguous:
            return NotImplemented
        if a.dtype != first.dtype or a.shape != first.shape or a.dtype.char not in "fd":
            return NotImplemented
    y = buffers.empty(first.shape, first.dtype)
    flat = [a.reshape(-1) for a in (*arrays, y)]
    in_parts(first.size, lambda _, i, j: kernel(*[a[i:j] for a in flat]), first.size * COST)
    return y


def relu(x):
    return _elementwise(_relu, x)


def relu_gradient(g, x):
    return _elementwise(_gate, g, x)
