"""The Numba twin of minidl/ternary/allreduce.py: reads the integers once and writes the floats once."""

from __future__ import annotations

import numpy as np

from minidl.fast.ternarise import exact_jit


@exact_jit
def _mean_of(sums, share, block, out):
    for b in range(share.size):
        part, mean, factor = sums[b * block : (b + 1) * block], out[b * block : (b + 1) * block], share[b]
        for i in range(part.size):
            mean[i] = np.float32(part[i]) * factor


def mean_of(sums, s, workers, block=None):
    if sums.dtype not in (np.int8, np.int16, np.int32) or not sums.flags.c_contiguous or s.dtype != np.float32:
        return NotImplemented
    out = np.empty(sums.size, np.float32)
    block = max(sums.size, 1) if block is None or s.size == 1 else block
    _mean_of(sums, s / np.float32(workers), block, out)
    return out
