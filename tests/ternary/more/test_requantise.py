"""Sums in four bits: right on average, the same on all ranks, and little noise beside what is there already."""

import numpy as np
import pytest
from of_exchanges import LENGTHS, RANKS, S, Tampered, exchanged, expected

from minidl.errors import CommError
from minidl.ternary.more.requantise import LEVELS, FourBit, levels_of
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.ternarise import ONE


def test_the_draw_is_right_on_average_exactly(monkeypatch):
    """Over all 2^24 draws, in steps of 2^8: the mean level is q / 2^24 to the last bit that such steps can show."""
    sums, c = np.array([-5, -3, -1, 0, 1, 2, 4, 5], np.int8), np.float32(5)
    q = np.rint(sums / 5.0 * LEVELS * ONE).astype(np.int64)
    total = np.zeros(sums.size, np.int64)
    for u in range(0, 2**24, 2**8):
        monkeypatch.setattr("minidl.ternary.more.requantise.draws", lambda key, first, count: np.int32(u))  # noqa: B023
        total += levels_of(sums, c, np.uint64(0))
    assert np.abs(total * 2**8 - q).max() < 2**8
    assert (np.abs(levels_of(np.array([-9, 9], np.int8), c, np.uint64(0))) <= LEVELS).all(), "clipped"
    assert not levels_of(sums, np.float32(0), np.uint64(0)).any()


def test_parts_draw_as_the_whole_does():
    sums, key = np.random.default_rng(0).integers(-64, 65, 1000).astype(np.int8), np.uint64(7)
    parts = [levels_of(sums[start : start + 300], np.float32(60), key, start) for start in range(0, 1000, 300)]
    assert np.array_equal(np.concatenate(parts), levels_of(sums, np.float32(60), key))


@pytest.mark.parametrize("ranks", RANKS)
def test_all_ranks_have_the_same_mean_at_every_length(ranks):
    for size in LENGTHS:
        every = SimComm(ranks).run(lambda comm: exchanged(FourBit(), comm, 9, size))  # noqa: B023
        assert all(np.array_equal(found, every[0]) and found.dtype == np.float32 for found in every)
        if size:
            exact = expected(9, size)
            step = np.abs(exact).max() / LEVELS
            assert np.abs(every[0] - exact).max() <= 1.001 * step or size >= 64, "below 64 nothing is clipped"


def test_the_mean_is_unbiased_and_the_noise_a_fiftieth():
    workers, size = 64, 20_000
    exact = expected(workers, size).astype(float)
    draw = lambda clip, step: SimComm(2).run(lambda c: exchanged(FourBit(clip=clip), c, workers, size, step=step))[0]
    errors = np.array([draw(None, step) - exact for step in range(40)])
    assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(errors.size), "over everything"
    assert np.abs(errors.mean(axis=0)).max() < 6 * errors.std() / np.sqrt(40), "and for each number"
    clipped = np.array([draw(2.5, step) - exact for step in range(10)])
    inside = np.abs(exact) < 2.4 * exact.std()
    assert clipped[:, inside].var() / exact.var() == pytest.approx(0.0213, rel=0.05), "(2.5 / 7)^2 / 6"
    assert errors.var() > 1.5 * clipped[:, inside].var(), "without the clip the steps are wider"


def test_what_a_rank_receives_does_not_grow_with_the_workers():
    size, bits = 200_000, []
    for ranks, workers in ((2, 2), (8, 8), (8, 1000)):
        sim = SimComm(ranks)
        sim.run(lambda comm: exchanged(FourBit(), comm, workers, size))  # noqa: B023
        bits.append(8 * max(sim.received) / size)
    assert bits[:2] == pytest.approx([2.8, 4.9], rel=5e-3)
    assert bits[2] == pytest.approx(7 / 8 * (8 + 4), rel=5e-3), "but a rank with 125 workers of its own sends bytes"


def test_a_damaged_message_is_refused_by_its_senders_name():
    for call in ("Alltoallv", "Allgatherv"):
        with pytest.raises(CommError, match="CommError: rank 1's message is damaged"):
            SimComm(3).run(lambda comm: exchanged(FourBit(), Tampered(comm, call), 3, 200))  # noqa: B023


def test_zeros_stay_zeros():
    every = SimComm(3).run(lambda comm: FourBit()(np.zeros(100, np.int8), S, comm))
    assert not np.any(every)
