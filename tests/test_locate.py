"""Seeded mutants of every kernel's backward: locate names the argument, the gate and the step where each goes wrong."""

from __future__ import annotations

import re
from importlib import import_module

import numpy as np
import pytest

from minidl import layers as L
from minidl import rules
from minidl.errors import InputError
from minidl.gradcheck import GradientError, gradcheck
from minidl.layers import pool as pool_file
from minidl.locate import locate
from minidl.tensor import Op

lstm_file, gru_file = (import_module(f"minidl.layers.{name}") for name in ("lstm", "gru"))
normal = np.random.default_rng(0).standard_normal
LSTM = [normal(s) for s in ((3, 2, 2), (2, 2), (2, 2), (8, 2), (8, 2), (8,))]
GRU = [normal(s) for s in ((3, 2, 2), (2, 2), (6, 2), (6, 2), (6,), (6,))]
LINEAR = [normal((5, 3)), normal((3, 3)), normal((3,))]
CONV = [normal((2, 2, 4, 4)), normal((2, 2, 3, 3)), normal((2,))]
NORM = [normal((6, 2)), normal((2,)), normal((2,))]
LAST = r", first at step 2 of 0\.\.2"

MUTANTS: dict = {}


def mutant(op, arrays, says, **options):
    """Enter a mutant: a function (original backward, g, out, saved, needs, *arrays, **options) -> gradients."""

    def enter(change):
        def backward(*args, **kwargs):
            return change(op.backward, *args, **kwargs)

        changed = Op(op.__name__, op.formula, forward=op.forward, backward=backward, composed=op.composed)
        MUTANTS[f"{op.__name__}: {change.__name__}"] = changed, arrays, says, options, None
        return change

    return enter


def cell_mutant(file, op, name, arrays, says):
    """Enter a mutant of one step of a recurrent op: a function (original, *its arguments) -> its results."""

    def enter(change):
        original = getattr(file, name).numpy
        patch = (file, name, lambda *args: change(original, *args))
        MUTANTS[f"{op.__name__}: {change.__name__}"] = op, arrays, says, {}, patch
        return change

    return enter


lstm_cell = lambda says: cell_mutant(lstm_file, L.lstm, "lstm_cell_backward", LSTM, says)
gru_cell = lambda says: cell_mutant(gru_file, L.gru, "gru_cell_backward", GRU, says)


# -- LSTM: gates and steps -------------------------------------------------------------------------------------------
@lstm_cell(r"dL/d\(f\).* and dL/d\(i\)|dL/d\(i\).* and dL/d\(f\).*" + LAST)
def swapped_gates(original, *args):
    dz, dc = original(*args)
    i, f, g, o = np.split(dz, 4, axis=1)
    return np.concatenate([f, i, g, o], axis=1), dc


@lstm_cell(r"wrong first: dL/d\(f\).*\[:, 2:4\]" + LAST)
def c_instead_of_c_of_the_step_before(original, dh, dc, gates, c_before, tanh_c):
    return original(dh, dc, gates, np.arctanh(tanh_c), tanh_c)


@lstm_cell(
    r"argument 2 \(c\).*nothing arrives(.|\n)*wrong first: what argument 2 \(c\) receives and dL/d\((c|tanh_c)\)"
)
def memory_not_carried_back(original, *args):
    dz, dc = original(*args)
    return dz, np.zeros_like(dc)


@lstm_cell(r"wrong first: dL/d\(o\).*\[:, 6:8\]" + LAST)
def sign_of_the_output_gate(original, *args):
    dz, dc = original(*args)
    dz[:, 6:] *= -1
    return dz, dc


@lstm_cell(r"wrong first: dL/d\(g\) at `np\.tanh\(z.*\[:, 4:6\]" + LAST)
def tanh_forgotten_in_the_candidate(original, dh, dc, gates, c_before, tanh_c):
    i, f, g, o = np.split(gates, 4, axis=1)
    dz, out = original(dh, dc, gates, c_before, tanh_c)
    dz[:, 4:6] /= 1 - g * g
    return dz, out


@lstm_cell(r"wrong first: dL/d\(tanh_c\) at `np\.tanh\(c\)`.*, or dL/d\(c\) .*" + LAST)
def square_forgotten_in_tanh_of_the_memory(original, dh, dc, gates, c_before, tanh_c):
    o = gates[:, 6:]
    extra = dh * o * (1 - tanh_c) - dh * o * (1 - tanh_c * tanh_c)
    return original(dh, dc + extra, gates, c_before, tanh_c)


@mutant(L.lstm, LSTM, r"argument 1 \(h\), .*nothing arrives(.|\n)*wrong first: what argument 1 \(h\) receives and ")
def said_word_not_carried_back(original, g, out, saved, needs, x, h, c, w_ih, w_hh, bias):
    return original(g, out, saved, needs, x, h, c, w_ih, 0 * w_hh, bias)


