"""Each axis rule against the definition: zero one index everywhere it belongs, and only its unit's results change."""

import numpy as np
import pytest

from minidl import Tensor, rules
from minidl.axes import AXES, axis_rule
from minidl.sparsity.units import _Ids


def ids_of(function, *arrays, **kwargs):
    """Run a function's rule with fresh ids for every array argument: (ids of the result, component of each id)."""
    u = _Ids()
    args = [tuple(u.fresh(n) for n in a.shape) if isinstance(a, np.ndarray) else a for a in arrays]
    shape = getattr(function, "plain", function)(*arrays, **kwargs).shape
    found = axis_rule(function)(u, shape, *args, **kwargs)
    u.pin(u.pinned(1))
    assert [len(a) for a in found] == list(shape)
    component = u.components()
    arguments = [ids for ids, value in zip(args, arrays, strict=True) if isinstance(value, np.ndarray)]
    return [component[a] for a in found], [tuple(component[a] for a in ids) for ids in arguments]


x, y = np.ones((2, 3, 4)), np.ones((2, 3, 4))


def test_elementwise_unites_index_by_index():
    (_, b, _), (of_x, of_y) = ids_of(np.add, x, y)
    assert (of_x[1] == of_y[1]).all() and (b == of_x[1]).all() and len(set(b)) == 3 and b.all()


def test_one_index_spread_over_many_is_pinned_the_many_are_free():
    (_, b, _), (of_x, of_y) = ids_of(np.multiply, x, np.ones((1, 4)))
    assert of_y[0] == 0 and b.all() and (of_x[2] == of_y[1]).all()


def test_numbers_pin_nothing():
    out, _ = ids_of(np.multiply, x, 2.0)
    assert all(a.all() for a in out)


def test_matmul_sums_over_the_inner_axis():
    out, (of_x, of_w) = ids_of(np.matmul, np.ones((5, 2, 3)), np.ones((3, 4)))
    assert (of_x[2] == of_w[0]).all() and (out[2] == of_w[1]).all() and (out[1] == of_x[1]).all()
    (rows,), (of_w, of_v) = ids_of(np.matmul, np.ones((2, 3)), np.ones(3))
    assert (rows == of_w[0]).all() and (of_w[1] == of_v[0]).all()


def test_flatten_repeats_the_channel_and_pins_if_two_axes_are_free():
    u = _Ids()
    channel = u.fresh(3)
    _, flat = axis_rule(np.reshape)(u, (2, 60), (u.pinned(2), channel, u.pinned(4), u.pinned(5)), (2, 60))
    assert (flat == np.repeat(channel, 20)).all()
    (flat,), _ = ids_of(np.reshape, x, (24,))
    assert not flat.any()


def test_a_split_axis_is_pinned_and_axes_of_length_one_come_and_go():
    (_, a, b), (of_x,) = ids_of(np.reshape, np.ones((2, 6)), (2, 3, 2))
    assert not a.any() and not b.any() and not of_x[1].any()
    (_, b, one), (of_x,) = ids_of(np.reshape, np.ones((2, 6)), (2, 6, 1))
    assert (b == of_x[1]).all() and b.all() and one == 0
    (a,), (of_x,) = ids_of(np.squeeze, np.ones((1, 6)))
    assert (a == of_x[1]).all() and of_x[0] == 0


def test_transpose_swapaxes_expand_dims():
    out, (of_x,) = ids_of(np.transpose, x, axes=(2, 0, -2))
    assert [list(a) for a in out] == [list(of_x[k]) for k in (2, 0, 1)]
    out, (of_x,) = ids_of(np.transpose, x)
    assert [list(a) for a in out] == [list(of_x[k]) for k in (2, 1, 0)]
    out, (of_x,) = ids_of(np.swapaxes, x, -1, 0)
    assert [list(a) for a in out] == [list(of_x[k]) for k in (2, 1, 0)]
    out, (of_x,) = ids_of(np.expand_dims, x, 1)
    assert [list(out[k]) for k in (0, 2, 3)] == [list(a) for a in of_x]


