"""How long an exchange takes: seconds a message, a byte and a number, and how many of each there are.

    machine = Machine.link(100e6)                        100 Mbit/s with what TCP and this machine's codec take
    seconds("sums", n=4, count=2_700_000, machine=machine)        0.11 s; "ring32": 1.37 s
    machine = calibrate(comm)                            the same from a measurement: call it on all ranks

alpha, seconds a message; beta, seconds a byte; gamma, seconds a number (to draw and pack, to unpack and add, to add two
floats). A collective is rounds of messages that all ranks send at the same time, so its time is

    T = rounds * alpha + received bytes * beta + D * gamma

It knows nothing of cores shared by ranks, of switches that are full, or of a rank that is late: a lower bound that two
to four ranks on a quiet network come near. `draw` shows it from 2 to 10,000 workers.
Sources: Thakur, Rabenseifner and Gropp, IJHPCA 2005; Alexandrov et al., "LogGP", SPAA 1995.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minidl.errors import InputError
from minidl.ternary.allreduce import mean_of
from minidl.ternary.more.sums import digits_per_word
from minidl.ternary.pack import HEADER, field_words, pack_base, ternarise_pack, unpack_add
from minidl.ternary.ternarise import Ternariser, draw_key

ON_WIRE = 1.058
"""Bytes on an Ethernet for each byte of a TCP stream, with packets of 1,500 bytes: headers of both, and what comes back
to confirm them."""


@dataclass(frozen=True)
class Machine:
    """What the ranks run on, in seconds. The codec's defaults: one core of an AMD EPYC (Zen 4), Numba."""

    alpha: float  # a message, from one rank to another, however small
    beta: float  # a byte, each way
    encode: float = 0.8e-9  # a number: scale, draw and pack it
    decode: float = 0.2e-9  # a number of one message: unpack and add it, or unpack a sum and scale it
    add: float = 0.2e-9  # a number: one float addition

    @classmethod
    def link(cls, bits: float, alpha: float = 1e-4, **gamma: float) -> Machine:
        """A link of so many bits a second, over TCP."""
        return cls(alpha, 8 * ON_WIRE / bits, **gamma)


class Cost(NamedTuple):
    """What one rank does in one exchange of D numbers, in the order of the formula."""

    rounds: float
    bytes: float  # received
    encoded: float  # numbers
    decoded: float
    added: float


def _ring(item: float):
    return lambda n, count: Cost(2 * (n - 1), 2 * (n - 1) / n * item * count, 0, 0, (n - 1) / n * count)


def _gather(n: int, count: int) -> Cost:
    return Cost(n - 1, (n - 1) * (HEADER.size + count / 5), count, n * count, 0)


def _fields(n: int, count: int) -> Cost:
    return Cost(
        2 * (n - 1), 2 * (n - 1) / n * 8 * field_words(count, n), count, count, (n - 1) / n * field_words(count, n)
    )


def _sums(bytes_a_sum):
    """All-to-all of trits, then each rank's part of the sums to all."""

    def cost(n: int, count: int) -> Cost:
        received = (n - 1) * (2 * HEADER.size + count / n * (1 / 5 + bytes_a_sum(n)))
        return Cost(2 * (n - 1), received, count + count / n, 2 * count, 0)

    return cost


def _square(n: int, count: int) -> Cost:
    """Exact sums in two dimensions: within rows of sqrt(n) ranks, then within columns; and back. Any n, in a model."""
    side = math.sqrt(n)
    width = lambda workers: math.ceil(math.log2(2 * workers + 1)) / 8
    there = (side - 1) / side * (1 / 5 + width(side) / side)
    back = (side - 1) / side * (width(n) / side + width(n))
    return Cost(4 * (side - 1), count * (there + back), 2 * count, 2 * count, 0)


COSTS = {
    "ring32": _ring(4),
    "ring16": _ring(2),
    "gather": _gather,
    "ternary": _fields,
    "sums": _sums(lambda n: 8 / digits_per_word(n)),
    "four bits": _sums(lambda n: 1 / 2),
    "square": _square,
}
"""By exchange: DataParallel's modes, `sum_allreduce`, `FourBit`, and one that is modelled alone."""


def seconds(scheme: str, n: int, count: int, machine: Machine) -> float:
    """What exchanging `count` numbers takes on n ranks, by the formula. InputError lists the schemes there are."""
    if scheme not in COSTS:
        raise InputError(f"scheme {scheme!r} is not one of {', '.join(COSTS)}")
    if n == 1:
        return 0.0
    c = COSTS[scheme](n, count)
    wire = c.rounds * machine.alpha + c.bytes * machine.beta
    return wire + c.encoded * machine.encode + c.decoded * machine.decode + c.added * machine.add


# ------------------------------------------------------------------------------------------------- from a measurement


def calibrate(comm, size: int = 1 << 20, repeats: int = 9) -> Machine:
    """The machine these ranks run on: medians of the slowest rank, measured now. Collective; a second or two.

    alpha: n - 1 empty messages round the ring, all ranks at once;  beta: messages of `size` bytes, less alpha
    encode, decode, add: of a million normal numbers, here. A single rank has alpha = beta = 0.
    """
    rank, n = comm.Get_rank(), comm.Get_size()
    g = np.random.default_rng(rank).standard_normal(10**6, np.float32)
    ternariser, own = Ternariser(), Ternariser().scales(g)
    code, total, other = pack_base(np.zeros(g.size, np.int8)), np.zeros(g.size, np.int8), g.copy()

    def shift(bytes_):
        message, room = np.zeros(bytes_, np.uint8), np.empty(bytes_, np.uint8)
        request = comm.Isend(message, (rank + 1) % n)
        comm.Recv(room, (rank - 1) % n)
        request.Wait()

    def encode():
        ternariser.scales(g)
        ternarise_pack(g, own, draw_key(0, 0, rank, 0), own, g.size)

    def decode():
        unpack_add(code, total)

    def median(function) -> float:
        function()
        times = []
        for _ in range(repeats):
            comm.Barrier()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    alpha = beta = 0.0
    if n > 1:
        alpha = median(lambda: shift(0))
        beta = max(median(lambda: shift(size)) - alpha, 0.0) / size
    unpacked, scaled = median(decode), median(lambda: mean_of(total, own, n))
    mine = (alpha, beta, median(encode) / g.size, (unpacked + scaled / max(n, 2)) / g.size)
    added = median(lambda: np.add(g, other, out=other)) / g.size
    return Machine(*(max(of_ranks) for of_ranks in zip(*comm.allgather((*mine, added)), strict=True)))


# ------------------------------------------------------------------------------------------------- a picture


def draw(figure, count: int, machine: Machine, workers=None) -> None:
    """Seconds of one exchange over the number of workers, 2 to 10,000, into a matplotlib figure."""
    workers = np.unique(np.geomspace(2, 10_000, 60).astype(int)) if workers is None else workers
    axes = figure.subplots()
    lines = {name: [seconds(name, int(n), count, machine) for n in workers] for name in COSTS}
    for (name, times), style in zip(lines.items(), ("-", "--", "-", "--", "-", "--", ":"), strict=True):
        axes.plot(workers, times, style, label=name)
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds an exchange")
    axes.set_title(f"{count:,} numbers, {8 / machine.beta / 1e6:,.0f} Mbit/s, {1e3 * machine.alpha:g} ms a message")
    axes.legend()
