"""Twins without a file of tests of their own: products, relu, softmax, SGD; threads, and memory that is used again."""

import importlib
import threading

import numpy as np
import pytest

from minidl import Tensor, backend, rules
from minidl import layers as L
from minidl.layers.linear import product
from minidl.layers.loss import exponentials, scaled_rows
from minidl.layers.recurrent import recurrent_product, recurrent_weights
from minidl.optim.sgd import sgd_step

pytest.importorskip("numba")
buffers = pytest.importorskip("minidl.fast.buffers")
pool = importlib.import_module("minidl.fast.pool_of_threads")
RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


CASES = {
    "product, wide": (product, (normal(60, 70), normal(90, 70).T, normal(90))),
    "product, tall": (product, (normal(70, 90).T, normal(70, 60))),
    "relu": (rules.relu.plain, (normal(4, 64, 128),)),
    "relu_gradient": (rules.relu_gradient, (normal(4, 64, 128), normal(4, 64, 128))),
    "exponentials": (exponentials, (30 * normal(67, 1000),)),
    "scaled_rows": (scaled_rows, (normal(67, 1000), normal(67))),
}


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(pool, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(pool, "WORTH", 1)


def ran(function, *args):
    """The result of a function whose twin must answer."""
    before = backend.calls[function.__name__, "numba"]
    result = function(*args)
    assert backend.calls[function.__name__, "numba"] == before + 1
    return result


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_numpy_form(case, dtype, threads):
    function, args = CASES[case]
    args = [a.astype(dtype) for a in args]
    mine, oracle = ran(function, *args), function.numpy(*args)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (mine, oracle)), strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        assert np.abs(a - b).max() <= tolerance * max(1, np.abs(b).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", ["torch", "caffe"])
@pytest.mark.parametrize("decay", [0, 1e-4])
def test_sgd_keeps_every_bit(dtype, form, decay, threads):
    w, g, v = (normal(100, 77, dtype=dtype) for _ in range(3))
    options = dict(lr=0.013, momentum=0.9, dampening=0.1, weight_decay=decay, nesterov=False, form=form)
    kept = w.copy(), g.copy(), v.copy()
    for a, b in zip(ran(sgd_step, w, g, v, *options.values()), sgd_step.numpy(w, g, v, **options), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    for a, b in zip((w, g, v), kept, strict=True):
        np.testing.assert_array_equal(a, b)  # written into new arrays only


def test_nan_and_infinity_pass_as_in_numpy():
    x, g = np.zeros((2, 1 << 15), np.float32)
    x[:4], g[4:8] = (np.nan, np.inf, -np.inf, -1), (np.nan, np.inf, -np.inf, 1)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(ran(rules.relu.plain, x), np.maximum(x, 0))
        np.testing.assert_array_equal(ran(rules.relu_gradient, g, x), g * (x > 0))
        np.testing.assert_array_equal(ran(rules.relu_gradient, g, x + 1), g * (x + 1 > 0))


def test_small_and_strange_arrays_are_left_to_numpy():
    x = normal(300, 300)
    for a in (x[:2], x.T, x.astype(np.float16), Tensor(x)):
        before = backend.calls["relu_gradient", "numpy"]
        rules.relu_gradient(a, a)
        assert backend.calls["relu_gradient", "numpy"] == before + 1
    assert product(x[:2], x).shape == (2, 300)
    with pytest.raises(ValueError):
        product(x, x[:100])


@pytest.fixture
def small_sizes(monkeypatch):
    """So that matrices of a test's size take the way of large ones."""
    monkeypatch.setattr(importlib.import_module("minidl.fast.recurrent"), "LEAST", 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rows", "columns", "width"), [(5, 4, 1), (7, 13, 37), (20, 40, 16)])
def test_a_time_step_has_every_row_and_column_whatever_their_number(rows, columns, width, dtype, threads, small_sizes):
    h, w = normal(rows, width, dtype=dtype), normal(columns, width, dtype=dtype)
    weights = ran(recurrent_weights, w, rows)
    assert np.shares_memory(weights, w)  # what these products are for: no copy of the weights
    y = ran(recurrent_product, h, weights)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, h @ w.T, atol=1e-12 if dtype == np.float64 else 1e-5, rtol=0)
    h[1, 0], w[2, 0] = np.nan, np.inf  # each reaches its own row and column, and no other
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isfinite(ran(recurrent_product, h, weights)), np.isfinite(h @ w.T))


def test_a_time_step_of_few_or_many_rows_is_left_to_blas(small_sizes):
    w = normal(40, 10)
    for rows, mine in ((4, False), (5, True), (20, True), (21, False)):
        weights = recurrent_weights(w, rows)
        assert np.shares_memory(weights, w) == mine
        assert np.abs(recurrent_product(normal(rows, 10), weights)).max() > 0
    assert not np.shares_memory(recurrent_weights(w[:, ::2], 10), w)
    assert recurrent_product(normal(10, 10, dtype=np.float32), recurrent_weights(w, 10)).dtype == np.float64


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU])
def test_recurrent_layers_of_large_sizes_equal_their_numpy_form(kind, threads, small_sizes):
    """Float64, with every gradient; the layer's last batch is too small for the kernel, the ones before are not."""
    x, found = normal(5, 6, 4), []
    for form in ("numpy", "numba"):
        layer = kind(4, 9, rng=np.random.default_rng(1)).astype(np.float64)
        before = backend.calls["recurrent_product", "numba"]
        with backend.form(form):
            loss = sum((layer(Tensor(part))[0] ** 2).sum() for part in (x, x[:, :3]))
            loss.backward()
        assert backend.calls["recurrent_product", "numba"] - before == 5 * (form == "numba")
        found.append([loss.data, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1, np.abs(b).max())


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_last_view_is_gone(monkeypatch):
    monkeypatch.setattr(buffers, "_idle", {})
    monkeypatch.setattr(buffers, "_bytes", 0)
    a = buffers.empty((1000, 100), np.float32)
    assert address(a) % 64 == 0 and a.flags.writeable and a.shape == (1000, 100) and a.dtype == np.float32
    first, view = address(a), a[5:].T
    view[:] = 7
    del a
    b = buffers.empty((1000, 100), np.float32)  # the view still holds the memory of a
    b[:] = 1
    assert address(b) != first and (view == 7).all()
    del view
    c = buffers.empty((100, 500), np.float64)  # of the same size
    assert address(c) == first
    del b, c
    assert buffers._bytes == 2 * (400_000 + 64)
    monkeypatch.setattr(buffers, "MOST", 900_000)
    del first
    buffers.empty((1 << 18,), np.float32)  # more than may lie idle: what lay there goes
    assert list(buffers._idle) == [(1 << 20) + 64]


def test_two_threads_do_not_get_the_same_memory():
    wrong = []

    def work(number):
        for _ in range(300):
            a = buffers.empty((1 << 17,), np.float32)
            a[:] = number
            if not (a == number).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    [w.start() for w in workers], [w.join() for w in workers]
    assert not wrong
