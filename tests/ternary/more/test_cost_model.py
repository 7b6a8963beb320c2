"""The cost model: the clock of simulated ranks to the last digits, and the times measured over throttled links."""

import numpy as np
import pytest
from of_exchanges import exchanged

from minidl.errors import InputError
from minidl.ternary.allreduce import gather_allreduce, ternary_allreduce
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.more.cost_model import COSTS, Machine, calibrate, seconds
from minidl.ternary.more.requantise import FourBit
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.ring import ring_allreduce
from minidl.ternary.sim_comm import SimComm

FLOATS = {"ring32": np.float32, "ring16": np.float16}
EXCHANGES = {"gather": gather_allreduce, "ternary": ternary_allreduce, "sums": sum_allreduce, "four bits": FourBit()}


@pytest.mark.parametrize("scheme", [*FLOATS, *EXCHANGES])
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_the_wire_part_is_the_clock_of_simulated_ranks(scheme, n):
    """Whole bytes and words make a difference of a few in 100,000."""
    count, machine = 360_000, Machine(1e-3, 1e-7, 0, 0, 0)
    sim = SimComm(n, latency=machine.alpha, bandwidth=1 / machine.beta)
    if scheme in FLOATS:
        sim.run(lambda comm: ring_allreduce(np.ones(count), comm, FLOATS[scheme], segment=count))
    else:
        sim.run(lambda comm: exchanged(EXCHANGES[scheme], comm, n, count))
    assert sim.seconds == pytest.approx(seconds(scheme, n, count, machine), rel=2e-3)


MEASURED = {  # milliseconds for 2,621,440 numbers over links of 100 Mbit/s, one rank in each network namespace
    2: {"ring32": 888, "ring16": 445, "gather": 45, "sums": 56},
    4: {"ring32": 1352, "ring16": 673, "gather": 135, "sums": 105},
}


@pytest.mark.parametrize("n", MEASURED)
def test_times_over_throttled_links_are_predicted_within_six_percent(n):
    machine = Machine.link(100e6, encode=0, decode=0, add=0)  # what was sent there had no codec
    for scheme, measured in MEASURED[n].items():
        assert 1e3 * seconds(scheme, n, 2_621_440, machine) == pytest.approx(measured, rel=0.06), scheme


def test_ten_thousand_workers_at_100_mbit():
    """ResNet-50 (25.6 million), 25 ms a message: floats round a ring take minutes, sums in two dimensions seconds."""
    machine = Machine.link(100e6, 0.025, encode=0, decode=0, add=0)
    time_of = lambda scheme: seconds(scheme, 10_000, 25_600_000, machine)
    assert time_of("ring32") == pytest.approx(517, rel=0.01)
    square = time_of("square") - 4 * 99 * 0.025  # messages of a row in flight together
    assert square == pytest.approx(4.4 - 0.1, rel=0.05)
    assert time_of("gather") > 1000 * square, "everybody's trits are too many"


def test_who_wins_where():
    slow, fast = Machine.link(100e6), Machine(2e-6, 1 / 40e9)
    best = lambda n, machine, count=10**6: min(COSTS, key=lambda scheme: seconds(scheme, n, count, machine))
    assert best(2, slow) == "gather" and best(4, slow) == "sums" and best(64, slow) == "four bits"
    assert best(2, fast) == "ring16", "memory is faster than the codec"
    for scheme in COSTS:
        times = [seconds(scheme, n, 10**6, slow) for n in (1, 2, 4, 8, 16)]
        assert times[0] == 0 and times == sorted(times), scheme
    with pytest.raises(InputError, match="scheme 'morse' is not one of ring32, ring16, gather"):
        seconds("morse", 2, 10, slow)


def test_calibration_measures_this_machine():
    alone = calibrate(Counted(OneRank()), repeats=3)
    assert alone.alpha == alone.beta == 0 and 1e-11 < alone.encode < 1e-6 and 1e-12 < alone.decode < 1e-6
    two = SimComm(2).run(lambda comm: calibrate(comm, 1 << 16, repeats=2))
    assert two[0] == two[1] and two[0].alpha > 0, "all ranks go on with the same numbers"
