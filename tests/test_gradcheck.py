"""gradcheck finds what is wrong: seeded mutants of real derivatives, each caught, and what the message names."""

from __future__ import annotations

import re
from importlib import import_module

import numpy as np
import pytest

from minidl import Tensor, rules
from minidl import layers as L
from minidl.gradcheck import GradientError, gradcheck
from minidl.layers import norm as norm_file
from minidl.layers import pool as pool_file
from minidl.tensor import Op

lstm_file = import_module("minidl.layers.lstm")  # minidl.layers.lstm itself is the op
normal = np.random.default_rng(0).standard_normal


def check(function, *arrays, order=1):
    gradcheck(function, *arrays, rng=np.random.default_rng(1), order=order)


def mutant_rule(monkeypatch, function, *vjps):
    monkeypatch.setitem(rules.VJPS, function, vjps)


def mutant_op(op, **changed):
    """A copy of a kernel op with another backward (or forward)."""
    parts = {name: getattr(op, name) for name in ("forward", "backward", "composed")}
    return Op(op.__name__, op.formula, **(parts | changed))


# -- mutants: what is broken, and the call that must fail ------------------------------------------------------------
def flipped_sign(monkeypatch):
    mutant_rule(monkeypatch, np.subtract, lambda g, out, x, y: g, lambda g, out, x, y: g)
    return np.subtract, normal((2, 3)), normal((2, 3))


def missing_factor(monkeypatch):
    mutant_rule(monkeypatch, np.square, lambda g, out, x: g * x)
    return np.square, normal((3,))


def out_for_x(monkeypatch):
    mutant_rule(monkeypatch, np.log, lambda g, out, x: g / out)
    return np.log, np.abs(normal((3,))) + 0.5


def missing_sum_over_a_broadcast_axis(monkeypatch):
    def backward(g, out, saved, needs, x, weight, bias):  # takes one row's gradient for the whole batch's
        dx, dweight, _ = L.linear.backward(g, out, saved, needs, x, weight, bias)
        return dx, dweight, g[0]

    return mutant_op(L.linear, backward=backward), normal((4, 3)), normal((2, 3)), normal((2,))


def missing_transpose(monkeypatch):
    def backward(g, out, saved, needs, x, weight):
        return g @ weight.T, g.T @ x, None

    return mutant_op(L.linear, backward=backward), normal((4, 3)), normal((3, 3))


def off_by_one_padding(monkeypatch):
    def backward(*args, **options):
        dx, dweight, dbias = L.conv2d.backward(*args, **options)
        return np.roll(dx, 1, axis=2), dweight, dbias

    op = mutant_op(L.conv2d, backward=backward)
    return lambda *a: op(*a, padding=1), normal((1, 2, 4, 4)), normal((2, 2, 3, 3)), normal((2,))


def mutant_lstm(monkeypatch, cell_backward):
    monkeypatch.setattr(lstm_file, "lstm_cell_backward", cell_backward)
    shapes = ((3, 2, 2), (2, 2), (2, 2), (8, 2), (8, 2), (8,))
    return (lambda *a: L.lstm(*a), *(normal(s) for s in shapes))


def swapped_gates(monkeypatch):
    original = lstm_file.lstm_cell_backward.numpy

    def cell_backward(*args):
        dz, dc = original(*args)
        i, f, g, o = np.split(dz, 4, axis=1)
        return np.concatenate([f, i, g, o], axis=1), dc

    return mutant_lstm(monkeypatch, cell_backward)


def c_instead_of_c_of_the_step_before(monkeypatch):
    original = lstm_file.lstm_cell_backward.numpy

    def cell_backward(dh, dc, gates, c_before, tanh_c):
        return original(dh, dc, gates, np.arctanh(tanh_c), tanh_c)

    return mutant_lstm(monkeypatch, cell_backward)


def memory_not_carried_back(monkeypatch):
    original = lstm_file.lstm_cell_backward.numpy

    def cell_backward(*args):
        dz, dc = original(*args)
        return dz, np.zeros_like(dc)

    return mutant_lstm(monkeypatch, cell_backward)


def mean_forgotten_in_batch_norm(monkeypatch):
    def backward(g, out, saved, needs, x, weight, bias, *, eps):  # as if mean and variance were constants
        _, dweight, dbias = norm_file.batch_norm.backward(g, out, saved, needs, x, weight, bias, eps=eps)
        return g * weight / np.sqrt(x.var(0) + eps), dweight, dbias

    op = mutant_op(norm_file.batch_norm, backward=backward)
    return lambda *a: op(*a, eps=1e-5), normal((5, 2)), normal((2,)), normal((2,))


def the_last_winner_instead_of_the_first(monkeypatch):
    def backward(g, out, winner, needs, x, **options):
        return (pool_file.scatter_to_winners.numpy(g, 3 - winner, x.shape, 2, 2, 0),)

    op = mutant_op(L.max_pool2d, backward=backward)
    return lambda x: op(x, kernel=2, stride=2), normal((1, 2, 4, 4))


