"""Every line of the derivative table against finite differences: first order, and second order where it is smooth."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, rules
from minidl.gradcheck import gradcheck


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def positive(*shape, seed=0):
    return np.abs(normal(*shape, seed=seed)) + 0.3


def distinct(*shape, seed=0):
    """No two elements closer than 0.1: the largest stays the largest under a small step."""
    return np.random.default_rng(seed).permutation(np.arange(np.prod(shape)) * 0.1 - 0.45).reshape(shape)


MASK = normal(3, 4, seed=5) > 0

# function -> (a call of Tensors, their arrays) one or more times
CASES = {
    np.negative: [(np.negative, normal(3))],
    np.positive: [(np.positive, normal(3))],
    np.exp: [(np.exp, normal(3, 2))],
    np.log: [(np.log, positive(3))],
    np.log1p: [(np.log1p, positive(3))],
    np.sqrt: [(np.sqrt, positive(3))],
    np.square: [(np.square, normal(3))],
    np.sin: [(np.sin, normal(3))],
    np.cos: [(np.cos, normal(3))],
    np.tanh: [(np.tanh, normal(3))],
    np.absolute: [(np.absolute, distinct(7))],
    np.sign: [(np.sign, distinct(7))],
    rules.sigmoid: [(rules.sigmoid, 3 * normal(5))],
    rules.relu: [(rules.relu, distinct(7))],
    np.add: [(np.add, normal(2, 3), normal(3)), (np.add, normal(2, 1), normal(1, 3))],
    np.subtract: [(np.subtract, normal(2, 3), normal(3))],
    np.multiply: [(np.multiply, normal(2, 1, 3), normal(4, 1)), (lambda x: x * x, normal(3))],
    np.divide: [(np.divide, normal(2, 3), positive(3))],
    np.power: [
        (np.power, positive(2, 3), normal(3)),
        (lambda x: x**3, normal(4)),
        (lambda x: 2.0**x, normal(4)),
        (lambda x: x**-1, positive(4)),
    ],
    np.maximum: [(np.maximum, distinct(2, 3), distinct(3, seed=1) + 0.05)],
    np.minimum: [(np.minimum, distinct(2, 3), distinct(3, seed=1) + 0.05)],
    np.where: [(lambda x, y: np.where(MASK, x * x, y * y), normal(3, 4), normal(4))],
    np.matmul: [
        (np.matmul, normal(*a), normal(*b, seed=1))
        for a, b in [
            ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((3,), (5, 3, 2)), ((5, 2, 3), (3,)),
            ((5, 2, 3), (5, 3, 2)), ((2, 1, 2, 3), (4, 3, 2)), ((5, 2, 3), (3, 2)), ((2, 3), (5, 3, 2)),
        ]
    ],  # fmt: skip
    rules.getitem: [
        (lambda x, i=i: x[i] * x[i], normal(4, 3, 2))
        for i in (1, -1, slice(None, None, -2), None, (Ellipsis, 0), (slice(1, 3), [0, 0, 2]), [1, 1, 3], (0, 1, 1),
                  normal(4, seed=3) > 0, ([0, 0], [1, 1]), ([[0, 1], [1, 0]], slice(None), 1), np.int64(2))
    ],  # fmt: skip
    rules.scatter: [
        (lambda g: rules.scatter(g, index=([0, 2, 2],), shape=(4, 3)) ** 2, normal(3, 3)),
        (lambda g: rules.scatter(g, index=(slice(1, 3),), shape=(4, 3)) ** 2, normal(2, 3)),
    ],
    np.reshape: [(lambda x: np.reshape(x, (3, -1)) ** 2, normal(2, 6)), (lambda x: x.flatten(1) ** 2, normal(2, 3, 2))],
    np.swapaxes: [(lambda x: np.swapaxes(x, 0, -1) ** 2, normal(2, 3, 4))],
    np.transpose: [(lambda x: x.T ** 2, normal(2, 3)), (lambda x: x.permute(2, 0, -2) ** 2, normal(2, 3, 4))],
    np.expand_dims: [(lambda x: np.expand_dims(x, (0, -1)) ** 2, normal(2, 3))],
    np.squeeze: [(lambda x: np.squeeze(x) ** 2, normal(1, 3, 1)), (lambda x: np.squeeze(x, 0) ** 2, normal(1, 3, 1))],
    np.broadcast_to: [(lambda x: np.broadcast_to(x, (4, 2, 3)) ** 2, normal(2, 1))],
    np.pad: [(lambda x: np.pad(x, ((1, 0), (2, 3))) ** 2, normal(2, 3)), (lambda x: np.pad(x, 1) ** 2, normal(2, 3))],
    rules.concatenate: [
        (lambda x, y: np.concatenate([x, y, x]) ** 2, normal(2, 3), normal(1, 3)),
        (lambda x, y: np.concatenate([x, y], axis=-1) ** 2, normal(2, 3), normal(2, 1)),
    ],
    rules.stack: [
        (lambda x, y: np.stack([x, y, x]) ** 2, normal(2, 3), normal(2, 3)),
        (lambda x, y: np.stack([x, y], axis=-1) ** 2, normal(2, 3), normal(2, 3)),
    ],
    np.sum: [
        (lambda x, o=o: np.sum(x, **o) ** 2, normal(2, 3, 4))
        for o in ({}, {"axis": 1}, {"axis": (0, -1)}, {"axis": -2, "keepdims": True}, {"keepdims": True})
    ],
    np.mean: [(lambda x: np.mean(x) ** 2, normal(2, 3)), (lambda x: np.mean(x, (0, 2)) ** 2, normal(2, 3, 4))],
    np.max: [(lambda x: np.max(x) ** 2, distinct(2, 3)), (lambda x: np.max(x, 1, keepdims=True) ** 2, distinct(2, 3))],
    np.min: [(lambda x: np.min(x) ** 2, distinct(2, 3)), (lambda x: np.min(x, (0, 2)) ** 2, distinct(2, 3, 2))],
    rules.logsumexp: [
        (rules.logsumexp, normal(2, 3)),
        (lambda x: rules.logsumexp(x, axis=0, keepdims=True), normal(2, 3)),
        (lambda x: rules.logsumexp(x, axis=(0, 1)), normal(2, 3)),
    ],
}  # fmt: skip


def test_every_rule_has_a_case():
    assert set(CASES) == set(rules.VJPS) == set(rules.FORMULA)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{f.__name__} {i}") for f, cases in CASES.items() for i, c in enumerate(cases)]
)
def test_rule(case):
    function, *arrays = case
    before = [a.copy() for a in arrays]
    gradcheck(function, *arrays, rng=np.random.default_rng(1), order=2)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)  # no rule writes into its arguments


@pytest.mark.parametrize("function", rules.VJPS, ids=lambda f: f.__name__)
def test_a_rule_takes_float32_to_float32(function):
    for call, *arrays in CASES[function]:
        tensors = [Tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
        y = call(*tensors)
        assert y.dtype == np.float32
        y.sum().backward()
        for t in tensors:
            assert t.grad is None or t.grad.dtype == np.float32


@pytest.mark.parametrize("function", rules.VJPS, ids=lambda f: f.__name__)
def test_a_rule_gives_the_same_for_arrays_that_are_not_contiguous(function):
    for call, *arrays in CASES[function]:
        grads = []
        for copies in (arrays, [np.stack([a, a], axis=-1)[..., 0] for a in arrays]):  # every second number in memory
            tensors = [Tensor(a, requires_grad=True) for a in copies]
            call(*tensors).sum().backward()
            grads.append([t.grad for t in tensors])
        for a, b in zip(*grads, strict=True):
            np.testing.assert_allclose(0 if a is None else a, 0 if b is None else b, rtol=1e-13)


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
