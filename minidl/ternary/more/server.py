"""A sharded parameter server, as in the paper: workers push trits, servers add them, workers pull the sums.

    push    every rank -> the rank that serves part r           1.6 bits a number
    pull    that rank -> every rank                             log2(2 W + 1) bits a number

One server receives all of it, n times what a worker sends: its link is what everybody waits for. Shards divide the
gradient among several servers. With one on each rank nobody waits for anybody in particular, and the bytes are those of
`sum_allreduce`. (The paper's servers keep the weights, and workers pull these every few steps; here, as in its own
optimisation, gradients are pulled and every worker steps by itself.)
Source: Wen et al., TernGrad, NIPS 2017, section 3.2 (parameter localisation, scaler sharing).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from minidl.errors import InputError
from minidl.ternary.allreduce import code_from, even_share, mean_of
from minidl.ternary.more.sums import bounds_of, code_of_sums, opened
from minidl.ternary.pack import message_bytes, pack_message, sum_dtype, unpack_add


def server_allreduce(
    sums: np.ndarray, s: np.ndarray, comm, block=None, *, workers: int | None = None, own=1, step=0, shards=None
) -> np.ndarray:
    """The mean over workers of s * trits: (D,) float32, the bits and arguments of `ternary_allreduce`.

    shards: how many ranks serve, the first ones; None: all. InputError if there are fewer ranks.
    """
    ranks, rank = comm.Get_size(), comm.Get_rank()
    workers, shards = ranks if workers is None else workers, ranks if shards is None else shards
    if not 1 <= shards <= ranks:
        raise InputError(f"{shards} shards on {ranks} ranks: at least 1, and each on a rank of its own")
    trits, whole = f"base{2 * even_share(workers, ranks, own) + 1}", code_of_sums(workers)
    parts = bounds_of(sums.size, shards)
    seal = partial(pack_message, scale=s[0], step=step, ranks=ranks)

    going = [seal(sums[start:end], scheme=trits) for start, end in parts]
    requests = [comm.Isend(message, server) for server, message in enumerate(going)]
    if rank < shards:
        mine = parts[rank][1] - parts[rank][0]
        total, message = np.zeros(mine, sum_dtype(workers)), np.empty(message_bytes(mine, trits), np.uint8)
        for worker in range(ranks):
            comm.Recv(message, worker)
            unpack_add(code_from(worker, message, mine, s[0], step, ranks, trits), total, trits)
        answer = seal(total, scheme=whole)
        requests += [comm.Isend(answer, worker, tag=1) for worker in range(ranks)]
    pulled = [np.empty(message_bytes(end - start, whole), np.uint8) for start, end in parts]
    for server, message in enumerate(pulled):
        comm.Recv(message, server, tag=1)
    for request in requests:
        request.Wait()
    return mean_of(opened(pulled, parts, s[0], step, ranks, whole), s, workers, block)
