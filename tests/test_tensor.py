"""The tape and the walk back through it: what Tensor promises, and what it refuses, with which words."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

from minidl import Tensor, grad, no_grad, trace
from minidl import layers as L
from minidl.errors import GraphError, ShapeError, UnsupportedOp
from minidl.guard import guard


def leaf(*shape, seed=0, dtype=np.float64):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


@contextmanager
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- dtypes ----------------------------------------------------------------------------------------------------------
def test_a_list_of_python_floats_becomes_float32_and_an_array_keeps_its_dtype():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor(np.ones(2)).dtype == np.float64


@pytest.mark.parametrize("other", [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), [2.0, 3.0, 4.0]], ids=repr)
def test_float32_stays_float32_beside_numbers(other):
    x = leaf(3, dtype=np.float32)
    for y in (x + other, other + x, x - other, other - x, x * other, other * x, x / other, other / x, x @ x * other):
        assert y.dtype == np.float32
    assert (x**2).dtype == (x.exp() ** 0.5).dtype == (2.0**x).dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("function", [np.maximum, np.minimum, np.add, np.power], ids=lambda f: f.__name__)
def test_numpy_functions_keep_float32_beside_float64_scalars(function):
    x = Tensor(np.array([0.5, 1.5], np.float32), requires_grad=True)
    y = function(x, np.float64(1.0))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


def test_the_gradient_has_the_dtype_of_its_leaf():
    x, y = leaf(3, dtype=np.float32), leaf(3, dtype=np.float64)
    (x * y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


def test_integers_have_no_gradient():
    with pytest.raises(UnsupportedOp, match="only floats have a gradient: this Tensor is int64"):
        Tensor([1, 2], requires_grad=True)


def test_a_change_to_integers_is_refused_while_a_gradient_is_needed():
    with pytest.raises(UnsupportedOp, match="astype from float64 to int64 has no gradient; say t.detach"):
        leaf(2).long()
    assert leaf(2).detach().long().dtype == np.int64


def test_a_change_of_dtype_between_floats_is_recorded():
    x, y = leaf(2), leaf(2, dtype=np.float32)
    (x.float() * y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float64, np.float32)
    (dx,) = grad((x * y).sum(), [x], create_graph=True)  # fit() casts inside a recorded gradient
    (dy,) = grad((dx * dx).sum(), [y])
    np.testing.assert_allclose(dy, 2 * y.data, rtol=1e-6)


# -- NumPy's semantics beside PyTorch's ------------------------------------------------------------------------------
def test_methods_speak_pytorch_and_functions_speak_numpy():
    a = np.random.default_rng(0).standard_normal((2, 3, 4))
    t = Tensor(a)
    for torch_says, numpy_says, expected_torch, expected_numpy in [
        (t.var(1), np.var(t, 1), a.var(1, ddof=1), a.var(1)),  # ddof 1 against ddof 0
        (t.transpose(0, 2), np.transpose(t, (0, 2, 1)), a.swapaxes(0, 2), a.transpose(0, 2, 1)),  # a pair, all axes
        (t.amax(1), np.max(t, 1), a.max(1), a.max(1)),
        (t.amin((0, 1)), np.min(t, (0, 1)), a.min((0, 1)), a.min((0, 1))),
        (t.sum([0, 2]), np.sum(t, (0, 2)), a.sum((0, 2)), a.sum((0, 2))),
        (t.sum(1, True), np.sum(t, 1, keepdims=True), a.sum(1, keepdims=True), a.sum(1, keepdims=True)),
        (t.mean(-1), np.mean(t, -1), a.mean(-1), a.mean(-1)),
        (t.unsqueeze(1), np.expand_dims(t, 1), a[:, None], a[:, None]),
        (t.view(6, 4), np.reshape(t, (6, 4)), a.reshape(6, 4), a.reshape(6, 4)),
        (t.permute(2, 0, 1), np.transpose(t), a.transpose(2, 0, 1), a.T),
        (t.abs(), np.abs(t), abs(a), abs(a)),
    ]:
        np.testing.assert_allclose(torch_says.data, expected_torch, rtol=1e-14)
        np.testing.assert_allclose(numpy_says.data, expected_numpy, rtol=1e-14)


def test_squeeze_of_a_longer_axis_is_nothing_in_pytorch_and_an_error_in_numpy():
    t = Tensor(np.ones((2, 1)))
    assert t.squeeze(0).shape == (2, 1)
    assert t.squeeze(1).shape == (2,)
    with pytest.raises(ValueError, match="not equal to one"):
        np.squeeze(t, 0)


def test_minus_one_keeps_an_axis_in_expand():
    t = Tensor(np.arange(2.0).reshape(2, 1))
    assert t.expand(-1, 3).shape == t.expand((2, 3)).shape == (2, 3)
    assert t.expand(4, -1, 3).shape == np.broadcast_to(t, (4, 2, 3)).shape


def test_maximum_shares_the_gradient_between_equals():
    x = Tensor(np.array([1.0, 1.0, 0.0]), requires_grad=True)
    np.max(x).backward()
    assert x.grad.tolist() == [0.5, 0.5, 0]


def test_comparisons_give_plain_arrays():
    x = leaf(3)
    for result in (x > 0, x == x, x != 0, 0 < x, x <= x.data, np.isnan(x)):
        assert type(result) is np.ndarray
    assert ((x > 0) == (x.data > 0)).all()


def test_arrays_stand_on_either_side():
    x, a = leaf(2, 3), np.arange(3.0)
    for f in (lambda x: a + x, lambda x: a - x, lambda x: x / (a + 1), lambda x: a @ x.T, lambda x: a * x):
        assert isinstance(f(x), Tensor) and f(x).requires_grad
        np.testing.assert_array_equal(f(x).data, f(x.data))


# -- what has no rule refuses by name --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, name",
    [
        (np.cbrt, "np.cbrt"),
        (np.median, "np.median"),
        (np.linalg.inv, "np.linalg.inv"),
        (np.fft.fft, "np.fft.fft"),
        (np.add.reduce, "np.add.reduce"),
        (lambda x: np.linalg.norm(x, 2, 0, True), "np.linalg.norm with 4 arguments"),
        (lambda x: np.std(x, 0, np.float32), "np.std with 3 arguments"),
        (lambda x: np.where(x), "np.where with 1 arguments"),
        (lambda x: np.einsum("i,i->", x, x, optimize=True), "np.einsum with optimize="),
        (lambda x: np.add(x, x, out=np.empty(3)), "np.add with out="),
        (lambda x: np.concatenate([x, x], dtype=np.float32), "np.concatenate with dtype="),
        (lambda x: np.sum(x, dtype=np.float32), "np.sum with dtype="),
        (lambda x: np.sum(x, 0, None, None, True), "np.sum with 5 arguments"),
        (lambda x: np.pad(x, 1, "edge"), "np.pad with 3 arguments"),
        (lambda x: np.pad(x, 1, mode="edge"), "np.pad with mode="),
    ],
)
def test_numpy_functions_without_a_rule_refuse_by_name(call, name):
    with pytest.raises(UnsupportedOp) as refused:
        call(leaf(3))
    assert str(refused.value) == f"{name} is not recorded by minidl; use t.detach().numpy() for its value"


def test_a_tensor_does_not_lose_its_history_silently():
    x = leaf(3)
    with pytest.raises(UnsupportedOp, match="would lose its history"):
        np.asarray(x)
    with pytest.raises(UnsupportedOp):
        a = np.ones(3)
        a += x
    with pytest.raises(GraphError, match=r"detach\(\)\.numpy\(\)"):
        x.numpy()
    assert x.detach().numpy() is x.data
    with pytest.raises(AttributeError, match="Tensor has no 'median': it is not recorded; t.detach"):
        x.median()
    with pytest.raises(AttributeError, match="Tensor has no 'add_': nothing here works in place"):
        x.add_(1)
    with pytest.raises(TypeError):
        x[0] = 1.0


# -- backward: whom it reaches, once, and what it refuses ------------------------------------------------------------
def test_gradients_add_up_over_uses_and_over_calls():
    x = Tensor(np.array([2.0, 3.0]), requires_grad=True)
    (x * x + x).sum().backward()
    assert x.grad.tolist() == [5, 7]
    (x * 10).sum().backward()
    assert x.grad.tolist() == [15, 17]


def test_a_second_backward_is_refused_with_its_reason():
    x = leaf(3)
    loss = np.exp(x).sum()
    loss.backward()
    with pytest.raises(GraphError, match="a second time through (sum|exp).*retain_graph=True"):
        loss.backward()


def test_retain_graph_allows_a_second_backward():
    x = leaf(3)
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(x.grad, 4 * x.data)


def test_two_losses_that_share_a_part_need_retain_graph():
    x = leaf(3)
    shared = np.exp(x)
    first, second = shared.sum(), (shared * 2).sum()
    first.backward(retain_graph=True)
    second.backward()
    np.testing.assert_allclose(x.grad, 3 * np.exp(x.data))


def test_create_graph_gives_gradients_that_can_be_differentiated_again():
    x = Tensor(np.array([0.5, 2.0]), requires_grad=True)
    (first,) = grad((x**3).sum(), [x], create_graph=True)
    (second,) = grad(first.sum(), [x], create_graph=True)
    (third,) = grad(second.sum(), [x])
    np.testing.assert_allclose(first.data, 3 * x.data**2)
    np.testing.assert_allclose(second.data, 6 * x.data)
    np.testing.assert_allclose(third, [6, 6])


def test_backward_with_create_graph_stores_a_tensor():
    x = leaf(2)
    np.exp(x).sum().backward(create_graph=True)
    x.grad.sum().backward()
    np.testing.assert_allclose(x.grad.data, 2 * np.exp(x.data))


def test_grad_does_not_touch_the_leaves_and_gives_zeros_where_nothing_leads():
    x, y = leaf(2), leaf(3, seed=1)
    dx, dy = grad((x * x).sum(), [x, y])
    np.testing.assert_allclose(dx, 2 * x.data)
    assert dy.tolist() == [0, 0, 0]
    assert x.grad is None and y.grad is None


def test_grad_with_respect_to_a_result_in_the_middle():
    x = leaf(3)
    middle = np.exp(x)
    dmiddle, dx = grad((middle * middle).sum(), [middle, x])
    np.testing.assert_allclose(dmiddle, 2 * middle.data)
    np.testing.assert_allclose(dx, 2 * middle.data**2)


def test_a_tensor_given_twice_to_a_kernel_op_gets_both_gradients_at_both_orders():
    rng = np.random.default_rng(0)
    state, weights = leaf(2, 3), [Tensor(rng.standard_normal(s)) for s in ((12, 4), (12, 3), (12,))]
    x = Tensor(rng.standard_normal((2, 2, 4)))
    loss = lambda: L.lstm(x, state, state, *weights)[0].sum()
    np.testing.assert_allclose(grad(loss(), [state], create_graph=True)[0].data, grad(loss(), [state])[0], rtol=1e-12)


def test_plain_arrays_beside_tensors_in_a_kernel_op_at_both_orders():
    x, scale, shift = np.random.default_rng(0).standard_normal((4, 2)), leaf(2), leaf(2)
    loss = lambda: L.batch_norm(x, scale, shift, eps=1e-5).square().sum()
    np.testing.assert_allclose(grad(loss(), [scale], create_graph=True)[0].data, grad(loss(), [scale])[0], rtol=1e-12)


def test_no_grad_records_nothing():
    x = leaf(2)
    with no_grad():
        y = np.exp(x) * 2
    assert not y.requires_grad and y.is_leaf
    with pytest.raises(GraphError, match="nothing to differentiate"):
        y.sum().backward()
    assert (x * 2).requires_grad


def test_backward_asks_for_a_scalar_or_a_gradient():
    x = leaf(2, 3)
    with pytest.raises(GraphError, match=r"needs a scalar; this Tensor has shape \(2, 3\)"):
        (x * 2).backward()
    with pytest.raises(ShapeError, match=r"\(3,\).*\(2, 3\)"):
        (x * 2).backward(np.ones(3))
    (x * 2).backward(np.full((2, 3), 5.0))
    assert (x.grad == 10).all() and type(x.grad) is np.ndarray


def test_backward_of_a_leaf_is_the_given_gradient():
    x, g = leaf(2), np.array([1.0, 2.0])
    x.backward(g)
    assert type(x.grad) is np.ndarray and x.grad.tolist() == [1, 2] and x.grad is not g


def test_shapes_that_do_not_fit_are_both_named():
    with pytest.raises(ValueError, match=r"\(2,3\) \(4,\)"):
        leaf(2, 3) + leaf(4)
    with pytest.raises(ValueError, match="3 is different from 2|2 is different from 3"):
        leaf(2, 3) @ leaf(2, 3)


# -- gradients are data: nobody shares them --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: (x + y).reshape(6),
        lambda x, y: x.T + y.T,
        lambda x, y: np.concatenate([x, y]),
        lambda x, y: np.stack([x, y]),
        lambda x, y: np.positive(x) + y[:],
        lambda x, y: x.transpose(0, 1) + y.T.unsqueeze(0).squeeze(0),
        lambda x, y: x.expand(2, 2, 3)[0] + y,
        lambda x, y: x.relu() * 1 + y,
    ],
)
def test_leaf_gradients_do_not_alias_each_other_nor_the_seed(function):
    x, y = leaf(2, 3), leaf(2, 3, seed=1)
    out = function(x, y)
    seed = np.ones(out.shape)
    out.backward(seed)
    for a, b in [(x.grad, y.grad), (x.grad, seed), (y.grad, seed), (x.grad, x.data), (y.grad, y.data)]:
        assert not np.shares_memory(a, b)
    assert x.grad.flags.writeable and y.grad.flags.writeable
    before = y.grad.copy()
    x.grad[...] = 7
    np.testing.assert_array_equal(y.grad, before)


def test_the_gradient_of_a_number_is_an_array_of_no_dimensions():
    x = Tensor(np.array(3.0), requires_grad=True)
    for _ in range(2):
        (x * x).backward()
        assert type(x.grad) is np.ndarray and x.grad.shape == ()
    assert x.grad == 12


# -- trace -----------------------------------------------------------------------------------------------------------
def test_trace_records_every_op_whether_or_not_a_gradient_is_needed():
    model = L.Sequential(L.Linear(3, 4, rng=np.random.default_rng(0)), L.ReLU())
    with trace() as tape, no_grad():
        y = model(Tensor(np.ones((2, 3), np.float32)))
    assert [node.name for node in tape] == ["linear", "relu"]
    assert not y.requires_grad
    with trace() as tape:
        (Tensor([1.0]) + 1).exp()
    assert [(node.name, node.formula) for node in tape] == [("add", "x + y"), ("exp", "exp(x)")]
    assert not any(node.needs for node in tape)


def test_nested_traces_do_not_mix():
    with trace() as outer:
        Tensor([1.0]).exp()
        with trace() as inner:
            Tensor([1.0]).log()
        Tensor([1.0]).sqrt()
    assert [n.name for n in outer] == ["exp", "sqrt"] and [n.name for n in inner] == ["log"]


# -- hooks -----------------------------------------------------------------------------------------------------------
def test_a_hook_sees_the_whole_gradient_of_a_result_and_may_replace_it():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y, seen = x * 3, []
    y.register_hook(lambda g: seen.append(g.copy()))
    y.register_hook(lambda g: g * 10)
    (y * y + y).sum().backward()
    assert [g.tolist() for g in seen] == [[7, 13]]  # 2 y + 1, once
    assert x.grad.tolist() == [210, 390]


def test_a_hook_of_a_leaf_runs_once_when_its_gradient_is_complete():
    x, seen = Tensor(np.array([2.0]), requires_grad=True), []
    x.register_hook(lambda g: seen.append(g.item()) or g / 2)
    (x * x + x).sum().backward()
    assert seen == [5] and x.grad.tolist() == [2.5]
    assert grad((x * 4).sum(), [x])[0].tolist() == [2]
    x.backward(np.array([6.0]))
    assert x.grad.tolist() == [5.5]


def test_a_removed_hook_is_not_called():
    x, seen = leaf(2), []
    y = x * 2
    for t in (x, y):
        t.register_hook(seen.append).remove()
    y.sum().backward()
    assert seen == []


def test_a_hook_of_a_kernel_op_with_several_results_belongs_to_its_result():
    rng = np.random.default_rng(0)
    lstm, seen = L.LSTM(3, 2, rng=rng), []
    y, (h, c) = lstm(Tensor(rng.standard_normal((4, 1, 3)).astype(np.float32)))
    c.register_hook(lambda g: seen.append(g.shape))
    (y.sum() + c.sum()).backward()
    assert seen == [(1, 2)]


def test_after_accumulation_hooks_run_as_the_walk_goes_and_see_the_sum():
    first, second, order = leaf(2), leaf(2, seed=1), []
    first.grad = np.ones(2)
    first.register_post_accumulate_grad_hook(lambda t: order.append(("first", t.grad.copy())))
    second.register_post_accumulate_grad_hook(lambda t: order.append(("second", t.grad.copy())))
    middle = first * 2
    middle.register_hook(lambda g: order.append(("middle", g)))
    (middle * second).sum().backward()
    assert [name for name, _ in order] == ["second", "middle", "first"]  # the last layer's gradient is there first
    np.testing.assert_allclose(order[2][1], 1 + 2 * second.data)


def test_hooks_receive_tensors_with_create_graph():
    x, seen = leaf(2), []
    y = x * x
    y.register_hook(lambda g: seen.append(g))
    (dx,) = grad((y * y).sum(), [x], create_graph=True)
    assert isinstance(seen[0], Tensor) and seen[0].requires_grad
    np.testing.assert_allclose(grad(dx.sum(), [x])[0], 12 * x.data**2)


def test_hooks_refuse_where_they_would_never_be_called():
    with pytest.raises(GraphError, match="no gradient will come here"):
        Tensor([1.0]).register_hook(print)
    with pytest.raises(GraphError, match="takes a leaf"):
        (leaf(2) * 2).register_post_accumulate_grad_hook(print)
    with pytest.raises(GraphError, match="is for leaves"):
        (leaf(2) * 2).requires_grad_(False)


# -- arrays that a graph needs ---------------------------------------------------------------------------------------
def test_a_write_into_a_saved_array_is_named():
    x, w = leaf(3), leaf(3, seed=1)
    with guard():
        loss = np.exp(x * w).sum()
    w.data *= 0.9
    with pytest.raises(GraphError, match=r"argument 1 of multiply \(x \* y\), shape \(3,\), was written into"):
        loss.backward()


def test_a_write_into_a_result_or_into_what_an_op_saved_is_named():
    x = leaf(3)
    with guard():
        y = np.exp(x)
        loss = y.sum()
    y.data[0] = 7
    with pytest.raises(GraphError, match="argument 0 of sum"):
        loss.backward()
    with guard():
        loss = L.softmax_cross_entropy(leaf(2, 3), np.array([0, 1])).sum()
    loss.node.args[0].node.saved[0][0, 0] += 3
    with pytest.raises(GraphError, match="what its forward saved for softmax_cross_entropy"):
        loss.backward()


def test_replacing_data_and_writing_after_backward_are_allowed():
    x, w = leaf(3), leaf(3, seed=1)
    with trace() as tape, guard():
        loss = (x * w).sum()
    assert [n.name for n in tape] == ["multiply", "sum"]
    w.data = w.data * 2  # the graph keeps the array it was recorded with
    loss.backward()
    np.testing.assert_allclose(x.grad, w.data / 2)
    w.data *= 0
    loss = (x * w).sum()  # outside the block nothing is watched
    w.data += 1
    loss.backward()


# -- memory and size -------------------------------------------------------------------------------------------------
def test_a_graph_dies_with_its_loss_without_the_garbage_collector():
    rng = np.random.default_rng(0)
    conv, linear = L.Conv2d(1, 2, 3, rng=rng), L.Linear(8, 3, rng=rng)
    model = L.Sequential(conv, L.BatchNorm2d(2), L.MaxPool2d(2), L.Flatten(), linear)
    with no_collector():
        middle = model(Tensor(rng.standard_normal((2, 1, 6, 6)).astype(np.float32)))
        loss = L.cross_entropy(middle, [0, 1])
        watched = [weakref.ref(middle), weakref.ref(loss), weakref.ref(middle.node.args[0])]
        loss.backward()
        del middle, loss
        assert [w() for w in watched] == [None] * 3


def test_a_graph_never_walked_dies_too():
    with no_collector():
        x = leaf(3)
        y = np.exp(x)
        watched = weakref.ref(y)
        z = (y * y).sum()
        del y, z
        assert watched() is None


def test_a_chain_of_100_000_ops():
    x = Tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(100_000):
        y = -y
    y.backward()
    assert x.grad == 1
    del y  # the chain is taken apart without deep recursion as well


def test_a_diamond_of_2_to_the_50_paths_is_linear_in_time():
    x = Tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(50):
        y = y + y
    y.backward()
    assert x.grad == 2.0**50


# -- empty and small axes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (1,), (2, 1, 3)])
def test_empty_and_size_1_axes(shape):
    x = leaf(*shape)
    y = np.exp(x) * 2 + x.T.T.reshape(shape) - x.sum(0) + np.concatenate([x, x])[: len(x)]
    (y * y).sum(-1).sum().backward()
    assert x.grad.shape == shape and np.isfinite(x.grad).all()


def test_the_variance_of_one_value_is_nan_as_in_pytorch():
    assert np.isnan(leaf(1, 2).var(0).data).all()
    assert leaf(0, 2).var(1, correction=0).shape == (0,)
    assert (leaf(1, 2).var(0, correction=0).data == 0).all()


@pytest.mark.parametrize("width", [1, (1, 2), ((1, 2),), ((1, 0), (2, 1))])
def test_pad_takes_every_form_of_width(width):
    x = leaf(2, 3)
    y = np.pad(x, width)
    np.testing.assert_array_equal(y.data, np.pad(x.data, width))
    (y * y).sum().backward()
    np.testing.assert_allclose(x.grad, 2 * x.data)


def test_repr_shows_values_dtype_and_origin():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1. 2.], float32)"
    assert "made by exp" in repr(np.exp(leaf(2)))
    assert "requires_grad" in repr(leaf(2))


def test_grad_gives_arrays_of_its_own_inside_the_graph_too():
    x, y = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    a, b = x * 2, y * 3
    c = a + b  # the rule of add hands one array on to both
    parts = grad(c.sum(), [c, a, b, x, y])
    assert not any(np.shares_memory(p, q) for i, p in enumerate(parts) for q in parts[:i])
    for part in parts:
        part += 1  # and it can be written into: not a broadcast view
    assert [p.tolist() for p in parts] == [[2] * 3, [2] * 3, [2] * 3, [3] * 3, [4] * 3]
