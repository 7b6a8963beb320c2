"""The kernels that a convolution gets by its shape, against the NumPy form: what they compute is one function."""

import importlib
import os

import numpy as np
import pytest

from minidl import backend
from minidl.layers.conv import conv2d

pytest.importorskip("numba")
conv3x3 = pytest.importorskip("minidl.fast.conv3x3")
winograd = pytest.importorskip("minidl.fast.winograd")
fast = importlib.import_module("minidl.fast.conv")
threads = importlib.import_module("minidl.fast.pool_of_threads")

# x, weight, options: what conv3x3 takes, then what it leaves to blocks of columns
DIRECT = [
    ((2, 3, 7, 6), (4, 3, 3, 3), {"padding": 1}),
    ((3, 5, 4, 9), (7, 5, 3, 3), {"padding": (0, 2)}),
    ((1, 1, 3, 3), (1, 1, 3, 3), {}),
    ((4, 2, 1, 1), (2, 2, 3, 3), {"padding": 1}),
    ((2, 1, 1, 1), (3, 1, 3, 3), {"padding": 2}),
    ((3, 4, 1, 8), (6, 4, 3, 3), {"padding": (2, 0)}),
    ((5, 6, 17, 15), (5, 6, 3, 3), {"padding": 2}),
    ((0, 3, 5, 6), (4, 3, 3, 3), {"padding": 1}),
]
COLUMNS = [
    ((3, 3, 9, 8), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    ((3, 2, 9, 8), (4, 2, 5, 5), {}),
    ((3, 2, 9, 8), (4, 2, 3, 3), {"padding": 3}),
    ((3, 4, 7, 7), (6, 2, 3, 3), {"padding": 1, "groups": 2}),
    ((3, 3, 7, 7), (6, 1, 3, 3), {"groups": 3, "stride": (1, 2)}),
    ((3, 2, 9, 8), (3, 2, 3, 2), {"dilation": (2, 1), "padding": (1, 0), "stride": 3}),
    ((2, 3, 6, 5), (4, 3, 1, 1), {"stride": 2}),
    ((0, 3, 9, 8), (4, 3, 5, 5), {}),
]


def gradients(x_shape, w_shape, options, form, dtype=np.float64):
    """(y, dx, dweight, dbias) of one form, for a fixed gradient of y."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape, w_shape[:1]))
    with backend.form(form):
        y, saved = conv2d.forward(x, w, b, **options)
        g = rng.standard_normal(y.shape).astype(dtype)
        return y, *conv2d.backward(g, y, saved, (True, True, True), x, w, b, **options)


def agree(mine, oracle, tolerance, dtype):
    for a, b in zip(mine, oracle, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        assert np.max(np.abs(a - b), initial=0) <= tolerance * max(1, np.max(np.abs(b), initial=0))


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("case", DIRECT + COLUMNS, ids=str)
def test_equal_to_the_numpy_form(case, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(fast, "KEEP", -1)  # never the columns of the whole batch
    monkeypatch.setattr(fast, "BLOCK", 4096)
    before = dict(backend.calls)
    mine = gradients(*case, "auto", dtype)
    for name in ("conv_forward", "conv_backward_data", "conv_backward_weight"):
        assert backend.calls[name, "numba"] == before.get((name, "numba"), 0) + 1
    agree(mine, gradients(*case, "numpy", dtype), tolerance, dtype)


@pytest.mark.parametrize("tile", [1, 200])
@pytest.mark.parametrize("case", DIRECT, ids=str)
def test_tiles_that_cut_images_change_nothing(case, tile, monkeypatch):
    monkeypatch.setattr(conv3x3, "TILE", tile)
    agree(gradients(*case, "auto"), gradients(*case, "numpy"), 1e-12, np.float64)


@pytest.mark.parametrize("case", DIRECT + COLUMNS, ids=str)
def test_threads_change_nothing_but_the_order_of_sums(case, monkeypatch):
    monkeypatch.setattr(fast, "KEEP", -1)
    monkeypatch.setattr(threads, "WORTH", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: 3)
    agree(gradients(*case, "auto"), gradients(*case, "numpy"), 1e-12, np.float64)


@pytest.mark.parametrize("tiles", [1 << 14, 100])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("case", DIRECT, ids=str)
def test_winograds_way_is_the_same_function(case, count, tiles, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", tiles)
    monkeypatch.setattr(winograd, "handles", lambda *sizes: True)
    monkeypatch.setattr(threads, "WORTH", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: count)
    agree(gradients(*case, "auto"), gradients(*case, "numpy"), 1e-12, np.float64)


def test_which_way_goes_by_the_channels_and_the_size():
    assert winograd.handles(32, 32, 16, 16) and winograd.handles(64, 64, 8, 8)
    assert not winograd.handles(16, 32, 16, 16) and not winograd.handles(64, 64, 112, 112)


# ResNet-20's and LeNet's convolutions with fewer images, in float32 against the float64 oracle.
@pytest.mark.parametrize(
    "case",
    [
        ((8, 3, 32, 32), (16, 3, 3, 3), {"padding": 1}),
        ((8, 16, 32, 32), (16, 16, 3, 3), {"padding": 1}),
        ((8, 16, 32, 32), (32, 16, 3, 3), {"padding": 1, "stride": 2}),
        ((8, 32, 16, 16), (32, 32, 3, 3), {"padding": 1}),
        ((16, 64, 8, 8), (64, 64, 3, 3), {"padding": 1}),
        ((32, 1, 28, 28), (20, 1, 5, 5), {}),
        ((32, 20, 12, 12), (50, 20, 5, 5), {}),
    ],
    ids=str,
)
def test_float32_at_measured_sizes(case):
    single, double = gradients(*case, "auto", np.float32), gradients(*case, "numpy")
    for a, b in zip(single, double, strict=True):
        assert np.max(np.abs(a - b)) <= 2e-5 * np.max(np.abs(b))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where the kernels run as plain Python
def test_nan_and_infinity_pass():
    x = np.zeros((1, 2, 5, 5), np.float32)
    x[0, 0, 2, 2], x[0, 1, 0, 0] = np.nan, np.inf
    w = np.ones((2, 2, 3, 3), np.float32)
    y, _ = conv2d.forward(x, w, padding=1)
    assert np.isnan(y[0, 0, 1:4, 1:4]).all() and np.isinf(y[0, 1, 0, 0]) and (y[0, :, :, 4] == 0).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(threads, "get_num_threads", lambda: 2)
    ran = []
    assert threads.in_parts(10, lambda k, first, last: ran.append((first, last)), 1 << 40) == 2
    assert sorted(ran) == [(0, 5), (5, 10)]
    child = os.fork()
    if child == 0:
        os._exit(threads.in_parts(10, lambda k, first, last: None, 1 << 40))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_blas_has_one_thread_inside_and_its_own_number_after(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(threads, "get_num_threads", lambda: 2)

    def counts():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2, "blas"):
        before, inside = counts(), []
        threads.in_parts(10, lambda k, first, last: inside.append(set(counts())), 1 << 40, blas=True)
        assert inside == [{1}, {1}] and counts() == before
    monkeypatch.setattr(threads, "_blas", list)  # without threadpoolctl
    assert threads.in_parts(10, lambda k, first, last: None, 1 << 40, blas=True) == 1


def test_products_go_to_the_threads_of_blas_only_where_those_rest_soon(monkeypatch):
    linear = importlib.import_module("minidl.fast.linear")
    rng = np.random.default_rng(0)
    a, b, bias = (rng.normal(size=shape) for shape in ((64, 80), (80, 90), 90))
    monkeypatch.setattr(linear, "BRIEF", False)
    assert np.abs(linear.product(a, b, bias) - (a @ b + bias)).max() <= 1e-12
    monkeypatch.setattr(linear, "BRIEF", True)
    assert linear.product(a, b, bias) is NotImplemented


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(threads, "get_num_threads", lambda: 2)

    def run(k, first, last):
        if k == 1:
            raise ValueError("part 1")

    with pytest.raises(ValueError, match="part 1"):
        threads.in_parts(10, run, 1 << 40)
