"""Numba twins of minidl/layers/recurrent.py: a few rows times all recurrent weights, each weight read once a step.

BLAS copies the weights into an order of its own in every product, which pays over many rows; a time step has as many as
the batch, and reads 36 MB for 1,500 units. Both arrays lie along the sum here, so nothing is copied:

    y[b, n] = sum_k h[b, k] w[n, k]      20 sums at once, in registers: 5 rows h[b] with 4 rows w[n]
"""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

# Where this is faster than BLAS. Measured on one core with 10 and 20 rows, as shares of BLAS's time with weights that
# were transposed before: 0.5 and 0.6 at 1,500 units, 0.7 and 0.95 at 373, 0.85 and 1.2 at 200; with 64 rows 0.9 to 1.5.
FEWEST, MOST = 5, 20  # rows; five are made at once
LEAST = 300_000  # weights


@jit
def _products(h, w, y, first, last):
    """y[:, first : last] = h w[first : last]^T; the last rows and columns may be made twice, to be five and four."""
    zero = y.dtype.type(0)
    for column in range(first, last, 4):
        n = min(column, last - 4)
        w0, w1, w2, w3 = w[n], w[n + 1], w[n + 2], w[n + 3]
        for row in range(0, h.shape[0], 5):
            b = min(row, h.shape[0] - 5)
            h0, h1, h2, h3, h4 = h[b], h[b + 1], h[b + 2], h[b + 3], h[b + 4]
            a00 = a01 = a02 = a03 = a10 = a11 = a12 = a13 = a20 = a21 = zero
            a22 = a23 = a30 = a31 = a32 = a33 = a40 = a41 = a42 = a43 = zero
            # fmt: off
            for k in range(h.shape[1]):
                p, q, r, s = w0[k], w1[k], w2[k], w3[k]
                u = h0[k]; a00 += u * p; a01 += u * q; a02 += u * r; a03 += u * s
                u = h1[k]; a10 += u * p; a11 += u * q; a12 += u * r; a13 += u * s
                u = h2[k]; a20 += u * p; a21 += u * q; a22 += u * r; a23 += u * s
                u = h3[k]; a30 += u * p; a31 += u * q; a32 += u * r; a33 += u * s
                u = h4[k]; a40 += u * p; a41 += u * q; a42 += u * r; a43 += u * s
            # fmt: on
            y[b, n], y[b, n + 1], y[b, n + 2], y[b, n + 3] = a00, a01, a02, a03
            y[b + 1, n], y[b + 1, n + 1], y[b + 1, n + 2], y[b + 1, n + 3] = a10, a11, a12, a13
            y[b + 2, n], y[b + 2, n + 1], y[b + 2, n + 2], y[b + 2, n + 3] = a20, a21, a22, a23
            y[b + 3, n], y[b + 3, n + 1], y[b + 3, n + 2], y[b + 3, n + 3] = a30, a31, a32, a33
            y[b + 4, n], y[b + 4, n + 1], y[b + 4, n + 2], y[b + 4, n + 3] = a40, a41, a42, a43


def _handles(rows: int, w) -> bool:
    return FEWEST <= rows <= MOST and w.size >= LEAST and w.dtype.char in "fd" and w.flags.c_contiguous


def recurrent_weights(w_hh, batch):
    return w_hh.T if _handles(batch, w_hh) else NotImplemented


def recurrent_product(h, weights):
    w = weights.T
    if not (_handles(len(h), w) and h.dtype == w.dtype and h.flags.c_contiguous):
        return NotImplemented
    y = np.empty((len(h), len(w)), h.dtype)
    in_parts(len(w), lambda _, first, last: _products(h, w, y, first, last), y.size * h.shape[1])
    return y
