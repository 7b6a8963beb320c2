"""Which exchange to use, and whether ternary gradients are worth it at all: said before training.

    choice = choose(sizes, comm.Get_size(), calibrate(comm), compute=0.05)
    print(choice.sentence)         4 ranks, 95 Mbit/s: "sums" takes 0.11 s a step, the best floats 0.68 s: ...
    parallel = Fused(model.named_parameters(), comm, **choice.options)

The cost model gives every exchange's seconds. A step is computing and then exchanging (with Overlap it may be less), so
where computing takes long, or the network is fast, floats are as good: then they are chosen, for they are exact. The
16-bit ring is the float baseline that has to be beaten, not the 32-bit one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minidl.errors import InputError
from minidl.ternary.more.cost_model import Machine, seconds
from minidl.ternary.more.requantise import FourBit
from minidl.ternary.more.sums import sum_allreduce

OPTIONS: dict[str, dict[str, Any]] = {
    "ring32": {"mode": "ring32"},
    "ring16": {"mode": "ring16"},
    "ternary": {"mode": "ternary"},
    "gather": {"mode": "gather"},
    "sums": {"exchange": sum_allreduce},
    "four bits": {"exchange": FourBit()},
}
"""By the cost model's name: what DataParallel or Fused has to be told."""
FLOATS = ("ring32", "ring16")
WORTH = 1.05
"""How much faster a whole step has to be, to be worth other gradients."""


class Choice(NamedTuple):
    """What to use, and what it is worth."""

    scheme: str
    options: dict[str, Any]  # for DataParallel or Fused
    seconds: float  # of its exchange
    gain: float  # a step with the best float exchange over one with the best ternary exchange
    sentence: str


def choose(
    sizes: Sequence[int], ranks: int, machine: Machine, compute: float, *, fused: bool = True, exact: bool = False
) -> Choice:
    """The exchange with the shortest step, in floats unless a ternary one makes the step 5 % faster.

    sizes: elements of each tensor;  compute: seconds of forward, backward and step, without any exchange
    fused: all tensors in one exchange, as Fused does; else one each;  exact: leave out what rounds sums ("four bits")
    InputError if compute is negative.
    """
    if compute < 0:
        raise InputError(f"{compute} seconds of computing in a step: at least 0")
    parts = [sum(sizes)] if fused else sizes
    scales = seconds("ring32", ranks, 1, machine)  # the largest of all ranks' scales, before any trit
    cost = {
        scheme: sum(seconds(scheme, ranks, size, machine) for size in parts) + scales * (scheme not in FLOATS)
        for scheme in OPTIONS if not (exact and scheme == "four bits")
    }  # fmt: skip
    floats = min(FLOATS, key=lambda scheme: cost[scheme])
    trits = min((scheme for scheme in cost if scheme not in FLOATS), key=lambda scheme: cost[scheme])
    gain = (compute + cost[floats]) / (compute + cost[trits]) if ranks > 1 else 1.0
    scheme = trits if gain >= WORTH else floats
    where = f"{ranks} ranks, {8 / machine.beta / 1e6:,.0f} Mbit/s" if machine.beta else f"{ranks} ranks"
    compared = (
        f'"{trits}" takes {cost[trits]:.3g} s a step, the best floats ("{floats}") {cost[floats]:.3g} s: beside '
        f"{compute:.3g} s of computing a step is {gain:.2f} times as fast"
    )
    sentence = f"{where}: {compared}" if scheme == trits else f"not worth it here: {where}, {compared}"
    return Choice(scheme, OPTIONS[scheme], cost[scheme], gain, sentence)
