"""The mean of all workers' gradients: in ternary, three small exact steps; in float, one call.

    1. share_scales    s = max over workers of s_i                    one float32 per scale, Allreduce(MAX)
    2. (ternarise)     t_i in {-1, 0, 1} with E[t_i] = clip(g_i) / s
    3. an exchange     mean = (sum over workers of t_i) fl(s / n)     integers, exactly

Two exchanges are here. `ternary_allreduce` puts trits into bit-fields and lets MPI add them; `gather_allreduce` sends
every rank's packed trits to every other, in messages that are checked. They take the same arguments and give the same
bits: with a shared scale the sum is a sum of integers, whatever order or algorithm the MPI library chooses. Only the
last product rounds, and every rank does it alike.

A rank may stand for several (virtual) workers: then it hands over the sum of their trits, and says of how many.
All inputs are plain arrays; nothing here knows of tensors or layers. comm: from `minidl.ternary.comm`.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import CommError, InputError
from minidl.ternary.comm import MAX, SUM
from minidl.ternary.pack import open_message, pack_fields, pack_message, sum_dtype, unpack_add, unpack_fields


def share_scales(own: np.ndarray, comm) -> np.ndarray:
    """The largest of all ranks' scales, element by element. own: (B,) float32 -> (B,) float32."""
    shared = np.empty_like(own)
    comm.Allreduce(own, shared, op=MAX)
    return shared


def share_of(rank: int, ranks: int, workers: int) -> range:
    """The (virtual) workers that a rank stands for: neighbours, as evenly as they can be shared out."""
    return range(rank * workers // ranks, (rank + 1) * workers // ranks)


def even_share(workers: int, ranks: int, own: int) -> int:
    """The most workers any rank has, which is what its code must hold; InputError if this one has more."""
    most = -(-workers // ranks)
    if own > most:
        raise InputError(
            f"this rank has {own} of {workers} workers; over {ranks} ranks an even share is {most} at most"
        )
    return most


def code_from(rank: int, message, count: int, scale, step: int, ranks: int, scheme: str) -> np.ndarray:
    """The code in a rank's message; CommError names the rank if it is not the one that is due here."""
    sender = f"rank {rank}'s message"
    code, its_count, its_scale = open_message(message, step=step, ranks=ranks, scheme=scheme, sender=sender)
    if its_count != count or its_scale != scale:
        raise CommError(
            f"{sender} has {its_count} trits of scale {its_scale:.9g}, but this rank has {count} of {scale:.9g}: "
            "all ranks reduce the same tensors in the same order, and share_scales comes before"
        )
    return code


# --------------------------------------------------------------------------------------------- ternary exchanges


def ternary_allreduce(
    sums: np.ndarray, s: np.ndarray, comm, block: int | None = None, *, workers: int | None = None, own=1, step=0
) -> np.ndarray:
    """The mean over workers of s * trits: (D,) float32, exactly the same on all ranks.

    sums: (D,) signed integers, the sum of the trits of this rank's `own` workers (one worker: its trits)
    s: (B,) float32 shared scales, each of `block` elements (None: one scale for all)
    workers: how many there are on all ranks together; None: one on each
    step: not sent here; other exchanges put it in their messages

    Sends 8 * field_words(D, workers) bytes.
    """
    workers = comm.Get_size() if workers is None else workers
    words = pack_fields(sums, workers, own)
    total = np.empty_like(words)
    comm.Allreduce(words, total, op=SUM)
    return mean_of(unpack_fields(total, sums.size, workers), s, workers, block)


def gather_allreduce(
    sums: np.ndarray, s: np.ndarray, comm, block=None, *, workers: int | None = None, own=1, step=0, scheme="base3"
) -> np.ndarray:
    """The same mean, from every rank's message: trits in `scheme`, or sums in base 2m + 1 where a rank has m workers.

    Sends message_bytes(D, scheme) bytes, and receives as many from every other rank: the fewest bytes for two ranks,
    too many for a hundred. CommError names the rank whose message is damaged, of another step, scheme, length or
    scale. Arguments as in `ternary_allreduce`.
    """
    ranks = comm.Get_size()
    workers = ranks if workers is None else workers
    if (most := even_share(workers, ranks, own)) > 1:
        scheme = f"base{2 * most + 1}"
    message = pack_message(sums, s[0], step=step, ranks=ranks, scheme=scheme)
    every = np.empty((ranks, message.size), np.uint8)
    comm.Allgather(message, every)
    total = np.zeros(sums.size, sum_dtype(workers))
    for rank, received in enumerate(every):
        unpack_add(code_from(rank, received, sums.size, s[0], step, ranks, scheme), total, scheme)
    return mean_of(total, s, workers, block)


@twin
def mean_of(sums: np.ndarray, s: np.ndarray, workers: int, block: int | np.ndarray | None = None) -> np.ndarray:
    """sums * fl(s / workers) in float32: the one expression in which a mean is ever computed.

    block: how many sums share a scale, as in `ternary_allreduce`; or (B,) integers, how many share each
    """
    share = s / np.float32(workers)
    if block is not None and (s.size > 1 or np.ndim(block)):
        share = np.repeat(share, block)[: sums.size]
    return sums.astype(np.float32) * share


# --------------------------------------------------------------------------------------------- float exchanges


def float_allreduce(g: np.ndarray, comm) -> np.ndarray:
    """The baseline: the mean over ranks in float32, the shape of g. Sends 4 D bytes.

    The library adds in its own order, so another number of ranks or another MPI may give other last bits.
    """
    g = np.ascontiguousarray(g, np.float32)
    total = np.empty_like(g)
    comm.Allreduce(g, total, op=SUM)
    return total / np.float32(comm.Get_size())


def gather_in_order(rows: np.ndarray, comm, workers: int) -> np.ndarray:
    """The mean over all workers in float32, added in worker order: the same bits on any number of ranks.

    rows: (own, D), the gradients of this rank's workers, which are `share_of(rank, ranks, workers)`; also (0, D).
    Sends 4 own D bytes, and receives those of all workers: for small tensors, and a last layer that stays in float.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    rank, ranks = comm.Get_rank(), comm.Get_size()
    shares = [len(share_of(r, ranks, workers)) for r in range(ranks)]
    if len(rows) != shares[rank]:
        raise InputError(
            f"rank {rank} has gradients of {len(rows)} workers; "
            f"its share of {workers} on {ranks} ranks is {shares[rank]}"
        )
    every = np.empty((workers, rows.shape[1]), np.float32)
    comm.Allgatherv(rows, [every, [share * rows.shape[1] for share in shares]])
    total = every[0]
    for row in every[1:]:
        total += row
    return total / np.float32(workers)
