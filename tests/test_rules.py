"""Every line of the derivative table has all the properties that proof.py makes of its specification."""

from __future__ import annotations

import numpy as np
import pytest
from proof import proved
from specs import RULES

from minidl import Tensor, grad, rules
from minidl.errors import UnsupportedOp


def test_every_rule_is_specified_and_has_a_formula():
    assert set(RULES) == set(rules.VJPS) == set(rules.FORMULA)


@proved(RULES)
def test_rule(prove):
    prove()


def test_power_of_zero_has_a_finite_gradient():
    x, y = Tensor(np.zeros(2), requires_grad=True), Tensor(np.array([1.0, 2.0]), requires_grad=True)
    (x**y).sum().backward()
    assert x.grad.tolist() == [1, 0] and y.grad.tolist() == [0, 0]


def test_sigmoid_and_logsumexp_do_not_overflow():
    x = np.array([-1e4, 0.0, 1e4])
    assert rules.sigmoid(x).tolist() == [0, 0.5, 1]
    assert rules.logsumexp(x) == 1e4
    t = Tensor(x, requires_grad=True)
    (rules.sigmoid(t).sum() + rules.logsumexp(t)).backward()
    np.testing.assert_allclose(t.grad, [0, 0.25, 1], atol=1e-12)


def test_primitives_take_plain_arrays_too():
    assert type(rules.relu(np.array([-1.0, 2.0]))) is np.ndarray
    np.testing.assert_array_equal(rules.concatenate(np.ones(1), np.zeros(2)), [1, 0, 0])


def test_logsumexp_of_nothing_but_minus_infinity():
    assert rules.logsumexp(np.full(3, -np.inf)) == -np.inf


def test_steps_have_a_derivative_of_zero():
    x = Tensor(np.array([-1.5, 0.0, 2.0]), requires_grad=True)
    np.floor(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_the_gradient_of_clip_goes_to_the_bound_where_it_acts():
    x, low = Tensor(np.array([-1.0, 0.5]), requires_grad=True), Tensor(np.array(0.0), requires_grad=True)
    dx, dlow = grad(np.clip(x, low, 1.0).sum(), [x, low])
    assert dx.tolist() == [0, 1] and dlow == 1


def test_a_diagonal_in_einsum_refuses():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    with pytest.raises(UnsupportedOp, match=r"einsum 'ii->i': a letter twice in one argument \(a diagonal\)"):
        rules.einsum("ii->i", x).sum().backward()
