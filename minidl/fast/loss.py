"""Threads for minidl/layers/loss.py: a few rows at a time, which stay in the cache from their maximum to their sum.

NumPy's own exp is vectorised, and releases the interpreter lock: nothing here is compiled.
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.pool_of_threads import in_parts

BLOCK = 1 << 16  # elements at a time
COST = 8  # an element's exp and sum, in multiply-adds


def _blocks(first, last, width):
    step = max(1, BLOCK // width)
    return (slice(i, min(i + step, last)) for i in range(first, last, step))


def exponentials(logits):
    rows, width = logits.shape
    if logits.size < BLOCK:
        return NotImplemented
    top, total = np.empty((2, rows, 1), logits.dtype)
    exps = buffers.empty(logits.shape, logits.dtype)

    def part(_, first, last):
        for some in _blocks(first, last, width):
            np.max(logits[some], axis=1, keepdims=True, out=top[some])
            np.subtract(logits[some], top[some], out=exps[some])
            np.exp(exps[some], out=exps[some])
            np.sum(exps[some], axis=1, keepdims=True, out=total[some])

    in_parts(rows, part, logits.size * COST)
    return top, exps, total


def scaled_rows(exps, scale):
    if exps.size < BLOCK or exps.dtype != scale.dtype:
        return NotImplemented
    out = buffers.empty(exps.shape, exps.dtype)

    def part(_, first, last):
        np.multiply(exps[first:last], scale[first:last, None], out=out[first:last])

    in_parts(len(exps), part, exps.size * COST)
    return out
