"""The small tools of the claims about shrinking networks."""

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims.shrinking import (
    caffe_sgd,
    mistakes,
    paired,
    product,
    randomly_emptied,
    randomly_shrunk,
    re_initialised,
    speed_up,
    with_arrays,
)  # fmt: skip
from minidl.models import mlp


@pytest.fixture
def model():
    return mlp((6, 5, 4, 3), rng=np.random.default_rng(0))


def test_as_many_units_and_columns_go_at_random_as_are_asked_for(model):
    x = np.ones((2, 6), np.float32)
    small = randomly_shrunk(model, x, {"0": np.arange(2), "2": np.arange(3)}, np.random.default_rng(1))
    assert [p.shape for p in small.parameters() if p.ndim == 2] == [(2, 6), (3, 2), (3, 3)]
    emptied = randomly_emptied(model, {"0.weight": 4}, np.random.default_rng(1))
    assert emptied[0].weight.data.any(0).sum() == 4 and model[0].weight.data.all()


def test_re_initialised_keeps_sizes_and_zeros_and_nothing_else(model):
    model[0].weight.data = model[0].weight.data * (np.arange(6) > 1)
    model[0].bias.data = model[0].bias.data + 1
    new = re_initialised(model, np.ones)
    assert np.array_equal(new[0].weight.data, np.ones((5, 6)) * (np.arange(6) > 1))
    assert not new[0].bias.data.any() and new[0].weight.dtype == np.float32


def test_with_arrays_takes_arrays_of_other_sizes(model):
    small = mlp((6, 2, 4, 3), rng=np.random.default_rng(1))
    again = with_arrays(model, small.state_dict())
    assert np.array_equal(again[2].weight.data, small[2].weight.data)
    assert model[2].weight.shape == (4, 5)


def test_the_difference_of_two_networks_is_judged_on_the_same_images():
    one, other = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])
    more, deviation = paired(one, other)
    assert more == 25 and deviation == pytest.approx(100 * np.sqrt(0.25 * 0.75 / 4))
    assert paired(one, one) == (0, 0)


def test_mistakes_are_counted_one_by_one(model):
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    right = model(x).data.argmax(1)
    assert mistakes(model, x, right).sum() == 0 and mistakes(model, x, (right + 1) % 3).sum() == 8


def test_a_product_leaves_zero_rows_and_columns_out():
    weight = np.zeros((4, 2, 3, 3), np.float32)
    weight[1, 0, 0, 0] = weight[3, 1, 2, 2] = 1
    assert product(weight, 7)().shape == (2, 7)


def test_speed_up_tells_which_is_faster():
    a, b = (np.ones((n, n)) for n in (300, 20))
    ratio, (low, high) = speed_up(lambda: a @ a, lambda: b @ b, rounds=9)
    assert low <= ratio <= high and ratio > 2


def test_the_solver_is_caffes(model):
    optimizer = caffe_sgd(model)
    assert (optimizer.form, optimizer.momentum, optimizer.weight_decay) == ("caffe", 0.9, 5e-4)
