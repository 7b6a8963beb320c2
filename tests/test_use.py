"""use: one's own function in a kernel's place, checked, timed, and gone after the block."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

import minidl
from minidl import Tensor, backend
from minidl.errors import InputError, ShapeError
from minidl.layers import LSTM, Conv2d, Linear, ReLU, Sequential, cross_entropy
from minidl.layers.conv import im2col, pair
from minidl.layers.linear import linear
from minidl.layers.lstm import lstm_cell
from minidl.models import lenet_caffe
from minidl.use import replaceable

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 2, 6, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def without_pytorch(monkeypatch, request):
    """Its import takes seconds: one test does it."""
    if "pytorch" not in request.node.name:
        real = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "torch" else real(name, *a))


def my_conv2d_backward(g, out, cols, needs, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """By the book: one output pixel after the other."""
    dx, dweight = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding), x.dtype), 0 * weight
    image, k = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2)), weight.shape[2]
    for p, q in np.ndindex(g.shape[2:]):
        window = np.s_[:, :, p * stride : p * stride + k, q * stride : q * stride + k]
        dweight += np.einsum("no,nckl->ockl", g[:, :, p, q], image[window])
        dx[window] += np.einsum("no,ockl->nckl", g[:, :, p, q], weight)
    h, w = x.shape[2:]
    return dx[:, :, padding : padding + h, padding : padding + w], dweight, g.sum((0, 2, 3))


def gradients(model, x=X, **functions):
    def backward():
        for p in model.parameters():
            p.grad = None
        out = model(Tensor(x))
        np.sum(out[0] if isinstance(out, tuple) else out).backward()
        return [p.grad for p in model.parameters()]

    if not functions:
        return backward()
    with minidl.use(**functions) as report:
        return backward(), report


def test_a_backward_of_ones_own_trains_any_model():
    model = Sequential(Conv2d(2, 3, 3, rng=RNG, padding=1), ReLU(), Conv2d(3, 2, 3, rng=RNG))
    expected = gradients(model)
    found, report = gradients(model, conv2d_backward=my_conv2d_backward)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert report.calls("conv2d_backward") == 2 and len(list(report)) == 2
    for row in report:
        assert row.calls == 1 and row.difference < 1e-4 and row.ms["yours"] > 0 and row.ms["NumPy"] > 0
    text = str(report)
    assert text.splitlines()[0].split()[:5] == ["function", "shapes", "calls", "yours", "ms"]
    assert "PyTorch's time is left out: it is not installed" in text
    again = gradients(model)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again, expected, strict=True))  # gone after the block


def test_the_registered_forms_run_once_for_each_set_of_shapes():
    model, seen = Linear(3, 2, rng=RNG), []

    def mine(x, weight, bias=None):
        seen.append(len(x))
        return x @ weight.T + bias

    with minidl.use(linear_forward=mine) as report:
        for rows in (4, 5, 4, 4):
            model(Tensor(np.ones((rows, 3), np.float32)))
    assert seen == [4, 5, 4, 4] and [row.calls for row in report] == [3, 1]
    assert "(5,3)(2,3)(2,)" in "".join(next(line for line in str(report).splitlines() if "(5,3)" in line).split())


def test_a_forward_alone_takes_what_backward_needs_from_the_registered_form():
    model = Conv2d(2, 3, 3, rng=RNG)
    expected, y = gradients(model), model(Tensor(X)).data

    def mine(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
        cols = im2col(x, weight.shape[2:], pair(stride), pair(padding), pair(dilation))
        return np.einsum("ockl,cklnpq->nopq", weight, cols) + bias[:, None, None]

    found, report = gradients(model, conv2d_forward=mine)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with minidl.use(conv2d_forward=mine):
        np.testing.assert_allclose(model(Tensor(X)).data, y, rtol=1e-4, atol=1e-5)
    assert report.calls("conv2d_forward") == 1


def test_a_kernel_is_replaced_wherever_it_is_called_and_may_call_the_registered_one():
    model, x = LSTM(3, 2, rng=RNG), RNG.standard_normal((5, 2, 3)).astype(np.float32)
    expected = gradients(model, x)
    found, report = gradients(model, x, lstm_cell=lambda z, c: lstm_cell(z, c))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))
    assert report.calls("lstm_cell") == 5
    with pytest.raises(InputError, match="no function is called lstm_sell; the names are .*lstm_cell, lstm_cell_back"):
        gradients(model, x, lstm_sell=lstm_cell)
    with pytest.raises(InputError, match="nothing was given; the names are .*conv2d_backward, conv2d_forward"):
        with minidl.use():
            pass


def test_several_results_of_a_forward():
    from minidl.layers.lstm import lstm as op

    model, x = LSTM(3, 2, rng=RNG), RNG.standard_normal((5, 2, 3)).astype(np.float32)
    expected, registered = gradients(model, x), replaceable()["lstm_forward"][1]
    found, report = gradients(model, x, lstm_forward=lambda *a: registered(*a)[0])  # three results alone
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))
    with pytest.raises(ShapeError, match="lstm_forward: your function gave 1 results, the registered form 3"):
        gradients(model, x, lstm_forward=lambda *a: registered(*a)[0][0])
    assert op.forward.registered is registered


def test_a_wrong_shape_or_dtype_is_refused_with_both():
    model, x = Linear(3, 2, rng=RNG), np.ones((4, 3), np.float32)

    def backward(**changed):
        def mine(g, out, saved, needs, x, weight, bias=None):
            parts = {"x": None, "weight": g.T @ x, "bias": g.sum(0)} | changed
            return tuple(parts.values())

        return lambda: gradients(model, x, linear_backward=mine)

    assert backward()()[1].calls("linear_backward") == 1  # x needs no gradient: None is welcome
    with pytest.raises(ShapeError, match=r"linear_backward: result 1 of your function is of shape \(3, 2\) and dtype fl"
                                         r"oat32; the registered form's has shape \(2, 3\)"):  # fmt: skip
        backward(weight=np.zeros((3, 2), np.float32))()
    with pytest.raises(ShapeError, match=r"result 2 .* shape \(2,\) and dtype float64; .* shape \(2,\) and dtype floa"):
        backward(bias=np.zeros(2))()
    with pytest.raises(ShapeError, match="result 1 of your function is None; the registered"):
        backward(weight=None)()


def test_the_place_is_local_and_inner_blocks_win():
    x, w = Tensor(np.ones((1, 2), np.float32)), Tensor(np.ones((1, 2), np.float32))
    value = lambda: linear(x, w).item()

    def constant(number):
        return lambda x, weight, bias=None: np.full((1, 1), number, np.float32)

    with minidl.use(linear_forward=constant(5)):
        thread_saw = []
        thread = threading.Thread(target=lambda: thread_saw.append(value()))
        thread.start()
        thread.join()
        assert thread_saw == [2] and value() == 5
        with minidl.use(linear_forward=constant(6), lstm_cell=lstm_cell) as inner:
            assert value() == 6
        assert value() == 5 and "lstm_cell was never called" in str(inner)
        with backend.form("composed"):
            assert value() == 2
        with pytest.raises(ZeroDivisionError), minidl.use(linear_forward=lambda *a: 1 / 0):
            value()
        assert value() == 5
    assert value() == 2


def test_numba_has_its_column_where_it_has_a_form():
    pytest.importorskip("numba")
    pytest.importorskip("minidl.fast")
    x, c = RNG.standard_normal((3, 8)).astype(np.float32), np.zeros((3, 2), np.float32)
    with minidl.use(lstm_cell=lstm_cell.numpy) as report:
        lstm_cell(x, c)
    (row,) = report
    assert row.ms.keys() == {"yours", "NumPy", "Numba"} and row.difference == 0
    with minidl.use(linear_forward=lambda x, weight, bias=None: x @ weight.T + bias) as report:
        Linear(3, 2, rng=RNG)(Tensor(np.ones((1, 3), np.float32)))
    assert "Numba's time is left out where it has no form for these arguments: linear_forward (1,3)" in str(report)


def test_pytorch_has_its_column_where_it_is_simple_to_call():
    pytest.importorskip("torch")
    model, labels = lenet_caffe(RNG), np.array([1, 2])
    functions = {name: replaceable()[name][1] for name in ("conv2d_backward", "max_pool2d_forward", "linear_backward")}
    cell = {"softmax_cross_entropy_forward": replaceable()["softmax_cross_entropy_forward"][1]}
    with minidl.use(**functions, **cell) as report:
        cross_entropy(model(Tensor(RNG.random((2, 1, 28, 28), np.float32))), labels).backward()
    assert all(("PyTorch" in row.ms) == (row.name in functions) for row in report)
    assert "PyTorch's time is left out for softmax_cross_entropy_forward: it has no" in str(report)


def test_no_two_functions_have_one_name():
    names = replaceable()
    assert {"conv2d_forward", "conv2d_backward", "lstm_cell", "lstm_cell_backward", "im2col"} <= names.keys()
    kernels = {name for name, (kind, _) in names.items() if kind == "kernel"}
    assert not kernels & {name for name, (kind, _) in names.items() if kind != "kernel"}
