"""What the tests of all exchanges share: trits of every worker, and their sum."""

import zlib

import numpy as np
import pytest

from minidl.ternary.allreduce import mean_of, share_of
from minidl.ternary.pack import sum_dtype

LENGTHS = [0, 1, 4, 5, 6, 8, 9, 10, 19, 20, 21, 44, 45, 46, 200]  # around the ends of bytes, words and parts
RANKS = [1, 2, 3, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 7, 8)), 9]
S = np.array([0.3], np.float32)


def trits(worker, size):
    return np.random.default_rng([worker, size]).integers(-1, 2, size).astype(np.int8)


def sums_of(workers, size):
    return np.sum([np.zeros(size, np.int8), *(trits(w, size) for w in workers)], axis=0, dtype=sum_dtype(len(workers)))


def exchanged(exchange, comm, workers, size, s=S, block=None, **options):
    mine = share_of(comm.Get_rank(), comm.Get_size(), workers)
    return exchange(sums_of(mine, size), s, comm, block, workers=workers, own=len(mine), **options)


def expected(workers, size, s=S, block=None):
    return mean_of(sums_of(range(workers), size), s, workers, block)


def crc(*arrays):
    return zlib.crc32(b"".join(array.tobytes() for array in arrays))


class Tampered:
    """A communicator that changes the first byte behind the header in what this rank hands to one call."""

    def __init__(self, comm, call, rank=1):
        self.comm, self.call, self.rank = comm, call, rank

    def __getattr__(self, name):
        if name != self.call or self.comm.Get_rank() != self.rank:
            return getattr(self.comm, name)

        def method(buf, *others, **named):
            changed = np.array(buf[0] if isinstance(buf, list) else buf)
            changed[33] ^= 4
            return getattr(self.comm, name)([changed, buf[1]] if isinstance(buf, list) else changed, *others, **named)

        return method
