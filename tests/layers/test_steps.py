"""steps(): one window of a convolution, one time step of an LSTM. The last line is what the layer itself says."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl import layers as L
from minidl.errors import InputError, ShapeError

try:
    import numba  # noqa: F401

    import minidl.fast  # noqa: F401

    FORMS = ["numpy", "composed", "numba"]
except ImportError:
    FORMS = ["numpy", "composed"]


def rng():
    return np.random.default_rng(0)


def normal(*shape, dtype=np.float64):
    return rng().standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2d(2, 3, 3, rng=rng()),
        L.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), rng=rng()),
        L.Conv2d(2, 4, 2, groups=2, padding=1, bias=False, rng=rng()),
    ],
    ids=repr,
)
def test_the_steps_of_every_window_end_in_the_convolution(layer, dtype, tolerance, form):
    layer.astype(dtype)
    x = normal(2, 2, 4, 5, dtype=dtype)
    y = layer(Tensor(x)).data
    with backend.form(form):
        for place in np.ndindex(y.shape):
            steps = dict(layer.steps(x, *place))
            assert abs(steps["y"] - y[place]) <= tolerance * max(1, np.abs(y).max())
            assert {a.dtype for a in steps.values()} == {np.dtype(dtype)}
            np.testing.assert_array_equal(steps["products"], steps["window"] * steps["weight"])


@pytest.mark.parametrize("form", FORMS)
def test_a_window_term_by_term(form):
    """3 x 3 numbers, a 2 x 2 filter, padding 1: the upper left window sees one pixel."""
    x, weight = np.arange(1.0, 10).reshape(1, 1, 3, 3), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    with backend.form(form):
        steps = dict(L.conv_steps(x, weight, np.array([10.0]), padding=1))
        inner = list(L.conv_steps(x, weight, p=1, q=1))
    assert list(steps) == ["window", "weight", "products", "partial", "sum", "b", "y"]
    assert steps["window"].tolist() == [[[0, 0], [0, 1]]] and steps["products"].tolist() == [[[0, 0], [0, 4]]]
    assert (steps["sum"], steps["b"], steps["y"]) == (4, 10, 14)
    assert [name for name, _ in inner] == ["window", "weight", "products", "partial", "sum", "y"]
    assert inner[3][1].tolist() == [5, 17, 41, 77] and inner[5][1] == 77


def test_a_window_that_is_not_there_is_refused():
    x, weight = normal(1, 2, 4, 4), normal(3, 2, 2, 2)
    with pytest.raises(InputError, match=r"y has shape \(1, 3, 3, 3\); there is no \[0, 3, 0, 0\]"):
        list(L.conv_steps(x, weight, o=3))
    with pytest.raises(ShapeError, match=r"\(1, 2, 4, 4\).*\(3, 1, 2, 2\), groups=1"):
        list(L.conv_steps(x, weight[:, :1]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-6)], ids=["float64", "float32"])
def test_the_steps_of_an_lstm_are_its_equations(dtype, tolerance, form):
    layer = L.LSTM(3, 2, rng=rng()).astype(dtype)
    x, h, c = normal(4, 3, dtype=dtype), normal(4, 2, dtype=dtype), normal(4, 2, dtype=dtype) / 2
    with backend.form(form):
        steps = dict(layer.steps(x, (h, c)))
    assert list(steps) == ["z", "i", "f", "o", "u", "c", "tanh c", "h"]
    assert {a.dtype for a in steps.values()} == {np.dtype(dtype)}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    z_i, z_f, z_u, z_o = np.split(steps["z"].astype(float), 4, axis=1)
    expected = {"i": sigmoid(z_i), "f": sigmoid(z_f), "o": sigmoid(z_o), "u": np.tanh(z_u)}
    expected["c"] = expected["f"] * c + expected["i"] * expected["u"]
    expected["tanh c"] = np.tanh(expected["c"])
    expected["h"] = expected["o"] * expected["tanh c"]
    for name, value in expected.items():
        np.testing.assert_allclose(steps[name], value, rtol=tolerance, atol=tolerance)
    y, (_, c_after) = layer(Tensor(x[None]), (Tensor(h), Tensor(c)))
    np.testing.assert_allclose(steps["h"], y.data[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(steps["c"], c_after.data, rtol=tolerance, atol=tolerance)


def test_lstm_steps_start_from_zeros_and_refuse_other_shapes():
    layer = L.LSTM(3, 2, 2, rng=rng())
    x = normal(4, 3, dtype=np.float32)
    steps = dict(layer.steps(x))
    np.testing.assert_array_equal(steps["c"], steps["i"] * steps["u"])
    with pytest.raises(ShapeError, match=r"\(1, 4, 5\).*\(8, 3\)"):
        list(layer.steps(normal(4, 5)))


@pytest.mark.parametrize("kernel, layer", [("one_window", "conv"), ("lstm_cell", "lstm")])
def test_numba_walks_too(kernel, layer):
    pytest.importorskip("numba")
    pytest.importorskip("minidl.fast")
    before = backend.calls[kernel, "numba"]
    if layer == "conv":
        list(L.Conv2d(1, 1, 2, rng=rng()).steps(normal(1, 1, 2, 2, dtype=np.float32)))
    else:
        list(L.LSTM(1, 1, rng=rng()).steps(normal(1, 1, dtype=np.float32)))
    assert backend.calls[kernel, "numba"] == before + 1
