"""Exact sums for more than two ranks: each rank adds up one part of the gradient for all.

    1. all-to-all     every rank sends part r of its trits to rank r              1.6 bits a number, (n - 1) / n of them
    2. rank r adds    n small integers each: exact
    3. allgather      rank r sends its sums to everybody              log2(2 W + 1) bits a number, (n - 1) / n of them

What a rank receives grows with the logarithm of the number of workers W, where gathering everybody's trits grows with
n: 3.6 bits a number instead of 4.8 for four ranks, 8.5 instead of 101 for 64, 64 as floats. The mean has the bits of
`ternary_allreduce`, for it is the same sum of integers.

A sum of W trits is one of 2 W + 1 values, and as many of them as can be are the digits of one 64-bit word: 20 digits in
base 9 for four workers, 3.2 bits each ("radix"). But most trits are 0, and most sums near it: a code that knows how
often each occurs ("rans", see rans.py) takes hardly more than their entropy, 1.2 bits a trit and 2.2 a sum where a
third of the trits is not 0. It costs a message more, in which ranks say how long the others will be.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError
from minidl.ternary.allreduce import code_from, even_share, mean_of
from minidl.ternary.more import rans
from minidl.ternary.pack import SCHEMES, Scheme, message_bytes, pack_message, scheme_of, sum_dtype, unpack_add


def sum_allreduce(
    sums: np.ndarray, s: np.ndarray, comm, block=None, *, workers: int | None = None, own=1, step=0, code="radix"
) -> np.ndarray:
    """The mean over workers of s * trits: (D,) float32, the same bits as `ternary_allreduce`, from which its arguments.

    code: "radix", or "rans" for the trits and the sums
    With "radix" it receives (n - 1) / n of D / 5 bytes of trits and of 8 ceil(D / digits) bytes of sums, and 32 for
    each message.
    CommError names the rank whose message is damaged, of another step, scheme, length or scale.
    """
    ranks = comm.Get_size()
    workers = ranks if workers is None else workers
    total = part_of_sums(sums, s, comm, workers, own, step, code)

    whole = code_of_sums(workers, code)
    parts = bounds_of(sums.size, ranks)
    message = pack_message(total, s[0], step=step, ranks=ranks, scheme=whole)
    counts = np.array([message_bytes(end - start, whole) for start, end in parts])
    if code == "rans":  # how long a message is depends on what is in it
        comm.Allgather(np.array([message.size]), counts)
    every = np.empty(counts.sum(), np.uint8)
    comm.Allgatherv(message, [every, counts])
    found = np.split(every, np.cumsum(counts)[:-1])
    return mean_of(opened(found, parts, s[0], step, ranks, whole), s, workers, block)


def part_of_sums(sums: np.ndarray, s, comm, workers: int, own: int, step: int, code: str = "radix") -> np.ndarray:
    """This rank's part of the sums over all workers, exactly: steps 1 and 2."""
    ranks, rank = comm.Get_size(), comm.Get_rank()
    most = even_share(workers, ranks, own)
    trits = code_of_sums(most, code) if code == "rans" else f"base{2 * most + 1}"
    parts = bounds_of(sums.size, ranks)
    going = [pack_message(sums[start:end], s[0], step=step, ranks=ranks, scheme=trits) for start, end in parts]
    sizes, mine = np.array([part.size for part in going]), parts[rank][1] - parts[rank][0]
    coming = np.full(ranks, message_bytes(mine, trits))
    if code == "rans":
        comm.Alltoall(sizes, coming)
    every = np.empty(coming.sum(), np.uint8)
    comm.Alltoallv([np.concatenate(going), sizes], [every, coming])
    total = np.zeros(mine, sum_dtype(workers))
    for sender, message in enumerate(np.split(every, np.cumsum(coming)[:-1])):
        unpack_add(code_from(sender, message, mine, s[0], step, ranks, trits), total, trits)
    return total


def bounds_of(count: int, ranks: int) -> list[tuple[int, int]]:
    """Where each rank's part of `count` numbers begins and ends: at multiples of 5, of which base 3 makes a byte."""
    fives = -(-count // 5)
    ends = [min(count, 5 * (fives * k // ranks)) for k in range(ranks + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


def opened(messages, parts, scale, step: int, ranks: int, scheme: str) -> np.ndarray:
    """The sums of all parts, one after the other; rank k's message holds part k."""
    found = []
    for sender, (message, (start, end)) in enumerate(zip(messages, parts, strict=True)):
        code = code_from(sender, message, end - start, scale, step, ranks, scheme)
        found.append(scheme_of(scheme).unpack(code, end - start))
    return np.concatenate(found)


# ------------------------------------------------------------------------------------------------- sums in words


def digits_per_word(workers: int) -> int:
    """How many sums of `workers` trits one 64-bit word holds: the largest k with (2 workers + 1)^k <= 2^64."""
    digits = 1
    while (2 * workers + 1) ** (digits + 1) <= 2**64:
        digits += 1
    return digits


@twin
def pack_radix(sums: np.ndarray, workers: int) -> np.ndarray:
    """(D,) sums in -workers .. workers -> (8 W,) bytes: digit k of word j, in base 2 workers + 1, is sum k W + j."""
    digits, base = digits_per_word(workers), np.uint64(2 * workers + 1)
    words = -(-sums.size // digits)
    a = np.zeros((digits, words), np.uint64)
    a.reshape(-1)[: sums.size] = sums.astype(np.int64) + workers
    out = np.zeros(words, np.uint64)
    for row in a[::-1]:
        out = out * base + row
    return out.astype("<u8").view(np.uint8)


@twin
def unpack_radix(code: np.ndarray, count: int, workers: int) -> np.ndarray:
    """The first `count` sums of such a code, in the smallest integers that hold them."""
    dtype, base = sum_dtype(workers), np.uint64(2 * workers + 1)
    rest, rows = code.view("<u8").astype(np.uint64), []
    for _ in range(digits_per_word(workers)):
        rest, digit = np.divmod(rest, base)
        rows.append(digit.astype(np.int64) - workers)
    return np.concatenate(rows).astype(dtype)[:count]


RADIX, RANS, MOST = 1024, 32768, 30_000
"""Numbers of these codes in a message's header: RADIX or RANS plus the workers, of which there are at most MOST."""


@cache
def code_of_sums(workers: int, code: str = "radix") -> str:
    """The name, among pack's SCHEMES, of a code for sums of so many workers' trits: "radix9" or "rans9" for 4, ..."""
    if workers > MOST or code not in ("radix", "rans"):
        raise InputError(
            f"code {code!r} for {workers:,} workers: 'radix' or 'rans', and a message's header has room for {MOST:,}"
        )
    name, digits = f"{code}{2 * workers + 1}", digits_per_word(workers)
    if code == "rans":
        never = lambda code: np.zeros(1, bool)  # decoding finds what is wrong
        pack, unpack = partial(rans.pack_sums, workers=workers), partial(rans.unpack_sums, workers=workers)
        SCHEMES[name] = Scheme(RANS + workers, pack, unpack, lambda count: None, never)
    else:
        above = np.uint64((2 * workers + 1) ** digits - 1)
        wrong = lambda code: np.repeat(code.view("<u8") > above, 8)
        pack, unpack = partial(pack_radix, workers=workers), partial(unpack_radix, workers=workers)
        SCHEMES[name] = Scheme(RADIX + workers, pack, unpack, lambda count: 8 * -(-count // digits), wrong)
    return name
