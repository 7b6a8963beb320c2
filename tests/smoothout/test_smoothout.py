"""SmoothOut: what it moves, what it gives back, and that its gradient is that of the smoothed loss."""

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError, MinidlError
from minidl.layers import BatchNorm1d, Linear, Module, Parameter, Sequential, cross_entropy
from minidl.optim import SGD
from minidl.smoothout.smoothout import KINDS, noise, noisy_parameters, renew_statistics, smoothout, steps


class Landscape(Module):
    """A model that is nothing but its loss: a function of one parameter vector, of no input."""

    def __init__(self, w, f):
        self.w, self.f = Parameter(np.array(w, np.float64)), f

    def forward(self, x=None):
        return self.f(self.w)


def network(rng):
    return Sequential(Linear(6, 5, rng=rng), BatchNorm1d(5), Linear(5, 3, rng=rng))


def gradients(model, a, draws, rng):
    """The gradient under each of `draws` draws: (draws, D)."""
    found = []
    for _ in range(draws):
        model.w.grad = None
        with smoothout(model, a=a, rng=rng):
            model().backward()
        found.append(model.w.grad)
    return np.array(found)


def sigmas(samples, expected):
    """How many standard errors the mean of the samples lies from what is expected, per coordinate."""
    return np.abs(samples.mean(0) - expected) / (samples.std(0, ddof=1) / len(samples) ** 0.5)


# ------------------------------------------------------------------------------------- what comes back, and what moves


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_arrays_come_back_bit_for_bit(rng, kind):
    model = network(rng)
    before = [(p, p.data, p.data.tobytes()) for p in model.parameters()]
    with smoothout(model, a=0.1, rng=rng, kind=kind):
        assert [p.data is not array for p, array, _ in before] == [True, True, False, False, True, True]
    assert all(p.data is array and array.tobytes() == bits for p, array, bits in before)


def test_they_come_back_when_the_body_raises_and_when_blocks_are_nested(rng):
    model = network(rng)
    before = [p.data for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), smoothout(model, a=0.1, rng=rng), smoothout(model, a=0.1, rng=rng):
        1 / 0  # noqa: B018
    assert all(p.data is array for p, array in zip(model.parameters(), before, strict=True))


def test_batch_norm_gets_no_noise(rng):
    model = network(rng)
    still = model[1].weight.data, model[1].bias.data
    assert [name for name, _ in noisy_parameters(model)] == [
        "0.weight", "0.bias", "2.weight", "2.bias",
    ]  # fmt: skip
    with smoothout(model, a=0.1, rng=rng):
        assert model[1].weight.data is still[0] and model[1].bias.data is still[1]


def test_a_shared_parameter_moves_once_and_comes_back(rng):
    first, second = Linear(4, 4, rng=rng), Linear(4, 4, rng=rng)
    second.weight = first.weight
    before = first.weight.data
    with smoothout(Sequential(first, second), a=0.1, rng=rng):
        assert 0 < np.abs(first.weight.data - before).max() <= 0.1
    assert first.weight.data is before


def test_a_step_inside_the_block_is_refused_and_the_weights_are_restored(rng):
    model = Landscape([1.0, 2.0], lambda w: (w * w).sum())
    before = model.w.data
    with pytest.raises(MinidlError, match="after the block"), smoothout(model, a=0.1, rng=rng):
        model().backward()
        SGD(model.parameters(), lr=0.1).step()
    assert model.w.data is before


def test_backward_after_the_block_still_has_the_gradient_at_the_moved_weights(rng):
    model = Landscape([1.0, -2.0], lambda w: (w * w * w).sum())
    with smoothout(model, a=0.5, rng=rng):
        moved, loss = model.w.data, model()
    loss.backward()
    np.testing.assert_allclose(model.w.grad, 3 * moved**2, rtol=1e-14)


@pytest.mark.parametrize("a", [-0.1, float("nan"), float("inf")])
def test_an_unusable_a_is_refused_and_nothing_is_moved(rng, a):
    model = network(rng)
    before = [p.data for p in model.parameters()]
    with pytest.raises(InputError, match="size of noise"), smoothout(model, a=a, rng=rng):
        pass
    assert all(p.data is array for p, array in zip(model.parameters(), before, strict=True))


def test_an_unknown_kind_is_refused(rng):
    with pytest.raises(InputError, match="uniform, filter, weight"):
        noise(np.ones(3), 0.1, rng, kind="gaussian")


def test_renewed_statistics_are_those_of_the_data_at_the_weights(rng):
    model = network(rng).eval()
    x = [rng.standard_normal((n, 6)).astype(np.float32) for n in (8, 8, 8)]
    norm, before = model[1], [p.data for p in model.parameters()]
    with smoothout(model, a=0.5, rng=rng):
        model.train()(Tensor(x[0]))
    model.eval()
    renew_statistics(model, x)
    hidden = [model[0](Tensor(rows)).data for rows in x]
    np.testing.assert_allclose(norm.running_mean, np.concatenate(hidden).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var, np.mean([h.var(0, ddof=1) for h in hidden], 0), rtol=1e-5)
    assert norm.momentum == 0.1 and not model.training
    assert all(p.data is array for p, array in zip(model.parameters(), before, strict=True))


