"""What happens in a step: Caffe's order to the last bit, the penalty in the loss, schedules, `fit`, rates by group."""

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError
from minidl.layers import Linear, Parameter, cross_entropy
from minidl.models import LSTMLanguageModel, mlp
from minidl.optim import SGD, Adam, clip_grad_norm, multistep, warm_up
from minidl.sparsity import L1, GroupLasso, groups, own_groups
from minidl.tensor import no_grad
from minidl.train import fit


def two_groups(**options):
    w = Parameter(np.array([1.0, 2.0, 2.0, 3.0, 4.0]))
    return w, GroupLasso(own_groups({"w": w}, {"w": (0, [0, 0, 0, 1, 1])}), **({"lam": 0.3} | options))


def small():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    return mlp((6, 5, 3), rng=rng), [(x[k : k + 8], y[k : k + 8]) for k in range(0, 40, 8)]


# -- rule="published" --------------------------------------------------------------------------------------------------
def test_the_published_rule_is_caffes_order():
    """Clip the data gradient, add weight decay, add the penalty, momentum with the rate inside, update, zero out."""
    rng = np.random.default_rng(0)
    model = Linear(40, 30, rng=rng, bias=False).astype(np.float64)
    w = 0.01 * model.weight.data * (np.arange(30) != 1)[:, None]
    model.weight.data, h = w, np.zeros_like(w)
    penalty = GroupLasso(groups(model, by="row+column"), lam=0.02, rule="published")
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1, form="caffe")
    zeroed = 0
    for k in range(6):
        data = rng.standard_normal(w.shape) * (np.arange(30) != 1)[:, None]
        optimizer.lr = lr = 0.05 / (1 + k)
        diff = data * min(1, 0.5 / np.sqrt((data**2).sum()))
        diff = diff + 0.1 * w
        for axis in (1, 0):
            norm = np.sqrt((w**2).sum(axis, keepdims=True))
            diff = diff + np.where(norm > 0, 0.02 * w / np.where(norm > 0, norm, 1), 0)
        h = 0.9 * h + lr * diff
        w = w - h
        zeroed += ((np.abs(w) < 1e-4) & (w != 0)).sum()
        w = np.where(np.abs(w) < 1e-4, 0, w)

        model.weight.grad = data
        clip_grad_norm(model.parameters(), 0.5)
        penalty.add_subgradient_()
        optimizer.step()
        penalty.threshold_()
        np.testing.assert_allclose(model.weight.data, w, rtol=0, atol=1e-14)
    assert zeroed > 100 and not w[1].any(), "a dead row gets no subgradient"


def test_clipping_before_the_proximal_step_leaves_lambda_alone():
    """At the optimum the data gradient is balanced by lambda, however much was clipped on the way."""
    rng = np.random.default_rng(0)
    v, w = np.array([3.0, 4.0, 0.1, 0.1]), Parameter(rng.standard_normal(4))
    penalty = GroupLasso(own_groups({"w": w}, {"w": (0, [0, 0, 1, 1])}), lam=0.5)
    optimizer = SGD([w], lr=0.1, momentum=0.5)
    for _ in range(300):
        w.grad = w.data - v
        clip_grad_norm([w], 0.8)
        optimizer.step()
        penalty.prox_(optimizer)
    np.testing.assert_allclose(w.data, [2.7, 3.6, 0, 0], atol=1e-8)


def test_threshold_takes_other_parameters_and_another_limit():
    w, penalty = two_groups(rule="published")
    bias = Parameter(np.array([5e-5, 1.0, 3e-4]))
    penalty.threshold_(params=[bias])
    assert bias.data.tolist() == [0, 1, 3e-4] and w.data[0] == 1
    penalty.threshold_(2.5)
    assert w.data.tolist() == [0, 0, 0, 3, 4]


# -- the penalty in the loss -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", ["exact", "published"])
def test_the_penalty_in_the_loss_is_the_same_number_and_the_same_subgradient(rule):
    model = LSTMLanguageModel(9, 6, (5, 4), rng=np.random.default_rng(0)).astype(np.float64)
    found = groups(model, (np.zeros((2, 1), int), model.zero_states(1)), by="unit", layers=["layers.0", "layers.1"])
    penalty = GroupLasso(found, lam=0.2, rule=rule, weights="sqrt_size")
    model.layers[0].weight_hh.data = np.zeros_like(model.layers[0].weight_hh.data)
    expected, value = dict(zip(found.parameters, penalty._direction(), strict=True)), penalty.value()
    total = penalty()
    assert total.item() == pytest.approx(value, rel=1e-12) and total.shape == ()
    total.backward()
    for name, p in found.parameters.items():
        np.testing.assert_allclose(p.grad, expected[name], atol=1e-14)


def test_a_dead_group_in_the_loss_has_gradient_0_and_float32_stays_float32():
    model, _ = small()
    model[0].weight.data = model[0].weight.data * (np.arange(5) > 1).astype(np.float32)[:, None]
    penalty = GroupLasso(groups(model, by="neuron+input"), lam=0.2)
    total = penalty()
    total.backward()
    g = model[0].weight.grad
    assert total.dtype == g.dtype == np.float32 and not g[:2].any() and g[2:].all()


def test_numbers_confirm_the_subgradient_of_l1_and_of_groups():
    w, lasso = two_groups()
    for penalty in (lasso, L1({"w": w}, 0.3)):
        w.grad = None
        penalty().backward()
        for i in range(5):
            before, values = w.data, []
            for h in (1e-5, -1e-5):
                w.data = before + h * (np.arange(5) == i)
                values.append(penalty.value())
            w.data = before
            assert w.grad[i] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("rule, then", [("exact", "prox_"), ("published", "add_subgradient_")])
