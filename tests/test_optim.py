"""Optimizers: the update rules by hand, what they must not touch, schedules and clipping.

Every method and schedule step for step against PyTorch is in tests/golden.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError, ShapeError, UnsupportedOp
from minidl.layers import Linear, Parameter
from minidl.optim import (
    SGD,
    Adam,
    AdamW,
    RMSprop,
    chained,
    clip_grad_norm,
    clip_grad_norm_each,
    clip_grad_value,
    inv,
    multistep,
    poly,
)


def parameter(values, grad=None):
    p = Parameter(np.array(values, np.float32))
    p.grad = None if grad is None else np.array(grad, np.float32)
    return p


def test_plain_sgd():
    p = parameter([1, 2], [10, -10])
    SGD([p], lr=0.1).step()
    np.testing.assert_allclose(p.data, [0, 3])


def test_caffes_form_holds_the_rate_inside_the_buffer():
    """Equal while the rate stays; when it falls, Caffe's buffer still moves at the old rate."""
    torch_like, caffe_like = parameter([0.0]), parameter([0.0])
    one, two = SGD([torch_like], lr=1.0, momentum=0.5), SGD([caffe_like], lr=1.0, momentum=0.5, form="caffe")
    for rate, torch_says, caffe_says in [(1.0, -1.0, -1.0), (1.0, -2.5, -2.5), (0.1, -2.675, -3.35)]:
        for p, optimizer in ((torch_like, one), (caffe_like, two)):
            p.grad, optimizer.lr = np.ones(1, np.float32), rate
            optimizer.step()
        np.testing.assert_allclose([torch_like.data[0], caffe_like.data[0]], [torch_says, caffe_says], rtol=1e-6)


def test_a_step_replaces_the_array_and_never_writes_into_it():
    p = parameter([1, 2], [1, 1])
    before, gradient = p.data, p.grad
    SGD([p], lr=0.5, momentum=0.9, weight_decay=0.1).step()
    assert p.data is not before
    assert before.tolist() == [1, 2] and gradient.tolist() == [1, 1]


def test_the_buffer_does_not_alias_the_gradient():
    p = parameter([0.0], [1.0])
    optimizer = SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    p.grad[...] = 100  # the same array, used again for the next gradient
    np.testing.assert_array_equal(optimizer.velocity[0], [1])


def test_parameters_without_a_gradient_stay():
    p, q = parameter([1.0]), parameter([1.0], [1.0])
    SGD([p, q], lr=0.5, weight_decay=1.0).step()
    assert p.data[0] == 1 and q.data[0] == 0


def test_named_parameters_and_zero_grad():
    layer = Linear(2, 1, rng=np.random.default_rng(0))
    optimizer = SGD(layer.named_parameters(), lr=0.1)
    layer(Tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()
    assert optimizer.steps == 1
    optimizer.zero_grad()
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("rate", [0.1, np.float64(0.1), np.float32(0.1)], ids=repr)
def test_float32_weights_stay_float32(rate):
    p = parameter([1.0], [1.0])
    optimizer = SGD([p], lr=rate, momentum=np.float64(0.9), weight_decay=np.float64(0.1))
    for _ in range(2):
        optimizer.step()
    clip_grad_norm([p], np.float64(0.01))
    assert p.data.dtype == p.grad.dtype == optimizer.velocity[0].dtype == np.float32


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="form 'keras' is neither 'torch' nor 'caffe'"):
        SGD([parameter([1.0])], lr=1, form="keras")
    with pytest.raises(InputError, match="SGD was given no parameters"):
        SGD([], lr=0.1)
    with pytest.raises(InputError, match="Adam: the learning rate is -1; give at least 0"):
        Adam([parameter([1.0])], lr=-1)
    with pytest.raises(InputError, match=r"Adam: betas are \(0.9, 1.0\); give two, at least 0 and below 1"):
        Adam([parameter([1.0])], betas=(0.9, 1.0))
    with pytest.raises(InputError, match="momentum > 0 and no dampening; got 0.0 and 0.0"):
        SGD([parameter([1.0])], lr=1, nesterov=True)


def test_a_gradient_that_is_a_graph_is_not_stepped_on():
    p = parameter([1.0])
    (p * p).sum().backward(create_graph=True)
    with pytest.raises(UnsupportedOp):
        SGD([p], lr=1.0).step()
    assert type(p.data) is np.ndarray


def test_clip_grad_norm():
    p, q, r = parameter([0, 0], [3, 0]), parameter([0], [4]), parameter([0])
    assert clip_grad_norm([p, q, r], 10) == 5
    assert p.grad.tolist() == [3, 0]
    assert clip_grad_norm([p, q, r], 1) == 5
    np.testing.assert_allclose([*p.grad, *q.grad], [0.6, 0, 0.8], rtol=1e-6)
    assert r.grad is None


def test_clipping_does_not_write_into_the_gradient():
    p = parameter([0], [4])
    before = p.grad
    clip_grad_norm([p], 1)
    assert before.tolist() == [4]