# ----------------------------------------------------------------------------------------------------- the three noises


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_noise_fills_the_box(rng, dtype):
    theta = noise(np.zeros((200, 500), dtype), 0.25, rng)
    assert theta.dtype == dtype and np.abs(theta).max() <= 0.25 and np.abs(theta).max() > 0.2499
    n = theta.size
    assert abs(theta.mean(dtype=np.float64)) < 6 * 0.25 / (3 * n) ** 0.5
    # Var[theta^2] = a^4 (1/5 - 1/9)
    assert abs(np.square(theta, dtype=np.float64).mean() - 0.25**2 / 3) < 6 * 0.25**2 * (4 / 45 / n) ** 0.5


@pytest.mark.parametrize("shape", [(8, 30), (8, 3, 5, 5)])
def test_adaptive_noise_has_a_times_the_norm_of_each_filter(rng, shape):
    w = rng.standard_normal(shape)
    w[3] = 0
    theta = noise(w, 0.2, rng, kind="filter").reshape(8, -1)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 0.2 * np.linalg.norm(w.reshape(8, -1), axis=1), rtol=1e-5)
    assert not theta[3].any()


def test_each_element_of_a_bias_is_a_filter_of_its_own(rng):
    w = rng.standard_normal(50)
    theta = noise(w, 0.2, rng, kind="filter")
    np.testing.assert_allclose(np.abs(theta), 0.2 * np.abs(w), rtol=1e-3)
    assert {-1.0, 1.0} == set(np.sign(theta))


def test_proportional_noise_stays_within_a_of_each_weight(rng):
    w = rng.standard_normal(1000)
    theta = noise(w, 0.3, rng, kind="weight")
    assert (np.abs(theta) <= 0.3 * np.abs(w)).all() and np.abs(theta / w).max() > 0.29


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zero_on_request(rng, kind):
    w = np.where(rng.random((20, 20)) < 0.5, 0, rng.standard_normal((20, 20)))
    w[5] = 0
    theta = noise(w, 0.3, rng, kind, keep_zeros=True)
    assert not theta[w == 0].any() and theta[w != 0].all()


def test_one_seed_gives_the_same_bits(rng):
    model = network(rng)
    x, y = rng.standard_normal((16, 6)).astype(np.float32), rng.integers(0, 3, 16)

    def run():
        for p in model.parameters():
            p.grad = None
        with smoothout(model, a=0.1, rng=np.random.default_rng(7)):
            cross_entropy(model(Tensor(x)), y).backward()
        return b"".join(p.grad.tobytes() for p in model.parameters())

    assert run() == run()


# ------------------------------------------------------------------- unbiased for the smoothed loss, on closed forms


def test_on_a_quadratic_the_mean_gradient_is_H_w(rng):
    root = rng.standard_normal((4, 4))
    H, w = root @ root.T, rng.standard_normal(4)
    model = Landscape(w, lambda w: 0.5 * (w @ H @ w))
    assert sigmas(gradients(model, 0.5, 4000, rng), H @ w).max() < 6


def test_a_biased_noise_would_be_caught(rng):
    """Noise from (0, 2a) instead of (-a, a): the test above must see it."""
    root = rng.standard_normal((4, 4))
    H, w = root @ root.T, rng.standard_normal(4)
    model = Landscape(w + 0.5, lambda w: 0.5 * (w @ H @ w))
    assert sigmas(gradients(model, 0.5, 4000, rng), H @ w).max() > 6


@pytest.mark.parametrize("k", [1.0, 3.0, 8.0])
def test_a_cosine_shrinks_by_sin_ka_over_ka(rng, k):
    w, a = np.linspace(-1, 1, 5), 0.6
    model = Landscape(w, lambda w: np.cos(k * w).sum())
    assert sigmas(gradients(model, a, 4000, rng), -k * np.sin(k * w) * np.sin(k * a) / (k * a)).max() < 6


def test_the_gradient_of_the_absolute_value_becomes_a_ramp(rng):
    """The smoothed |w| is (w^2 + a^2) / 2a inside the box: slope w / a."""
    w, a = np.array([-0.3, -0.1, 0.0, 0.2]), 0.4
    model = Landscape(w, lambda w: abs(w).sum())
    assert sigmas(gradients(model, a, 4000, rng), w / a).max() < 6


# ------------------------------------------------------------------------------------------------------ step by step


def test_the_walk_shows_w_theta_their_sum_the_gradient_and_w_again(rng):
    model = Landscape([1.0, -2.0, 0.5], lambda w: (w * w).sum())
    before = model.w.data
    walk = {}
    for name, arrays in steps(model, model, a=0.1, rng=rng):
        assert model.w.data is before, "whoever stops the walk here keeps the weights"
        walk[name] = arrays["w"]
    assert list(walk) == ["w", "theta", "w + theta", "grad L(w + theta)", "w, restored"]
    np.testing.assert_array_equal(walk["w + theta"], walk["w"] + walk["theta"])
    np.testing.assert_allclose(walk["grad L(w + theta)"], 2 * walk["w + theta"], rtol=1e-14)
    assert walk["w, restored"] is walk["w"] is before
    assert model.w.grad is walk["grad L(w + theta)"]
