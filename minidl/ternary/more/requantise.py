"""Sums in four bits, however many workers there are: for hundreds of them, and long thin wires.

    1. all-to-all     trits, 1.6 bits a number, added by the rank whose part it is: as in sums.py
    2. that rank      sum -> level = (q + U) >> 24 in -7 .. 7, q = sum 7 / c in units of 2^-24: drawn, as trits are
    3. allgather      two levels in a byte

An exact sum of 512 workers needs 10 bits; four are enough, because what the draw adds is little beside the noise that
the trits have brought already: with c = 2.5 sigma of the sums, a step is 0.36 sigma, and its noise 1/6 of its square,
2 % of the sums' variance. Every part is drawn once, by one rank, so all ranks have the same bits. With another number
of ranks the parts, and so the bits, are others.
Source: the two-sided compression of Tang et al., "DoubleSqueeze", ICML 2019, without its memory of errors.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from minidl.ternary.allreduce import mean_of
from minidl.ternary.more.sums import bounds_of, part_of_sums
from minidl.ternary.pack import message_bytes, open_message, pack_message, unpack_base
from minidl.ternary.ternarise import ONE, draw_key, draws, scale_of

LEVELS = 7
CODE = f"base{2 * LEVELS + 1}"


class FourBit:
    """An exchange: FourBit()(sums, s, comm, ...) -> the mean over workers of s * trits, unbiased but for the clip.

    clip: the sums are clipped at min(clip sigma, max|sum|); None: at the largest, and the mean is right on average
    seed: of the draws, which also depend on the step, the tensor's size and scale, and the place in it
    """

    def __init__(self, seed: int = 0, clip: float | None = 2.5):
        self.seed, self.clip = seed, clip

    def __call__(self, sums, s, comm, block=None, *, workers: int | None = None, own=1, step=0) -> np.ndarray:
        """(D,) float32, the same bits on all ranks. Arguments and errors as of `sum_allreduce`.

        Receives (n - 1) / n of D / 5 + D / 2 bytes, and 32 for each message.
        """
        ranks, rank = comm.Get_size(), comm.Get_rank()
        workers = ranks if workers is None else workers
        parts = bounds_of(sums.size, ranks)
        total = part_of_sums(sums, s, comm, workers, own, step)

        key = draw_key(self.seed, step, sums.size, int(s[:1].view(np.uint32)[0]))
        c = scale_of(total.astype(np.float32), self.clip) if total.size else np.float32(0)
        levels = levels_of(total, c, key, parts[rank][0])
        message = pack_message(levels, float(c), step=step, ranks=ranks, scheme=CODE)
        counts = [message_bytes(end - start, CODE) for start, end in parts]
        every = np.empty(sum(counts), np.uint8)
        comm.Allgatherv(message, [every, counts])

        mean = np.empty(sums.size, np.float32)
        check = partial(open_message, step=step, ranks=ranks, scheme=CODE)
        for k, ((start, end), said) in enumerate(zip(parts, np.split(every, np.cumsum(counts)[:-1]), strict=True)):
            code, count, c = check(said, sender=f"rank {k}'s message")
            mean[start:end] = unpack_base(code, count, LEVELS) * (c / np.float32(LEVELS))
        return mean_of(mean, s, workers, block)


def levels_of(sums: np.ndarray, c: np.float32, key: np.uint64, first: int = 0) -> np.ndarray:
    """(D,) int8 in -7 .. 7 with E[level] = clip(sums, -c, c) 7 / c. first: where the sums begin in their tensor."""
    if c == 0:
        return np.zeros(sums.size, np.int8)
    q = np.rint(np.clip(sums / np.float64(c), -1, 1) * (LEVELS * ONE)).astype(np.int32)
    return ((q + draws(key, first, sums.size)) >> 24).astype(np.int8)