def test_schedules():
    assert inv(0.01, 1e-4, 0.75)(10_000) == pytest.approx(0.01 * 2**-0.75)
    assert [multistep(1.0, 0.1, [2, 4])(s) for s in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [poly(2.0, 2, 4)(s) for s in range(5)] == pytest.approx([2, 2 * 0.75**2, 0.5, 2 * 0.25**2, 0])


# -- groups, state, and what other rooms read ------------------------------------------------------------------------
def test_groups_differ_in_their_options():
    p, q = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer = SGD([{"params": [p]}, {"params": [("q", q)], "lr": 0.5}], lr=0.1)
    optimizer.step()
    np.testing.assert_allclose([*p.data, *q.data], [0.9, 0.5])
    assert optimizer.lr == 0.1 and optimizer.params == [p, q]
    optimizer.lr = 1.0
    assert [g["lr"] for g in optimizer.groups] == [1.0, 1.0]


def test_an_unknown_option_and_a_parameter_given_twice_are_refused():
    p = parameter([1.0])
    with pytest.raises(InputError, match=r"Adam has no option \['momentum'\]; it has \['betas', 'eps', 'lr', "):
        Adam([{"params": [p], "momentum": 0.9}])
    with pytest.raises(InputError, match="given twice"):
        RMSprop([p, p])


def test_a_copy_with_other_parameters_leaves_the_first_optimizer_alone():
    p, small = parameter([1.0, 2.0], [1.0, 1.0]), parameter([2.0], [1.0])
    optimizer = SGD([p], lr=0.5, momentum=0.9)
    optimizer.step()
    less = copy.copy(optimizer)
    less.params, less.velocity = [small], {0: optimizer.velocity[0][1:]}
    less.lr = 1.0
    less.step()
    np.testing.assert_allclose(small.data, [2 - 1.9], rtol=1e-5)
    assert optimizer.params == [p] and optimizer.lr == 0.5 and optimizer.velocity[0].tolist() == [1, 1]


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
def test_state_of_another_shape_is_refused_and_changes_nothing(kind):
    optimizer = kind([parameter([1.0])], lr=0.1)
    saved = optimizer.state_dict()
    with pytest.raises(ShapeError, match=r"'v' of parameter 0 has shape \(3,\), it has \(1,\)"):
        optimizer.load_state_dict({**saved, "state": [{"v": np.ones(3)}]})
    with pytest.raises(InputError, match="holds 2 parameters in 1 groups, this optimizer 1 in 1"):
        optimizer.load_state_dict({**saved, "state": [{}, {}]})
    with pytest.raises(InputError, match=r"has the options \['lr'\]"):
        optimizer.load_state_dict({**saved, "groups": [{"lr": 9.0}], "steps": 7})
    with pytest.raises(InputError, match="no state of an optimizer: it has no groups, state, steps"):
        optimizer.load_state_dict({})
    assert optimizer.lr == 0.1 and optimizer.steps == 0


@pytest.mark.parametrize("make", [Adam, AdamW, lambda p, lr: RMSprop(p, lr, centered=True, momentum=0.9)])
def test_every_method_keeps_float32_and_replaces(make):
    p = parameter([1.0, 2.0], [3.0, -1.0])
    optimizer, before = make([p], lr=np.float64(0.1)), p.data
    for _ in range(3):
        optimizer.step()
    assert before.tolist() == [1, 2] and p.grad.tolist() == [3, -1]
    assert {a.dtype for a in (p.data, *(a for s in optimizer.state for a in s.values() if np.ndim(a)))} == {p.dtype}


def test_clip_each_norm_and_value():
    p, q, r = parameter([0, 0], [3, 4]), parameter([0], [0.5]), parameter([0])
    before = p.grad
    assert clip_grad_norm_each([p, q, r], 1) == [5, 0.5]
    np.testing.assert_allclose([*p.grad, *q.grad], [0.6, 0.8, 0.5], rtol=1e-6)
    clip_grad_value([p, q, r], 0.7)
    np.testing.assert_allclose([*p.grad, *q.grad], [0.6, 0.7, 0.5], rtol=1e-6)
    assert before.tolist() == [3, 4] and r.grad is None and p.grad.dtype == np.float32
    with pytest.raises(InputError, match="at least 0; got -1"):
        clip_grad_value([p], -1)


def test_nan_passes_the_clamp():
    p = parameter([0], [np.nan])
    clip_grad_value([p], 1)
    assert np.isnan(p.grad[0])


def test_caffes_inv_policy_gives_the_rates_of_its_lenet_log():
    rate, logged = inv(0.01, 1e-4, 0.75), {100: 0.00992565, 500: 0.00964069, 1000: 0.00931012, 9900: 0.00596843}
    assert {t: float(f"{rate(t):.6g}") for t in logged} == logged


def test_chained_refuses_a_gap_at_the_start():
    with pytest.raises(InputError, match=r"the first steps \[3\] must start at 0 and rise"):
        chained((3, inv(1, 1, 1)))


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.5, momentum=0.9), Adam, RMSprop])
def test_a_parameter_without_axes_stays_an_array(make):
    p = parameter(2.0, 3.0)
    optimizer = make([p])
    for _ in range(2):
        clip_grad_norm([p], 1.0)
        clip_grad_value([p], 0.5)
        optimizer.step()
    assert type(p.data) is type(p.grad) is np.ndarray and p.data.shape == () and p.data.dtype == np.float32
    assert optimizer.param_groups is optimizer.groups


def test_gradients_whose_squares_overflow_are_clipped_like_others():
    p, q = parameter([0.0], [3e30]), parameter([0.0], [4e30])
    assert clip_grad_norm([p, q], 5.0) == pytest.approx(5e30, rel=1e-6)
    np.testing.assert_allclose([p.grad[0], q.grad[0]], [3, 4], rtol=1e-6)
