"""The mean of all ranks' gradients: in ternary, three small exact steps; in float, one call.

    1. share_scales        s = max over ranks of s_i                   one float32 per scale, Allreduce(MAX)
    2. (ternarise)         t_i in {-1, 0, 1} with E[t_i] = clip(g_i) / s
    3. ternary_allreduce   mean = (sum over ranks of t_i) fl(s / n)    integers in bit-fields, Allreduce(SUM)

With a shared scale the sum is a sum of integers: exact, the same bits on every rank, whatever order or algorithm the
MPI library chooses. Only the last product rounds, and every rank does it alike.

All inputs are plain arrays; nothing here knows of tensors or layers. comm: from `minidl.ternary.comm`.
"""

from __future__ import annotations

import numpy as np

from minidl.ternary.comm import MAX, SUM
from minidl.ternary.pack import pack_fields, unpack_fields


def share_scales(own: np.ndarray, comm) -> np.ndarray:
    """The largest of all ranks' scales, element by element. own: (B,) float32 -> (B,) float32."""
    shared = np.empty_like(own)
    comm.Allreduce(own, shared, op=MAX)
    return shared


def ternary_allreduce(trits: np.ndarray, s: np.ndarray, comm, block: int | None = None) -> np.ndarray:
    """The mean over ranks of s * trits: (D,) float32, exactly the same on all ranks.

    trits: (D,) int8 in {-1, 0, 1};  s: (B,) float32 shared scales, each of `block` elements (None: one scale for all).
    Sends 8 * field_words(D, ranks) bytes.
    """
    ranks = comm.Get_size()
    words = pack_fields(trits, ranks)
    total = np.empty_like(words)
    comm.Allreduce(words, total, op=SUM)
    return mean_of(unpack_fields(total, trits.size, ranks), s, ranks, block)


def mean_of(sums: np.ndarray, s: np.ndarray, ranks: int, block: int | None = None) -> np.ndarray:
    """sums * fl(s / n) in float32: the one expression in which a mean is ever computed."""
    share = s / np.float32(ranks)
    if block is not None and s.size > 1:
        share = np.repeat(share, block)[: sums.size]
    return sums.astype(np.float32) * share


def float_allreduce(g: np.ndarray, comm) -> np.ndarray:
    """The baseline: the mean over ranks in float32, the shape of g. Sends 4 D bytes.

    The library adds in its own order, so another number of ranks or another MPI may give other last bits.
    """
    g = np.ascontiguousarray(g, np.float32)
    total = np.empty_like(g)
    comm.Allreduce(g, total, op=SUM)
    return total / np.float32(comm.Get_size())
