"""The Numba twin of minidl/ternary/allreduce.py: reads the integers once and writes the floats once."""

from __future__ import annotations

import numpy as np

from minidl.fast.ternarise import exact_jit


@exact_jit
def _mean_of(sums, share, ends, out):
    start = 0
    for b in range(share.size):
        part, mean, factor = sums[start : ends[b]], out[start : ends[b]], share[b]
        for i in range(part.size):
            mean[i] = np.float32(part[i]) * factor
        start = ends[b]


def mean_of(sums, s, workers, block=None):
    if sums.dtype not in (np.int8, np.int16, np.int32) or not sums.flags.c_contiguous or s.dtype != np.float32:
        return NotImplemented
    out = np.empty(sums.size, np.float32)
    if np.ndim(block):
        ends = np.cumsum(block)
    else:
        block = max(sums.size, 1) if block is None or s.size == 1 else block
        ends = np.minimum(np.arange(1, s.size + 1) * block, sums.size)
    _mean_of(sums, s / np.float32(workers), ends, out)
    return out
