"""The Numba twins of the proximal step against their NumPy forms, for every layout of blocks."""

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
