"""Threads for minidl/layers/linear.py: each makes some rows or columns of a product, with one BLAS thread.

BLAS has threads of its own, but after a product they spin for some 30 ms in wait for the next one, and take half a core
from whatever else has two threads: a convolution beside a Linear layer gained nothing from its second thread. So all
products of a network are cut here, and BLAS never starts a thread.
"""

from __future__ import annotations

import numpy as np

from minidl.fast.pool_of_threads import in_parts

LEAST = 250_000  # multiply-adds below which BLAS stays in one thread by itself
FASTER = 32  # a multiply-add in a product takes so much less time than one in the loops that in_parts counts by


def product(a, b, bias=None):
    (m, k), n = a.shape, b.shape[1]
    if m * k * n < LEAST or a.dtype != b.dtype or a.dtype.char not in "fd" or k != b.shape[0]:
        return NotImplemented
    y = np.empty((m, n), a.dtype)

    def part(_, first, last):
        if m < n:
            rows, of_bias = y[:, first:last], bias if bias is None else bias[first:last]
            np.matmul(a, b[:, first:last], out=rows)
        else:
            rows, of_bias = y[first:last], bias
            np.matmul(a[first:last], b, out=rows)
        if bias is not None:
            np.add(rows, of_bias, out=rows)

    in_parts(max(m, n), part, m * k * n // FASTER, blas=True)
    return y