@mutant(
    L.lstm, LSTM, r"\n  argument 4 \(w_hh\), index(.|\n)*right: argument 0 .*\n  wrong first: .*argument 4 \(w_hh\)"
)
def h_instead_of_h_of_the_step_before(original, g, out, saved, needs, *arrays):
    return original(g, out, (np.roll(saved[0], -1, axis=0), *saved[1:]), needs, *arrays)


@mutant(L.lstm, LSTM, r"argument 0 \(x\), .* reversed along axis 0")
def time_not_turned_back(original, *args):
    dx, *others = original(*args)
    return dx[::-1], *others


@mutant(L.lstm, LSTM, r"argument 5 \(bias\), index .*it is 0\.3333 times the right one")
def mean_instead_of_sum_over_time(original, *args):
    *others, dbias = original(*args)
    return *others, dbias / 3


# -- GRU -------------------------------------------------------------------------------------------------------------
@gru_cell(r"wrong first: .*at `zh\[:, 2 \* width :\]`.*" + LAST)
def reset_gate_forgotten_on_the_way_to_the_state(original, *args):
    dzx, dzh, dh = original(*args)
    return dzx, np.concatenate([dzh[:, :4], dzx[:, 4:]], axis=1), dh


@gru_cell(r"wrong first: .*dL/d\(z\).*" + LAST)
def sign_of_the_update_gate(original, *args):
    dzx, dzh, dh = original(*args)
    for d in (dzx, dzh):
        d[:, 2:4] *= -1
    return dzx, dzh, dh


# -- layers without time ---------------------------------------------------------------------------------------------
@mutant(L.linear, LINEAR, r"argument 2 \(bias\), index(.|\n)*right: argument 0 \(x\), argument 1 \(weight\)")
def missing_sum_over_a_broadcast_axis(original, g, *args):
    dx, dweight, _ = original(g, *args)
    return dx, dweight, g[0]


@mutant(L.linear, LINEAR, r"argument 0 \(x\), index(.|\n)*right: argument 1 \(weight\), argument 2 \(bias\)")
def missing_transpose(original, g, out, saved, needs, x, weight, bias):
    _, *others = original(g, out, saved, needs, x, weight, bias)
    return g @ weight.T, *others


@mutant(L.linear, LINEAR, r"argument 1 \(weight\), .*it is the right one transposed")
def weight_gradient_transposed(original, *args):
    dx, dweight, dbias = original(*args)
    return dx, dweight.T, dbias


@mutant(L.conv2d, CONV, r"argument 0 \(x\), .*shifted by 1 along axis 2(.|\n)*right: argument 1", padding=1)
def off_by_one_padding(original, *args, **options):
    dx, *others = original(*args, **options)
    return np.roll(dx, 1, axis=2), *others


@mutant(L.conv2d, CONV, r"argument 1 \(weight\), .*reversed along axis 3")
def kernel_mirrored(original, *args, **options):
    dx, dweight, dbias = original(*args, **options)
    return dx, dweight[..., ::-1], dbias


@mutant(L.conv2d, CONV, r"argument 2 \(bias\), .*it is 0\.25 times the right one")
def mean_instead_of_sum_over_pixels(original, *args, **options):
    dx, dweight, dbias = original(*args, **options)
    return dx, dweight, dbias / 4


@mutant(
    L.batch_norm, NORM, r"argument 0 \(x\), index(.|\n)*right: argument 1 \(weight\), argument 2 \(bias\)", eps=1e-5
)
def mean_and_variance_as_constants(original, g, out, saved, needs, x, weight, bias, *, eps):
    _, *others = original(g, out, saved, needs, x, weight, bias, eps=eps)
    return g * weight / np.sqrt(x.var(0) + eps), *others


@mutant(L.batch_norm, NORM, r"wrong first: at `np\.square\(centred\)|wrong first: at `.*sqrt", eps=1e-5)
def variance_as_a_constant(original, g, out, saved, needs, x, weight, bias, *, eps):
    _, *others = original(g, out, saved, needs, x, weight, bias, eps=eps)
    return (g - g.mean(0)) * weight / np.sqrt(x.var(0) + eps), *others


@mutant(
    L.batch_norm,
    NORM,
    r"argument 1 \(weight\), index(.|\n)*argument 2 \(bias\), index(.|\n)*right: argument 0",
    eps=1e-5,
)
def scale_and_shift_swapped(original, *args, **options):
    dx, dweight, dbias = original(*args, **options)
    return dx, dbias, dweight


