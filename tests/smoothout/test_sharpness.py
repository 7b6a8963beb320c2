"""Sharpness and the smoothing curve against closed forms, and that measuring changes nothing."""

import sys

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError, MissingExtra, ShapeError
from minidl.layers import BatchNorm1d, Dropout, Linear, Module, Parameter, Sequential, cross_entropy
from minidl.smoothout.sharpness import mean_loss, mean_loss_and_gradient, sharpness, smoothing

NOTHING = np.zeros(1)  # the one example of a model that is its own loss


class Landscape(Module):
    """A model that is nothing but its loss: a function of one parameter vector, of no input."""

    def __init__(self, w, f):
        self.w, self.f = Parameter(np.array(w, np.float64)), f

    def forward(self, x):
        return self.f(self.w)


def as_it_is(out, labels):
    return out


def network(rng):
    return Sequential(Linear(6, 8, rng=rng), BatchNorm1d(8), Dropout(0.5, rng=rng), Linear(8, 3, rng=rng))


def examples(rng, n=23):
    return rng.standard_normal((n, 6)).astype(np.float32), rng.integers(0, 3, n)


# ---------------------------------------------------------------------------------------------------------- sharpness


@pytest.mark.parametrize("start", ["w", "random"])
def test_a_diagonal_quadratic_is_highest_in_the_corner_of_the_box(rng, start):
    pytest.importorskip("scipy")
    h, w, eps = rng.uniform(1, 50, 20), rng.standard_normal(20), 5e-4
    model = Landscape(w, lambda w: 0.5 * (h * w * w).sum())
    corner = np.abs(w) + eps * (np.abs(w) + 1)
    low, high = 0.5 * h @ w**2, 0.5 * h @ corner**2
    found = sharpness(model, NOTHING, NOTHING, start=start, rng=rng, loss=as_it_is)
    assert found == pytest.approx(100 * (high - low) / (1 + low), rel=1e-9)


def test_at_a_stationary_point_only_the_random_start_sees_the_curvature(rng):
    pytest.importorskip("scipy")
    h, eps = rng.uniform(1, 50, 20), 5e-4
    model = Landscape(np.zeros(20), lambda w: 0.5 * (h * w * w).sum())
    measure = dict(eps=eps, loss=as_it_is)
    assert sharpness(model, NOTHING, NOTHING, **measure) == 0
    found = sharpness(model, NOTHING, NOTHING, start="random", rng=rng, **measure)
    assert found == pytest.approx(100 * 0.5 * h.sum() * eps**2, rel=1e-6)


def test_sharpness_is_never_negative(rng):
    """From a random start below w the search may end below w; w is in the box too."""
    pytest.importorskip("scipy")
    model = Landscape([0.0], lambda w: -(w * w).sum())
    assert sharpness(model, NOTHING, NOTHING, start="random", rng=rng, iterations=1, loss=as_it_is) >= 0


def test_measuring_changes_nothing(rng):
    pytest.importorskip("scipy")
    model, (x, y) = network(rng), examples(rng)
    model.train()
    model[3].eval()  # a mode of its own, as a frozen layer has
    before = model.state_dict(), [m.training for m in model.modules()]
    first = sharpness(model, x, y, batch=10)
    smoothing(model, x, y, a=[0.1], draws=2, rng=rng)
    assert sharpness(model, x, y, batch=10) == first > 0  # no dropout, no drifting statistics
    after = model.state_dict()
    assert all(after[name] is array for name, array in before[0].items())
    assert [m.training for m in model.modules()] == before[1]
    assert all(p.grad is None for p in model.parameters())


def test_an_unusable_start_is_refused(rng):
    model = Landscape([1.0], lambda w: w.sum())
    with pytest.raises(InputError, match="Generator"):
        sharpness(model, NOTHING, NOTHING, start="random", loss=as_it_is)
    with pytest.raises(InputError, match="start="):
        sharpness(model, NOTHING, NOTHING, start="x0", rng=rng, loss=as_it_is)


def test_without_scipy_it_says_what_to_install(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtra, match="pip install"):
        sharpness(Landscape([1.0], lambda w: w.sum()), NOTHING, NOTHING, loss=as_it_is)


# ------------------------------------------------------------------------------------------------ the smoothing curve


def test_the_absolute_value_rises_by_half_the_noise(rng):
    model = Landscape(np.zeros(3), lambda w: abs(w).sum())
    a = np.array([0.1, 0.4])
    rise, error = smoothing(model, NOTHING, NOTHING, a=a, draws=2000, rng=rng, loss=as_it_is)
    assert (np.abs(rise - 3 * a / 2) < 6 * error).all()
    np.testing.assert_allclose(error, a * (3 / 12 / 2000) ** 0.5, rtol=0.1)  # Var|theta| = a^2 / 12


def test_a_cosine_shrinks_by_sin_ka_over_ka(rng):
    w, k, a = np.array([0.0, 0.3, 2.0]), 5.0, np.array([0.2, 0.6])
    model = Landscape(w, lambda w: np.cos(k * w).sum())
    rise, error = smoothing(model, NOTHING, NOTHING, a=a, draws=2000, rng=rng, loss=as_it_is)
    assert (np.abs(rise - np.cos(k * w).sum() * (np.sin(k * a) / (k * a) - 1)) < 6 * error).all()


def test_a_quadratic_rises_by_a_squared_over_6_times_the_trace(rng):
    root = rng.standard_normal((4, 4))
    H = root @ root.T
    model = Landscape(rng.standard_normal(4), lambda w: 0.5 * (w @ H @ w))
    a = np.array([0.0, 0.5, 1.0])
    rise, error = smoothing(model, NOTHING, NOTHING, a=a, draws=2000, rng=rng, loss=as_it_is)
    assert rise[0] == error[0] == 0
    assert (np.abs(rise - a**2 / 6 * np.trace(H))[1:] < 6 * error[1:]).all()


def test_every_a_sees_the_same_directions(rng):
    model = Landscape(np.zeros(3), lambda w: (w * w).sum())
    rise, _ = smoothing(model, NOTHING, NOTHING, a=[0.25, 0.5], draws=3, rng=rng, loss=as_it_is)
    assert rise[1] == pytest.approx(4 * rise[0], rel=1e-12)


def test_one_draw_is_refused(rng):
    with pytest.raises(InputError, match="2 or more"):
        smoothing(Landscape([1.0], lambda w: w.sum()), NOTHING, NOTHING, a=[0.1], draws=1, rng=rng)


# ---------------------------------------------------------------------------------------------------- the mean loss


def test_a_ragged_last_minibatch_counts_by_its_examples(rng):
    model, (x, y) = network(rng).astype(np.float64), examples(rng)
    x = x.astype(np.float64)
    model.eval()
    whole = cross_entropy(model(Tensor(x)), y)
    whole.backward()
    for batch in (1, 7, 23, 100):
        value, gradients = mean_loss_and_gradient(model, x, y, batch=batch)
        assert value == pytest.approx(whole.item(), rel=1e-13)
        assert mean_loss(model, x, y, batch=batch) == pytest.approx(whole.item(), rel=1e-13)
        for g, p in zip(gradients, model.parameters(), strict=True):
            np.testing.assert_allclose(g, p.grad, rtol=1e-10, atol=1e-15)


def test_inputs_and_labels_must_have_one_length(rng):
    x, y = examples(rng)
    with pytest.raises(ShapeError, match="23 examples and y 22"):
        mean_loss(network(rng), x, y[1:])
