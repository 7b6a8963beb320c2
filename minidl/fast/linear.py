"""Threads for minidl/layers/linear.py: each makes some rows or columns of a product, with one BLAS thread.

BLAS has threads of its own, but after a product they spin for some 30 ms in wait for the next one, and take half a core
from whatever else has two threads: a convolution beside a Linear layer gained nothing from its second thread. So all
products of a network are cut here, and BLAS never starts a thread.

Where they spin for microseconds, they are the better ones: a product of .7 ms gains from them, but not from threads of
Python. OpenBLAS reads for how long when NumPy loads it, from OPENBLAS_THREAD_TIMEOUT: a power of 2, in ticks of the
processor's clock. The command `minidl` sets it.
"""

from __future__ import annotations

import os

import numpy as np

from minidl.fast.pool_of_threads import in_parts

LEAST = 250_000  # multiply-adds below which BLAS stays in one thread by itself
FASTER = 32  # a multiply-add in a product takes so much less time than one in the loops that in_parts counts by
BRIEF = int(os.environ.get("OPENBLAS_THREAD_TIMEOUT", 26)) <= 18  # 26 is OpenBLAS's own; 2^18 ticks are .1 ms


def product(a, b, bias=None):
    (m, k), n = a.shape, b.shape[1]
    if BRIEF or m * k * n < LEAST or a.dtype != b.dtype or a.dtype.char not in "fd" or k != b.shape[0]:
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