def test_getitem_slices_ids_and_pins_what_is_picked_by_place():
    out, (of_x,) = ids_of(rules.getitem, x, index=(Ellipsis, None, slice(1, 3)))
    assert list(out[3]) == list(of_x[2][1:3]) and list(out[1]) == list(of_x[1]) and out[2] == 0
    out, (of_x,) = ids_of(rules.getitem, x, index=(0, slice(None, None, -1)))
    assert not of_x[0].any() and list(out[0]) == list(of_x[1][::-1])
    out, (of_x,) = ids_of(rules.getitem, x, index=(slice(None), np.array([[0, 2], [0, 1]])))
    assert not of_x[1].any() and not out[1].any() and not out[2].any()
    assert list(out[0]) == list(of_x[0]) and list(out[3]) == list(of_x[2]) and of_x[2].all()
    for index in ((np.array([0, 1]), np.array([0, 0])), (0, np.array([0, 0])), (x > 0,)):
        _, (of_x,) = ids_of(rules.getitem, x, index=index)
        assert not any(a.any() for a in of_x)


def test_concatenate_joins_and_stack_adds_a_pinned_axis():
    out, (of_x, of_y) = ids_of(rules.concatenate, x, y, axis=-1)
    assert list(out[2]) == [*of_x[2], *of_y[2]] and (of_x[1] == of_y[1]).all() and (out[1] == of_x[1]).all()
    out, (of_x, of_y) = ids_of(rules.stack, x, y, axis=1)
    assert not out[1].any() and (of_x[1] == of_y[1]).all() and (out[2] == of_x[1]).all()


def test_reductions_pin_what_they_sum():
    out, (of_x,) = ids_of(np.sum, x, axis=(0, -1), keepdims=True)
    assert not of_x[0].any() and not of_x[2].any() and (out[1] == of_x[1]).all() and of_x[1].all()
    _, (of_x,) = ids_of(rules.logsumexp, x)
    assert not of_x[2].any() and of_x[1].all()
    _, (of_x,) = ids_of(np.mean, x)
    assert not any(a.any() for a in of_x)


def test_pad_and_broadcast():
    out, (of_x,) = ids_of(np.pad, x, ((0, 0), (0, 0), (1, 2)))
    assert list(out[2][1:-2]) == list(of_x[2]) and (out[1] == of_x[1]).all()
    assert len(set(out[2])) == len(out[2]) and out[2].all()
    out, (of_x,) = ids_of(np.broadcast_to, np.ones((1, 4)), (2, 3, 4))
    assert not out[0].any() and not out[1].any() and (out[2] == of_x[1]).all()


def test_a_function_without_a_rule_pins_everything():
    assert rules.scatter not in AXES
    out, (of_x,) = ids_of(rules.scatter, np.ones(3), index=slice(0, 3), shape=(5,))
    assert not out[0].any() and not of_x[0].any()


@pytest.mark.parametrize("function", [f for f in rules.VJPS if f is not rules.scatter])
def test_every_function_of_the_table_has_a_rule(function):
    assert axis_rule(function) is AXES[function]


def test_channels_leave_through_a_batch_norm_without_scale_and_shift():
    from minidl import layers as L
    from minidl.sparsity.compact import compact

    rng = np.random.default_rng(0)
    steps = L.Conv2d(1, 4, 3, rng=rng), L.BatchNorm2d(4, affine=False), L.ReLU(), L.Flatten(), L.Linear(64, 2, rng=rng)
    steps[-1].weight.data.reshape(2, 4, 16)[:, 1] = 0
    small, found = compact(L.Sequential(*steps), Tensor(rng.standard_normal((3, 1, 6, 6)).astype(np.float32)))
    assert len(small[1].running_mean) == 3 and list(found.kept["0"]) == [0, 2, 3]
