"""Ways to run a sparse layer: all compute the same; where the times cross is read off correctly."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from minidl.errors import InputError, MissingExtra
from minidl.layers.conv import conv2d
from minidl.sparsity.ways import CAFFENET, WAYS, Layer, Row, crossover, draw, prepare, time_ways, zeros_for
from minidl.tensor import Tensor

SMALL = {
    "convolution": Layer(6, 4, 3, 9, stride=2, padding=1),
    "no padding": Layer(5, 3, 5, 8),
    "fc": Layer(7, 11),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def sparse_weight(layer):
    """Zero filters, a zero channel, zero columns in the others, and scattered zeros besides."""
    weight = rng().standard_normal(layer.weight_shape) * (rng(1).random(layer.weight_shape) < 0.7)
    weight[[0, 3]], weight[:, 1] = 0, 0
    weight[:, 2, layer.kernel // 2] = 0
    return weight


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_give_what_the_layer_gives(way, name):
    if way == "csr":
        pytest.importorskip("scipy")
    layer = SMALL[name]
    weight, x = sparse_weight(layer), rng(2).standard_normal((3, layer.channels, layer.size, layer.size))
    expected = conv2d(Tensor(x), Tensor(weight), stride=layer.stride, padding=layer.padding).data
    expected = expected.transpose(1, 0, 2, 3).reshape(layer.filters, -1)
    run = prepare(way, weight, x, layer)
    y = run.multiply(run.lower())
    assert y.dtype == np.float64
    assert np.abs(y - expected[run.rows]).max() <= 1e-12 * max(1, np.abs(expected).max())
    assert not np.delete(expected, run.rows, 0).any()  # what a way leaves out is 0


def test_less_is_copied_where_rows_columns_or_channels_are_gone():
    layer = SMALL["convolution"]
    weight, x = sparse_weight(layer), rng(2).standard_normal((1, 4, 9, 9))
    columns = {way: len(prepare(way, weight, x, layer).lower()) for way in ("dense", "removed", "compacted")}
    assert columns == {"dense": 36, "removed": weight.any(0).sum(), "compacted": 27}
    assert columns["removed"] <= 24 and len(prepare("compacted", weight, x, layer).rows) == 4


def test_zeros_lie_where_each_way_can_use_them():
    layer, n = Layer(40, 30, 3, 7), 40 * 270
    scattered = zeros_for("csr", layer, 0.1, rng())
    assert scattered.sum() == n // 10 and scattered.any((1, 2, 3)).all() and scattered.any(0).mean() > 0.9
    lines = zeros_for("removed", layer, 0.25, rng()).reshape(40, 270)
    assert (lines == np.outer(lines.any(1), lines.any(0))).all()
    assert (lines.any(1).sum(), lines.any(0).sum()) == (20, 135)
    whole = zeros_for("compacted", layer, 0.25, rng())
    assert (whole == whole[:, :, :1, :1]).all()
    assert (whole.any((1, 2, 3)).sum(), whole.any((0, 2, 3)).sum()) == (20, 15)
    assert zeros_for("dense", layer, 1.0, rng()).all() and zeros_for("removed", layer, 1e-9, rng()).sum() == 1


def test_the_default_layers_are_caffenets():
    """The published matrix products, of one group where there are two."""
    products = {}
    for name, layer in CAFFENET.items():
        weight, x = np.zeros(layer.weight_shape), np.zeros((1, layer.channels, layer.size, layer.size))
        run = prepare("dense", weight, x, layer)
        products[name] = (len(run.rows), *run.lower().shape)
    assert products == {
        "conv1": (96, 363, 3025), "conv2": (128, 1200, 729), "conv3": (384, 2304, 169), "conv4": (192, 1728, 169),
        "conv5": (128, 1728, 169),
    }  # fmt: skip


def test_times_are_taken_for_every_way_and_density():
    pytest.importorskip("scipy")
    for lowering in (False, True):
        rows = time_ways({"a": SMALL["convolution"]}, (0.5, 0.1), repeats=2, lowering=lowering, batch=2, rng=rng())
        assert [r.way for r in rows] == ["dense", *2 * ["csr", "removed", "compacted"]]
        assert all(r.seconds > 0 and r.layer == "a" for r in rows)
        assert all(r.speed_up == pytest.approx(rows[0].seconds / r.seconds) for r in rows)
        assert rows[0].density == rows[0].speed_up == 1 and rows[1].density == 0.5 and rows[4].density < 0.15


def line(*speeds):
    return [Row("a", "csr", d, 1 / s, s) for d, s in zip((1.0, 0.1, 0.01), speeds, strict=True)]


@pytest.mark.parametrize(
    "speeds, density",
    [((0.1, 1, 10), 0.1), ((0.1, 10, 100), 10**-0.5), ((0.1, 0.5, 0.9), 0), ((1.1, 5, 9), 1), ((2, 0.5, 2), 10**-1.5)],
)
def test_crossover_is_where_the_line_through_the_measurements_meets_one(speeds, density):
    assert crossover(line(*speeds), "a", "csr") == pytest.approx(density)


def test_the_figure_shows_each_layer_with_its_crossover():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    rows = [Row(n, w, d, d, 0.1 / d) for n in ("a", "b") for w in WAYS for d in (1.0, 0.01)]
    draw(figure, rows)
    assert [ax.get_title() for ax in figure.axes] == ["a: csr pays below 10%", "b: csr pays below 10%"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["csr", "removed", "compacted", "1/d"]


def test_what_is_missing_or_unknown_is_said(monkeypatch):
    layer = SMALL["fc"]
    with pytest.raises(InputError, match="'blocks' is not one of dense, csr, removed, compacted"):
        prepare("blocks", np.zeros(layer.weight_shape), np.zeros((1, 11, 1, 1)), layer)
    with pytest.raises(InputError, match="no row is about 'csr' of layer 'z'"):
        crossover(line(1, 1, 1), "z", "csr")
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingExtra, match="SciPy"):
        prepare("csr", np.zeros(layer.weight_shape), np.zeros((1, 11, 1, 1)), layer)
