"""The float baseline on 1 to 9 ranks: exact where floats are, bytes as no algorithm can undercut, 16 bits."""

import numpy as np
import pytest

from minidl.ternary.ring import ring_allreduce
from minidl.ternary.sim_comm import SimComm


def integers(rank, size):
    return np.random.default_rng([rank, size]).integers(-100, 101, size).astype(np.float32)


@pytest.mark.parametrize("ranks", range(1, 10))
def test_the_ring_adds_integers_exactly_at_every_length(ranks):
    """Integers below 2^24 have one sum in float32, whatever the order: any number lost or added twice would show."""
    lengths = sorted({0, 1, ranks - 1, ranks, ranks + 1, 2 * ranks + 1, 50})

    def main(comm):
        return [ring_allreduce(integers(comm.Get_rank(), n), comm, segment=3) for n in lengths]

    every = SimComm(ranks).run(main)
    for k, n in enumerate(lengths):
        mean = np.sum([integers(r, n) for r in range(ranks)], axis=0, dtype=np.float32) / np.float32(ranks)
        assert all(np.array_equal(found[k], mean) and found[k].dtype == np.float32 for found in every), n


def test_each_rank_sends_two_shares_of_the_gradient_for_every_other_rank():
    def main(comm):
        ring_allreduce(np.ones((10, 6)), comm, segment=4)
        ring_allreduce(np.ones((10, 6)), comm, np.float16)
        return comm.ledger.total(call="Isend")

    assert set(SimComm(4).run(main)) == {2 * 3 * 15 * 4 + 2 * 3 * 15 * 2}


def test_in_sixteen_bits_all_ranks_keep_the_same_rounded_mean():
    """Every rank holds the same bits, within half a unit of float16 for each of n roundings; the owner rounds too."""

    def main(comm):
        g = np.random.default_rng(comm.Get_rank()).standard_normal((30, 7)).astype(np.float32)
        return ring_allreduce(g, comm, np.float16), g

    every = SimComm(5).run(main)
    mean = np.mean([g.astype(np.float64) for _, g in every], axis=0)
    for found, g in every:
        assert found.shape == g.shape and found.dtype == np.float32 and np.array_equal(found, every[0][0])
        assert 0 < np.abs(found - mean).max() < 5 * 8 * 2.0**-11
    assert np.isinf(SimComm(2).run(lambda comm: ring_allreduce(np.full(2, 6e4), comm, np.float16))[0]).all()


def test_the_gradient_itself_is_left_alone():
    g = [np.ones(3, np.float32), np.ones(3, np.float32)]
    SimComm(2).run(lambda comm: ring_allreduce(g[comm.Get_rank()], comm))
    assert (g[0] == 1).all() and (g[1] == 1).all()