@mutant(L.softmax_cross_entropy, [normal((3, 4)), np.array([0, 2, 1])], r"wrong first: .*`logits\[np\.arange")
def one_hot_forgotten(original, g, out, saved, needs, logits, labels):
    exps, total = saved
    return exps * (g[:, None] / total), None


@mutant(L.softmax_cross_entropy, [normal((3, 4)), np.array([0, 2, 1])], r"wrong first: .*logsumexp")
def softmax_forgotten(original, g, out, saved, needs, logits, labels):
    d = np.zeros_like(logits)
    d[np.arange(3), labels] = -g
    return d, None


@mutant(L.max_pool2d, [normal((1, 2, 4, 4))], r"argument 0 \(x\), index", kernel=2, stride=2)
def the_last_winner_instead_of_the_first(original, g, out, winner, needs, x, **options):
    return (pool_file.scatter_to_winners.numpy(g, 3 - winner, x.shape, 2, 2, 0),)


@mutant(L.embedding, [normal((3, 2)), np.array([1, 1, 0])], r"argument 0 \(weight\), index \(1, \d\)")
def repeated_rows_not_added(original, g, out, saved, needs, weight, ids):
    d = np.zeros_like(weight)
    d[ids] = g
    return d, None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_located(name, monkeypatch):
    op, arrays, says, options, patch = MUTANTS[name]
    if patch:
        monkeypatch.setattr(*patch)
    with pytest.raises(GradientError) as caught:
        locate(op, *arrays, rng=np.random.default_rng(1), **options)
    print(caught.value)
    assert re.search(says, str(caught.value)), str(caught.value)


def test_there_are_at_least_twenty():
    assert len(MUTANTS) >= 20


@pytest.mark.parametrize(
    "op, arrays, options",
    [(L.lstm, LSTM, {}), (L.gru, GRU, {}), (L.linear, LINEAR, {}), (L.conv2d, CONV, {"padding": 1}),
     (L.batch_norm, NORM, {"eps": 1e-5})],
    ids=["lstm", "gru", "linear", "conv2d", "batch_norm"],
)  # fmt: skip
def test_the_unchanged_originals_agree(op, arrays, options):
    assert locate(op, *arrays, rng=np.random.default_rng(1), **options) is None


def test_a_wrong_forward_is_said_before_anything_else():
    op = Op("linear", "", forward=lambda *a: (L.linear.forward(*a)[0] * 2, None), backward=L.linear.backward,
            composed=L.linear.composed)  # fmt: skip
    with pytest.raises(GradientError, match="the forward already differs.*result 0.*it is 2 times the right one"):
        locate(op, *LINEAR, rng=np.random.default_rng(1))


def test_large_arrays_refuse():
    op = Op("linear", "", forward=L.linear.forward, backward=lambda g, *a: (g @ g.T @ g, None, None),
            composed=L.linear.composed)  # fmt: skip
    with pytest.raises(InputError, match="give it smaller arrays"):
        locate(op, normal((60, 60)), normal((60, 60)), normal((60,)), rng=np.random.default_rng(1))


# -- a rule of the table has no second form: gradcheck names the argument --------------------------------------------
def first_slice_instead_of_the_sum(g, x):
    while g.ndim > x.ndim:
        g = g[0]
    return g


@pytest.mark.parametrize(
    "function, changed, says",
    [
        (np.subtract, (lambda g, out, x, y: g, lambda g, out, x, y: g), r"argument 1, .*the sign is flipped"),
        (np.square, (lambda g, out, x: g * x,), r"argument 0, .*it is 0\.5 times the right one"),
        (np.multiply, (lambda g, out, x, y: g * x, lambda g, out, x, y: g * x), "argument 0, index"),
        (np.divide, (lambda g, out, x, y: g / y, lambda g, out, x, y: g * out / y), "argument 1, .*sign is flipped"),
        (np.logaddexp, (lambda g, out, x, y: g * 0, lambda g, out, x, y: g * np.exp(y - out)), "argument 0, .*nothing"),
    ],
)
def test_a_wrong_rule_is_named_by_argument(monkeypatch, function, changed, says):
    monkeypatch.setitem(rules.VJPS, function, changed)
    with pytest.raises(GradientError, match=f"{function.__name__}, {says}"):
        arrays = [normal((2, 3)), np.abs(normal((2, 3))) + 0.5][: len(changed)]
        gradcheck(function, *arrays, rng=np.random.default_rng(1))


def test_a_sum_missing_over_a_broadcast_axis_is_named(monkeypatch):
    monkeypatch.setattr(rules, "fit", first_slice_instead_of_the_sum)
    with pytest.raises(GradientError, match="add, argument 1, index"):
        gradcheck(np.add, normal((2, 3)), normal((3,)), rng=np.random.default_rng(1))
