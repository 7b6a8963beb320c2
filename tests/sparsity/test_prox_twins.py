"""The Numba twins of the proximal step against their NumPy forms, for every layout of blocks."""

import time

import numpy as np
import pytest

from minidl import backend
from minidl.sparsity.prox import block_squares, scaled_blocks

pytest.importorskip("numba")

CUTS = [  # (a, i, b, c, j, d): filters, gates, channels, columns, rows and columns, one group, long, odd
    (1, 7, 1, 1, 1, 45), (4, 5, 1, 1, 1, 6), (1, 1, 7, 1, 5, 9), (1, 1, 37, 1, 1500, 1), (1, 6, 1, 1, 8, 1),
    (1, 1, 6, 1, 1, 8), (3, 4, 10, 2, 6, 1), (2, 3, 2, 2, 3, 2),
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twins_compute_what_numpy_computes(cut, dtype):
    rng = np.random.default_rng(0)
    x, factor = rng.standard_normal(cut).astype(dtype), rng.random((cut[1], cut[4])) * (rng.random(cut[4]) > 0.3)
    with backend.form("numba"):
        ours = block_squares(x), scaled_blocks(x, factor)
    np.testing.assert_allclose(ours[0], block_squares.numpy(x.astype(np.float64)), rtol=1e-12)
    assert ours[0].dtype == np.float64 and np.array_equal(ours[1], scaled_blocks.numpy(x, factor))


def test_threads_share_large_arrays_out_and_nan_passes():
    x = np.random.default_rng(0).standard_normal((1, 1, 2100, 1, 2000, 1)).astype(np.float32)
    x[0, 0, 7, 0, 11, 0] = np.nan
    with backend.form("numba"):
        squares = block_squares(x)
        assert np.isnan(squares[0, 11]) and np.isnan(squares).sum() == 1
        assert np.isnan(scaled_blocks(x, np.ones((1, 2000)))[0, 0, 7, 0, 11, 0])
    expected = block_squares.numpy(x.astype(np.float64))
    np.testing.assert_allclose(squares, expected, rtol=1e-12)


def test_the_weights_that_a_step_replaces_lend_their_memory_to_the_next(monkeypatch):
    from minidl.fast import buffers

    monkeypatch.setattr(buffers, "_idle", {})
    x, factor = np.ones((1, 500, 1, 1, 1, 600), np.float32), np.full((500, 1), 0.5)
    with backend.form("numba"):
        old = scaled_blocks(x, factor)
        w = scaled_blocks(old, factor)
        assert (w == 0.25).all() and not any(buffers._idle.values())
        del old
        assert sum(map(len, buffers._idle.values())) == 1
        assert (scaled_blocks(w, factor) == 0.125).all() and (w == 0.25).all()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_norms_and_step_of_60_million_weights_take_at_most_three_copies(axis, threads):
    numba = pytest.importorskip("numba")
    from minidl.fast.pool_of_threads import in_parts
    from minidl.sparsity.prox import Blocks, shrink

    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("Numba has fewer threads here")
    w = np.random.default_rng(0).standard_normal((4096, 14648), np.float32)
    cut, there = Blocks(w.shape, [(axis, np.arange(w.shape[axis]))]), np.empty_like(w)

    def copy():
        in_parts(len(w), lambda k, first, last: np.copyto(there[first:last], w[first:last]), w.size)

    def step():
        norms = cut.norms(w)
        factors, _, _ = shrink([cut], [norms], np.full(w.shape[axis], 0.1))
        cut.scale(w, factors[0])

    best, before = {copy: np.inf, step: np.inf}, numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        with backend.form("numba"):
            for _ in range(20):  # by turns, and the shortest of each: what disturbs a run makes it longer
                for run in best:
                    start = time.perf_counter()
                    run()
                    best[run] = min(best[run], time.perf_counter() - start)
    finally:
        numba.set_num_threads(before)
    assert best[step] <= 3 * best[copy], f"{best[step] / best[copy]:.2f} times memcpy with {threads} threads"
