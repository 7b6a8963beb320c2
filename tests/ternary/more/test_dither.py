"""Stratified dither: each draw as uniform as before, all of them spread out, and the noise of their sum smaller."""

import numpy as np
import pytest

from minidl.errors import CommError, InputError
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.more import dither
from minidl.ternary.more.dither import StratifiedTernariser, places, stratified_draws
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.ternarise import Ternariser, draw_key, trits_of

ALL = 1 << 24
KEY, OWN = np.uint64(12345), np.uint64(99)


@pytest.mark.parametrize("workers", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 8))])
def test_over_all_places_and_draws_the_mean_is_exactly_q(monkeypatch, workers):
    """Each value of U comes from exactly n pairs of a place and a V: counted, for all of them."""
    monkeypatch.setattr(dither, "draws", lambda key, first, count: np.arange(ALL, dtype=np.int32))
    counts = np.zeros(ALL, np.int64)
    for place in range(workers):
        monkeypatch.setattr(dither, "places", lambda *where, place=place: place)
        counts += np.bincount(stratified_draws(KEY, OWN, 0, workers, 0, ALL), minlength=ALL)
    assert (counts == workers).all()
    u = np.arange(ALL, dtype=np.int32)
    for q in (-ALL, -1, 5_000_000, ALL - 1):
        assert int(trits_of(np.full(ALL, q, np.int32), u).sum(dtype=np.int64)) == q


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 9, 64])
def test_every_stratum_has_one_worker_and_every_worker_all_of_them(workers):
    found = np.array([places(KEY, w, workers, 0, 20_000) for w in range(workers)])
    assert (np.sort(found, axis=0) == np.arange(workers)[:, None]).all()
    shares = np.bincount(found[0], minlength=workers) / 20_000 * workers
    assert np.abs(shares - 1).max() < 6 * np.sqrt(workers / 20_000)
    if workers > 4:
        assert len(np.unique((found[1] - found[0]) % workers)) > 1, "neighbours change"


@pytest.mark.parametrize("n, table", [(2, 1.6), (4, 1.8), (8, 1.9), (64, 1.9)])
def test_the_noise_of_the_sum_is_what_was_predicted(n, table):
    """Independent Gaussian gradients at s = 2.5 sigma: variance of ordinary draws over that of strata."""
    size, s = 60_000, np.array([2.5], np.float32)
    g = np.random.default_rng(n).standard_normal((n, size)).astype(np.float32)
    total = np.clip(g / 2.5, -1, 1).sum(0)
    errors = [
        sum(kind.trits(g[w], s, own=s, worker=w).astype(int) for w in range(n)) - total
        for kind in (Ternariser(), StratifiedTernariser(n))
    ]
    assert errors[0].var() / errors[1].var() == pytest.approx(table, rel=0.05)
    assert abs(errors[1].mean()) < 5 * errors[1].std() / np.sqrt(size)


def test_with_one_draw_for_all_the_sum_is_rounded_once():
    """Hermite's identity: sum over k of floor(y + (k + v) / n) = floor(n y + v), in integers, for powers of two."""
    for n in (1, 2, 4, 64):
        q = np.random.default_rng(n).integers(-ALL, ALL + 1, 5000).astype(np.int32)
        v = dither.draws(OWN, 0, q.size).astype(np.int64)
        trits = [trits_of(q, stratified_draws(KEY, OWN, w, n, 0, q.size)) for w in range(n)]
        assert np.array_equal(np.sum(trits, axis=0, dtype=np.int64), n * q.astype(np.int64) + v >> 24)


def test_identical_gradients_lose_nearly_all_noise():
    g, s = np.random.default_rng(0).standard_normal(20_000).astype(np.float32), np.array([2.5], np.float32)
    noise = lambda kind: (sum(kind.trits(g, s, own=s, worker=w).astype(int) for w in range(16)) / 16 - g / 2.5)[
        abs(g) < 2.5
    ]
    assert noise(Ternariser()).var() / noise(StratifiedTernariser(16)).var() > 14


def test_ordinary_rules_stay():
    g = np.random.default_rng(0).standard_normal((30, 10)).astype(np.float32)
    one, plain = StratifiedTernariser(1, seed=4), Ternariser(seed=4)
    assert np.array_equal(one.trits(g, step=3, tensor=2), plain.trits(g, step=3, tensor=2)), "one worker has all of it"
    three = StratifiedTernariser(3, scale=7)
    assert np.abs(three.trits(g, worker=2)).max() == 1 and three.trits(np.zeros(5), worker=1).sum() == 0
    assert draw_key(0, 0, dither.SHARED, 0) != draw_key(0, 0, 0, 0)
    with pytest.raises(InputError, match="worker 3 of 3: strata are there for 0 to 2"):
        three.trits(g, worker=3)
    with pytest.raises(InputError, match="0 workers"):
        StratifiedTernariser(0)


def test_a_training_takes_it_in_the_place_of_its_own():
    class P:
        data = np.zeros(5000, np.float32)

        def __init__(self):
            self.grad = np.random.default_rng(0).standard_normal(5000).astype(np.float32)

    def main(comm, strata):
        p = P()
        parallel = DataParallel([("w", p)], comm)
        if strata:
            parallel.ternariser = StratifiedTernariser(parallel.workers + (strata == "uneven") * comm.Get_rank())
        parallel.reduce(0)
        return ((p.grad - np.clip(P().grad, -p.grad.max(), p.grad.max())) ** 2).mean()

    noise = {strata: SimComm(4).run(lambda comm: main(comm, strata)) for strata in (False, True)}  # noqa: B023
    assert len(set(noise[True])) == 1 and noise[True][0] < noise[False][0] / 3
    with pytest.raises(CommError, match="rank 1 has workers"):
        SimComm(2).run(lambda comm: main(comm, "uneven"))