def one_hot_forgotten_in_cross_entropy(monkeypatch):
    def backward(g, out, saved, needs, logits, labels):
        exps, total = saved
        return exps * (g[:, None] / total), None

    op = mutant_op(L.softmax_cross_entropy, backward=backward)
    return lambda z: op(z, np.array([0, 2, 1])), normal((3, 4))


def repeated_rows_not_added(monkeypatch):
    def backward(g, out, saved, needs, weight, ids):
        dweight = np.zeros_like(weight)
        dweight[ids] = g
        return dweight, None

    op = mutant_op(L.embedding, backward=backward)
    return lambda w: op(w, np.array([1, 1, 0])), normal((3, 2))


MUTANTS = [
    flipped_sign, missing_factor, out_for_x, missing_sum_over_a_broadcast_axis, missing_transpose, off_by_one_padding,
    swapped_gates, c_instead_of_c_of_the_step_before, memory_not_carried_back, mean_forgotten_in_batch_norm,
    the_last_winner_instead_of_the_first, one_hot_forgotten_in_cross_entropy, repeated_rows_not_added,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda f: f.__name__)
def test_a_mutant_is_caught(mutant, monkeypatch):
    function, *arrays = mutant(monkeypatch)
    with pytest.raises(GradientError):
        check(function, *arrays)


def test_the_unchanged_originals_pass():
    check(np.subtract, normal((2, 3)), normal((2, 3)))
    check(L.linear, normal((4, 3)), normal((2, 3)), normal((2,)))
    check(L.lstm, *(normal(s) for s in ((3, 2, 2), (2, 2), (2, 2), (8, 2), (8, 2), (8,))))


def test_a_mutant_of_second_order_passes_the_first_and_fails_the_second(monkeypatch):
    def half_cut(g, out, x):  # right in value, but the graph is cut: out is a constant to the second derivative
        return g * getattr(out, "data", out) if isinstance(out, Tensor) else g * out

    mutant_rule(monkeypatch, np.exp, half_cut)
    check(np.exp, normal((3,)))
    with pytest.raises(GradientError, match="derivative of exp"):
        check(np.exp, normal((3,)), order=2)


# -- what it says ----------------------------------------------------------------------------------------------------
def test_the_message_names_function_argument_index_and_both_numbers(monkeypatch):
    def third_is_doubled(g, out, x, y):
        return g * x * np.array([1.0, 1.0, 2.0])

    mutant_rule(monkeypatch, np.multiply, lambda g, out, x, y: g * y, third_is_doubled)
    with pytest.raises(GradientError) as caught:
        check(lambda x, y: np.multiply(x, y), np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    pattern = r"argument 1 \(y\), index \(2,\): the rule gives (\S+), finite differences (\S+) \(relative"
    said = re.search(pattern, str(caught.value))
    assert float(said[1]) == pytest.approx(2 * float(said[2]), rel=1e-6)


def test_a_gradient_that_is_not_a_number_fails(monkeypatch):
    mutant_rule(monkeypatch, np.exp, lambda g, out, x: g * np.nan)
    with pytest.raises(GradientError, match="nan"):
        check(np.exp, normal((3,)))


def test_float32_is_checked_in_float64_and_said():
    with pytest.warns(UserWarning, match="gradcheck of exp: argument 0 is float32.*checked in a float64 copy"):
        check(np.exp, np.ones(2, np.float32))


def test_labels_are_passed_on():
    check(L.softmax_cross_entropy, normal((3, 4)), np.array([0, 2, 1]))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda g: -g, "the sign is flipped"),
        (lambda g: 3 * g, "it is 3 times the right one"),
        (lambda g: 0 * g, "nothing arrives"),
        (lambda g: np.roll(g, 1, 1), "shifted by 1 along axis 1"),
        (lambda g: np.flip(g, 0), "reversed along axis 0"),
        (lambda g: g.T, "transposed"),
    ],
)
def test_the_message_says_what_the_wrong_gradient_looks_like(monkeypatch, wrong, says):
    mutant_rule(monkeypatch, np.exp, lambda g, out, x: wrong(g * out))
    with pytest.raises(GradientError, match=says):
        check(np.exp, normal((3, 3)))


def test_the_message_names_the_argument_of_an_op(monkeypatch):
    with pytest.raises(GradientError, match=r"linear, argument 2 \(bias\), index \(\d,\)"):
        check(*missing_sum_over_a_broadcast_axis(monkeypatch))


def test_a_function_that_does_not_depend_on_its_argument_passes_with_zeros():
    check(np.sign, np.array([0.5, -0.5]))


def test_the_arrays_given_are_not_changed():
    x = normal((3,))
    before = x.copy()
    check(np.exp, x, order=2)
    np.testing.assert_array_equal(x, before)
