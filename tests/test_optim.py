"""Optimizers: the update rules by hand, what they must not touch, schedules and clipping.

SGD's options step for step against PyTorch are in tests/golden.
"""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError, UnsupportedOp
from minidl.layers import Linear, Parameter
from minidl.optim import SGD, clip_grad_norm, inv, multistep, poly


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
        SGD([], lr=1, form="keras")
    with pytest.raises(InputError, match="momentum > 0 and no dampening; got 0.0 and 0.0"):
        SGD([], lr=1, nesterov=True)


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
