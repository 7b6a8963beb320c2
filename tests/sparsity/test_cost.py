"""Multiply-adds and weights against the published tables (methods of the talk, chapters 1 and 2)."""

import numpy as np
import pytest

from minidl import backend
from minidl.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from minidl.models import LSTMLanguageModel, lenet_caffe, mlp
from minidl.sparsity import Cost, Machine, cost, measured_machine, roofline
from minidl.sparsity.cost import LayerCost


class Zeros:
    """A random generator that draws zeros without touching memory, for models of published size."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def masked(shape, rows, columns):
    """A weight whose first `rows` rows and `columns` columns (as a matrix) are not 0."""
    w = np.zeros((shape[0], int(np.prod(shape[1:]))), np.float32)
    w[:rows, :columns] = 1
    return w.reshape(shape)


def lenet(conv1, conv2):
    model = lenet_caffe(np.random.default_rng(0))
    model.conv1.weight.data = masked((20, 1, 5, 5), *conv1)
    model.conv2.weight.data = masked((50, 20, 5, 5), *conv2)
    found = cost(model, np.zeros((1, 1, 28, 28), np.float32))
    return [100 * found[name].kept / found[name].macs for name in ("conv1", "conv2")]


def test_lenet_has_the_published_weights_and_multiply_adds():
    found = cost(lenet_caffe(np.random.default_rng(0)), np.zeros((1, 1, 28, 28), np.float32))
    assert [(r.layer, r.macs, r.weights) for r in found.layers] == [
        ("conv1", 24 * 24 * 500, 520), ("conv2", 8 * 8 * 25_000, 25_050), ("ip1", 400_000, 400_500),
        ("ip2", 5000, 5010),
    ]  # fmt: skip
    assert found.weights == 431_080 and found.macs == found.kept == 2_293_000
    assert "total" in str(found) and "2,293,000" in str(found)


@pytest.mark.parametrize(
    "conv1, conv2, percent",
    [
        ((5, 25), (19, 4 * 25), (25, 7.6)),  # LeNet 2: filters and channels
        ((3, 25), (12, 3 * 25), (15, 3.6)),  # LeNet 3
        ((2, 21), (50, 41), (8.4, 8.2)),  # LeNet 4: filter shapes; conv1 has as many filters as conv2 reads
        ((1, 7), (50, 14), (1.4, 2.8)),  # LeNet 5
    ],
)
def test_tables_1_and_2_of_structured_sparsity_learning(conv1, conv2, percent):
    assert lenet(conv1, conv2) == pytest.approx(percent)


@pytest.mark.parametrize(
    "widths, percent",
    [((469, 294, 166, 10), (35.175, 32.536, 55.333)), ((434, 174, 78, 10), (19.264, 9.048, 26.0))],
)
def test_the_published_mlp(widths, percent):
    model = mlp(rng=np.random.default_rng(0))
    for k, layer in enumerate((model[0], model[2], model[4])):
        layer.weight.data = masked(layer.weight.shape, widths[k + 1], widths[k])
    found = cost(model, np.zeros((1, 784), np.float32))
    assert [100 * r.kept / r.macs for r in found.layers] == pytest.approx(percent, abs=6e-4)


def test_the_published_convnet():
    """Row sparsity 50 / 28.1 / 1.6 %, column sparsity 0 / 59.3 / 35.1 %: matrices smaller by 50 / 70.7 / 36.1 %."""
    for (n, c), (rows, columns), less in (
        ((32, 3), (0.5, 0), 50), ((32, 32), (0.281, 0.593), 70.7), ((64, 32), (0.016, 0.351), 36.1),
    ):  # fmt: skip
        model = Conv2d(c, n, 5, padding=2, rng=np.random.default_rng(0))
        model.weight.data = masked((n, c, 5, 5), round(n * (1 - rows)), round(c * 25 * (1 - columns)))
        found = cost(model, np.zeros((1, c, 8, 8), np.float32))
        assert 100 * (1 - found.kept / found.macs) == pytest.approx(less, abs=0.1)


@pytest.mark.parametrize(
    "hidden, weights, macs",
    [
        ((1500, 1500), 66_022_000, 51_000_000),
        ((373, 315), 21_824_148, 6_811_396),
        ((381, 535), 25_190_548, 10_176_884),
    ],
)
def test_the_published_lstms(hidden, weights, macs):
    model = LSTMLanguageModel(10_000, 1500, hidden, rng=Zeros())
    found = cost(model, (np.zeros((1, 1), int), model.zero_states(1)))
    assert (found.weights, found.macs) == (weights, macs) and found["embedding"].macs == 0
    assert 51_000_000 / macs == pytest.approx({1500: 1, 373: 7.487, 381: 5.011}[hidden[0]], abs=1e-3)


def test_time_steps_multiply_products_and_not_weights():
    model = LSTMLanguageModel(9, 4, (5, 3), rng=np.random.default_rng(0))
    one = cost(model, (np.zeros((1, 1), int), model.zero_states(1)))
    many = cost(model, (np.zeros((7, 2), int), model.zero_states(2)))
    assert many.macs == 14 * one.macs and many.weights == one.weights


def test_groups_divide():
    whole, grouped = (Conv2d(4, 6, 3, groups=g, rng=np.random.default_rng(0)) for g in (1, 2))
    x = np.zeros((1, 4, 7, 7), np.float32)
    assert cost(whole, x).macs == 2 * cost(grouped, x).macs == 25 * 6 * 4 * 9


def test_the_composed_form_costs_the_same():
    model = Sequential(
        Conv2d(2, 3, 3, rng=np.random.default_rng(0)),
        lambda x: x.flatten(1),
        Linear(75, 4, rng=np.random.default_rng(0)),
    )
    x = np.zeros((2, 2, 7, 7), np.float32)
    expected = [(r.layer, r.macs) for r in cost(model, x).layers]
    with backend.form("composed"):
        assert [(r.layer, r.macs) for r in cost(model, x).layers] == expected


def test_what_is_no_product_has_its_own_column_and_views_cost_nothing():
    rng = np.random.default_rng(0)
    model = Sequential(Conv2d(1, 2, 3, bias=False, rng=rng), ReLU(), MaxPool2d(2), Flatten(), Linear(8, 3, rng=rng))
    found = cost(model, np.zeros((5, 1, 6, 6), np.float32))
    conv, fc = found.layers
    image, pooled = 5 * 2 * 4 * 4, 5 * 2 * 2 * 2
    assert (conv.other, conv.activations) == (image + pooled, 2 * image + pooled)  # ReLU and pooling; the products too
    assert (fc.other, fc.activations) == (15, 15)  # biases are added to each product
    assert fc.traffic == 4 * (pooled + 8 * 3 + 3 + 15)
    assert found.activations == conv.activations + fc.activations


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory():
    found = Cost((LayerCost("a", 1000, 1000, 1, traffic=10), LayerCost("b", 10, 10, 1, traffic=4000)))
    line = roofline(found, Machine(peak=1e6, bandwidth=1e6, how="(by hand)"))
    assert line.rows == (("a", 2e-3, "arithmetic"), ("b", 4e-3, "memory")) and line.seconds == pytest.approx(6e-3)
    assert "at least" in str(line) and "6.0000 ms" in str(line) and "(by hand)" in str(line)


def test_the_machine_is_measured():
    here = measured_machine(seconds=0.02, size=256, megabytes=8)
    assert 1e8 < here.peak < 1e14 and 1e8 < here.bandwidth < 1e13 and "threads" in here.how
    n = 512
    model = Linear(n, n, rng=np.random.default_rng(0))
    x = np.ones((n, n), np.float32)
    least = roofline(cost(model, x), measured_machine(seconds=0.1, megabytes=8)).seconds
    assert least == pytest.approx(max(2 * n**3 / here.peak, 4 * (3 * n * n + n) / here.bandwidth), rel=9)
