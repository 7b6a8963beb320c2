"""The parameter server: the bits of the other exchanges with any number of shards, and who receives how much."""

import numpy as np
import pytest
from of_exchanges import LENGTHS, RANKS, S, Tampered, crc, exchanged, expected, trits

from minidl.errors import CommError
from minidl.ternary.more.server import server_allreduce
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.sim_comm import SimComm


@pytest.mark.parametrize("ranks", RANKS)
def test_the_mean_is_that_of_the_sum_with_any_number_of_shards(ranks):
    for shards in {1, (ranks + 1) // 2, ranks}:
        sim = SimComm(ranks)
        every = sim.run(lambda c: [exchanged(server_allreduce, c, 9, size, shards=shards) for size in LENGTHS])  # noqa: B023
        assert {crc(*found) for found in every} == {crc(*(expected(9, size) for size in LENGTHS))}, shards


def test_one_server_receives_for_all_and_shards_divide_it():
    size, received = 10**5, {}
    for shards in (1, 2, 4):
        sim = SimComm(4)
        sim.run(lambda comm: exchanged(server_allreduce, comm, 4, size, shards=shards))  # noqa: B023
        received[shards] = 8 * np.array(sim.received) / size
    assert received[1] == pytest.approx([3 * 1.6, 3.2, 3.2, 3.2], rel=1e-2), "three workers' trits; the sums"
    assert received[2] == pytest.approx([0.8 * 3 + 1.6, 0.8 * 3 + 1.6, 3.2, 3.2], rel=1e-2)
    sim = SimComm(4)
    sim.run(lambda comm: exchanged(sum_allreduce, comm, 4, size))
    assert received[4] == pytest.approx(8 * np.array(sim.received) / size, rel=1e-2), "with all of them, those of sums"


def test_what_is_refused():
    for shards in (0, 3):
        with pytest.raises(CommError, match=f"InputError: {shards} shards on 2 ranks: at least 1"):
            SimComm(2).run(lambda comm: server_allreduce(trits(0, 9), S, comm, shards=shards))  # noqa: B023
    with pytest.raises(CommError, match="CommError: rank 1's message is damaged"):
        SimComm(2).run(lambda comm: exchanged(server_allreduce, Tampered(comm, "Isend"), 2, 200))