def test_lambda_is_not_applied_twice_in_a_step(rule, then):
    w, penalty = two_groups(rule=rule)
    optimizer = SGD([w], lr=0.1)
    with no_grad():
        penalty()  # only looked at
    (penalty() + (w * w).sum()).backward()
    optimizer.step()
    before = w.data
    with pytest.raises(InputError, match=r"penalty\(\) is in the loss already"):
        getattr(penalty, then)(*[optimizer] * (then == "prox_"))
    assert w.data is before


# -- lambda by step, and in fit ----------------------------------------------------------------------------------------
def test_a_schedule_is_followed_by_steps_of_either_rule():
    for rule in ("exact", "published"):
        w, penalty = two_groups(lam=warm_up(multistep(0.4, 0.5, at=[4]), 2), rule=rule)
        optimizer, seen = SGD([w], lr=0.01), []
        for _ in range(6):
            w.grad, before = np.zeros(5), w.data
            seen.append(penalty.lam)
            if rule == "published":
                penalty.add_subgradient_()
                np.testing.assert_allclose(np.sqrt((w.grad[3:] ** 2).sum()), seen[-1], atol=1e-15)
            optimizer.step()
            if rule == "exact":
                penalty.prox_(optimizer)
                assert 5 * before[3] / 3 - 5 * w.data[3] / 3 == pytest.approx(0.01 * seen[-1])
        assert seen == pytest.approx([0, 0.2, 0.4, 0.4, 0.2, 0.2])


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_schedule_must_not_give_less_than_0(value):
    w, penalty = two_groups(lam=lambda step: value)
    optimizer = SGD([w], lr=0.1)
    w.grad = np.zeros(5)
    optimizer.step()
    before = w.data
    with pytest.raises(InputError, match="the schedule gives lambda .* at step 0"):
        penalty.prox_(optimizer)
    assert w.data is before


@pytest.mark.parametrize("rule", ["exact", "published"])
@pytest.mark.parametrize("kind", [GroupLasso, L1])
def test_as_a_callback_it_does_what_the_loop_does(kind, rule):
    def make():
        model, batches = small()
        about = groups(model, by="neuron") if kind is GroupLasso else model
        return model, batches, kind(about, 0.05, rule=rule), SGD(model.parameters(), lr=0.1, momentum=0.9)

    one, batches, penalty, optimizer = make()
    fit(one, batches, optimizer, epochs=2, callbacks=[penalty])
    two, batches, penalty, optimizer = make()
    for x, y in batches * 2:
        optimizer.zero_grad()
        cross_entropy(two(Tensor(x)), y).backward()
        if rule == "published":
            penalty.add_subgradient_()
        optimizer.step()
        penalty.prox_(optimizer) if rule == "exact" else penalty.threshold_()
    assert all(np.array_equal(a.data, b.data) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# -- optimizers with groups of parameters ------------------------------------------------------------------------------
def test_each_parameter_is_shrunk_at_its_own_rate():
    a, b = (Parameter(np.array([[3.0, 4.0], [0.3, 0.4]])) for _ in range(2))
    penalty = GroupLasso(own_groups({"a": a, "b": b}, {"a": (0, [0, 1]), "b": (0, [2, 3])}), lam=1.0)
    optimizer = SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=1.0)
    a.grad, b.grad = np.zeros((2, 2)), np.zeros((2, 2))
    optimizer.step()
    penalty.prox_(optimizer)
    np.testing.assert_allclose(a.data, [[2.4, 3.2], [0, 0]])
    np.testing.assert_allclose(b.data, [[2.7, 3.6], [0, 0]])


@pytest.mark.parametrize("method", [SGD, Adam])
def test_what_an_optimizer_cannot_do_is_refused_and_changes_nothing(method):
    a, b = (Parameter(np.ones((2, 2))) for _ in range(2))
    penalty = GroupLasso(own_groups({"a": a, "b": b}, {"a": (0, [0, 1]), "b": (1, [0, 1])}), lam=1.0)
    unequal = method([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=1.0)
    a.grad = b.grad = np.ones((2, 2))
    unequal.step()
    before = a.data
    if method is SGD:
        with pytest.raises(InputError, match="a group lies in b, which the optimizer moves by 0.5 .* moves by 1: give"):
            penalty.prox_(unequal)
    other = method([a], lr=1.0)
    other.step()
    before = a.data
    with pytest.raises(InputError, match="b of the penalty is not stepped by this optimizer"):
        penalty.prox_(other)
    assert a.data is before


@pytest.mark.parametrize("smooth, rule", [(1e-8, "exact"), (-1e-8, "published"), (float("nan"), "published")])
def test_smooth_belongs_to_the_subgradient(smooth, rule):
    with pytest.raises(InputError, match="smooth="):
        two_groups(smooth=smooth, rule=rule)
    w, penalty = two_groups(smooth=0.07, rule="published")
    assert penalty.value() == pytest.approx(0.3 * (np.sqrt(9.07) + np.sqrt(25.07)))


def test_l1_needs_weights_and_its_published_rule_pulls_by_the_sign():
    with pytest.raises(InputError, match="finds no weights"):
        L1({}, 0.1)
    model, _ = small()
    penalty = L1(model, 0.1, rule="published")
    assert set(penalty.parameters) == {n for n, p in model.named_parameters() if p.ndim > 1} and "lambda 0.1" in repr(
        penalty
    )
    penalty.add_subgradient_()
    w = model[0].weight
    assert np.array_equal(w.grad, np.float32(0.1) * np.sign(w.data)) and w.grad.dtype == np.float32
