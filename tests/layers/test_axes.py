"""What the axis rule of each layer says: which indices are one unit, and which cannot be taken out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from minidl import layers as L
from minidl.axes import axis_rule

units = pytest.importorskip("minidl.sparsity.units")


def ids_of(op, *shapes, result=None, **options):
    """(ids of the results' axes, ids of the arguments' axes), each id the smallest of its component; 0 is pinned."""
    u = units._Ids()
    arguments = [tuple(u.fresh(n) for n in shape) for shape in shapes]
    outs = op(*(np.ones(shape) for shape in shapes), **options)
    several = isinstance(outs, tuple)
    found = axis_rule(op)(u, tuple(o.shape for o in outs) if several else outs.shape, *arguments, **options)
    u.pin(u.pinned(1))
    component = u.components()
    named = lambda axes: tuple(component[a] for a in axes)
    return (tuple(map(named, found)) if several else named(found)), [named(a) for a in arguments]


@pytest.mark.parametrize(
    "op, options",
    [
        (L.max_pool2d, dict(kernel=2, stride=2)),
        (L.avg_pool2d, dict(kernel=2, stride=2)),
        (L.adaptive_max_pool2d, dict(output_size=2)),
        (L.local_response_norm, dict(size=3, within=True)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_channels_pass_and_pixels_do_not(op, options):
    (n, c, h, w), (x,) = ids_of(op, (2, 5, 4, 4), **options)
    assert c.all() and (c == x[1]).all() and not h.any() and not w.any()


def test_batch_norm_ties_a_channel_to_all_its_numbers():
    (_, c, _, _), (x, *others) = ids_of(L.batch_norm, (2, 3, 4, 4), (3,), (3,), (3,), (3,), eps=1e-5)
    assert c.all() and all((c == ids[0]).all() for ids in others) and (c == x[1]).all()


@pytest.mark.parametrize(
    "op, shapes, options",
    [
        (L.layer_norm, [(2, 3), (3,), (3,)], {}),
        (L.local_response_norm, [(2, 3, 2, 2)], dict(size=3)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_an_axis_that_is_normalised_over_is_pinned(op, shapes, options):
    out, arguments = ids_of(op, *shapes, **options)
    assert not out[1].any() and not any(ids[-1].any() for ids in arguments[1:]) and out[0].all()


@pytest.mark.parametrize("op, gates", [(L.gru, 3), (L.rnn, 1), (L.lstm, 4)], ids=lambda v: getattr(v, "__name__", ""))
def test_a_hidden_unit_is_its_rows_in_all_gates_and_its_column(op, gates):
    carried = 2 if op is L.lstm else 1
    biases = 2 if op is L.gru else 1
    shapes = [(5, 2, 3)] + [(2, 4)] * carried + [(gates * 4, 3), (gates * 4, 4)] + [(gates * 4,)] * biases
    (y, *after), (x, *rest) = ids_of(op, *shapes)
    state, (w_ih, w_hh, *bias) = rest[:carried], rest[carried:]
    unit = y[2]
    assert unit.all() and len(set(unit)) == 4
    for ids in (*(s[1] for s in state), *(a[1] for a in after), w_hh[1]):
        assert (ids == unit).all()
    for rows in (w_ih[0], w_hh[0], *(b[0] for b in bias)):
        assert (rows == np.tile(unit, gates)).all()
    assert (w_ih[1] == x[2]).all()


def rng():
    return np.random.default_rng(0)


def found_in(model, x):
    return Counter(unit.layer for unit in units.units(model, x))


def test_units_are_found_through_conv1d_and_pooling():
    model = L.Sequential(
        L.Conv1d(2, 4, 3, rng=rng()), lambda x: x.unsqueeze(2), L.AvgPool2d(1), L.AdaptiveAvgPool2d((1, 3)),
        L.Flatten(), L.Linear(12, 2, rng=rng()),
    )  # fmt: skip
    assert found_in(model, np.ones((3, 2, 8), np.float32)) == {"0": 4}


@pytest.mark.parametrize("kind", [L.GRU, L.RNN])
def test_units_are_found_in_recurrent_layers(kind):
    model = L.Sequential(lambda x: x.unsqueeze(0), kind(4, 5, rng=rng()), lambda y: y[0][0], L.Linear(5, 2, rng=rng()))
    assert found_in(model, np.ones((3, 4), np.float32)) == {"1": 5}


@pytest.mark.parametrize("cells, count", [(False, 5), (True, 10)])
def test_a_state_in_one_array_ties_the_cells_of_a_stack(cells, count):
    """Where the state (L D, B, H) is carried on, a unit can only go from all cells. Else each has its own units."""

    class Reader(L.Module):
        def __init__(self):
            self.layer, self.out = L.LSTM(4, 5, 2, rng=rng()), L.Linear(5, 2, rng=rng())

        def forward(self, x, state):
            y, state = self.layer(x, state)
            return self.out(y[-1]), state

    model = Reader()
    assert found_in(model, (np.ones((3, 1, 4)), model.layer.zero_state(1, cells=cells))) == {"layer": count}


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU, L.RNN])
def test_the_last_state_of_a_stack_ties_nothing_where_nobody_reads_it(kind):
    model = L.Sequential(kind(4, 5, 2, rng=rng()), lambda y: y[0][0], L.Linear(5, 2, rng=rng()))
    assert found_in(model, np.ones((3, 1, 4), np.float32)) == {"0": 10}
