"""A script for tests, started as ranks: every exchange at every length, and the checksum of all that came of it."""

import zlib

import numpy as np

from minidl.ternary.allreduce import gather_allreduce, gather_in_order, share_of, ternary_allreduce
from minidl.ternary.comm import world
from minidl.ternary.launch import report_result
from minidl.ternary.ring import ring_allreduce

LENGTHS = [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 15, 16, 20, 21, 22, 26, 64, 97]  # around every code's and word's boundaries
S = np.array([0.3], np.float32)


def trits(worker, n):
    return np.random.default_rng([worker, n]).integers(-1, 2, n).astype(np.int8)


def sums_of(workers, n):
    return np.sum([np.zeros(n, np.int8), *(trits(w, n) for w in workers)], axis=0, dtype=np.int8)


def crc_of_all_means(comm):
    rank, ranks, crc = comm.Get_rank(), comm.Get_size(), 0
    for workers in (ranks, 8):
        mine = share_of(rank, ranks, workers)
        for n in LENGTHS:
            count = {"workers": workers, "own": len(mine), "step": n}
            found = [exchange(sums_of(mine, n), S, comm, **count) for exchange in (ternary_allreduce, gather_allreduce)]
            assert np.array_equal(*found)
            rows = np.array([np.random.default_rng([w, n]).standard_normal(n) for w in mine], np.float32)
            found += [ring_allreduce(rows[0], comm, dtype, segment=7) for dtype in (np.float32, np.float16)]
            found.append(gather_in_order(rows, comm, workers))
            for mean in found:
                crc = zlib.crc32(mean.tobytes(), crc)
    return crc


if __name__ == "__main__":
    report_result({"crc": crc_of_all_means(world())})
