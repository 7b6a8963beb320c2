"""Modules: initialisation, names, state in and out, the two modes, and the words of their errors."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend, nn
from minidl import functional as F
from minidl import layers as L
from minidl.errors import InputError, ShapeError


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape):
    return Tensor(rng().standard_normal(shape).astype(np.float32))


# -- errors hold both shapes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: L.linear(normal(2, 3), normal(4, 5)), ShapeError, ["(2, 3)", "(4, 5)", "last axes must agree"]),
        (lambda: L.conv2d(normal(1, 3, 5, 5), normal(2, 4, 3, 3)), ShapeError, ["(1, 3, 5, 5)", "(2, 4, 3, 3)"]),
        (lambda: L.conv2d(normal(3, 5, 5), normal(2, 3, 3, 3)), ShapeError, ["(3, 5, 5)", "channels must agree"]),
        (lambda: L.conv2d(normal(1, 3, 2, 2), normal(2, 3, 3, 3)), ShapeError, ["window of 3", "axis of 2"]),
        (lambda: L.max_pool2d(normal(1, 1, 1, 1), kernel=2, stride=2), ShapeError, ["window of 2", "axis of 1"]),
        (lambda: L.MaxPool2d(2, padding=2)(normal(1, 1, 4, 4)), ShapeError, ["kernel 2", "padding 2"]),
        (lambda: L.Conv2d(3, 4, 3, groups=2, rng=rng()), ShapeError, ["3 and 4 channels", "2 groups"]),
        (lambda: L.BatchNorm2d(3)(normal(2, 4, 2, 2)), ShapeError, ["of 3 channels", "(2, 4, 2, 2)"]),
        (lambda: L.BatchNorm2d(3)(normal(2, 3)), ShapeError, ["BatchNorm2d", "(2, 3)"]),
        (lambda: L.BatchNorm1d(3)(normal(1, 3)), ShapeError, ["more than one value per channel", "(1, 3)"]),
        (lambda: L.LSTM(3, 2, rng=rng())(normal(4, 1, 5)), ShapeError, ["(4, 1, 5)", "(8, 3)"]),
        (lambda: L.cross_entropy(normal(2, 3), [0]), ShapeError, ["(2, 3)", "(1,)"]),
        (lambda: L.cross_entropy(normal(2, 3), [0, 3]), InputError, ["from 0 to 3", "3 classes"]),
        (lambda: L.cross_entropy(normal(2, 3), [0, -1]), InputError, ["from -1 to 0", "3 classes"]),
        (lambda: L.Embedding(4, 2, rng=rng())([[4]]), InputError, ["from 4 to 4", "4 rows"]),
        (lambda: L.Dropout(1.0, rng=rng()), InputError, ["1.0 must be at least 0 and below 1"]),
        (lambda: L.VariationalDropout(0.5, rng=rng())(normal(2, 3)), ShapeError, ["(T, B, F)", "(2, 3)"]),
        (lambda: L.conv1d(normal(2, 3), normal(4, 3, 2)), ShapeError, ["(2, 3)", "(4, 3, 2)"]),
        (lambda: L.Conv1d(2, 4, 3, rng=rng())(normal(1, 3, 5)), ShapeError, ["(1, 3, 1, 5)", "(4, 2, 1, 3)"]),
        (lambda: L.Conv1d(3, 4, 3, groups=2, rng=rng()), ShapeError, ["3 and 4 channels", "2 groups"]),
        (lambda: L.AvgPool2d(3, padding=2)(normal(1, 1, 4, 4)), ShapeError, ["kernel 3", "padding 2"]),
        (lambda: L.AvgPool2d(9, 2, ceil_mode=True)(normal(1, 1, 3, 3)), ShapeError, ["window of 9", "axis of 3"]),
        (lambda: L.AvgPool2d(3)(normal(4, 4)), ShapeError, ["avg_pool2d", "(4, 4)", "(N, C, H, W)"]),
        (lambda: L.MaxPool2d(3)(normal(4, 4, 4)), ShapeError, ["max_pool2d", "(4, 4, 4)", "(N, C, H, W)"]),
        (lambda: L.MaxPool2d(16)(normal(1, 1, 20, 20)), ShapeError, ["kernel 16", "at most 15"]),
        (lambda: L.AdaptiveAvgPool2d(2)(normal(4, 4)), ShapeError, ["(4, 4)", "(2, 2)"]),
        (lambda: L.AdaptiveMaxPool2d((0, 2))(normal(1, 1, 4, 4)), ShapeError, ["(1, 1, 4, 4)", "(0, 2)"]),
        (lambda: L.LayerNorm((3, 4))(normal(2, 4, 3)), ShapeError, ["(2, 4, 3)", "(3, 4)"]),
        (lambda: L.LocalResponseNorm(5)(normal(2, 4)), ShapeError, ["(2, 4)", "(N, C, H, W)"]),
        (lambda: L.LocalResponseNorm(4, within=True), InputError, ["window of 4", "odd"]),
        (lambda: L.BatchNorm1d(3, ghost=0), InputError, ["ghost batch of 0"]),
        (lambda: L.BatchNorm1d(3, ghost=2)(normal(5, 3)), ShapeError, ["more than one value per channel", "(1, 3)"]),
        (lambda: L.GRU(3, 2, rng=rng())(normal(4, 1, 5)), ShapeError, ["(4, 1, 5)", "(6, 3)", "(3H, I)"]),
        (lambda: L.RNN(3, 2, rng=rng())(normal(4, 1, 5)), ShapeError, ["(4, 1, 5)", "(2, 3)", "(H, I)"]),
        (lambda: L.RNN(3, 2, nonlinearity="sin", rng=rng()), InputError, ["'sin'", "tanh, relu"]),
        (lambda: L.GRU(3, 2, 2, rng=rng())(normal(4, 1, 3), normal(1, 2)), ShapeError, ["(1, 2)", "(2, 1, 2)"]),
        (lambda: L.LSTM(3, 2, rng=rng())(normal(4, 3)), ShapeError, ["(4, 3)", "(T, B, I)"]),
        (lambda: L.LSTM(3, 2, rng=rng())(normal(4, 1, 3), normal(1, 2)), InputError, ["2 arrays", "1"]),
    ],
)
def test_errors_say_both_numbers(call, error, words):
    with pytest.raises(error) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


# -- initialisation --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "layer, bound",
    [
        (L.Linear(16, 8, rng=rng()), 1 / 4),
        (L.Conv2d(4, 8, (2, 8), rng=rng()), 1 / 8),
        (L.Conv2d(8, 4, 2, groups=2, rng=rng()), 1 / 4),
        (L.LSTM(5, 16, rng=rng()), 1 / 4),
        (L.GRU(5, 16, 2, bidirectional=True, rng=rng()), 1 / 4),
        (L.RNN(5, 16, rng=rng()), 1 / 4),
        (L.Conv1d(4, 8, 4, rng=rng()), 1 / 4),
    ],
)
def test_default_initialisation_is_pytorchs_uniform(layer, bound):
    for _, p in layer.named_parameters():
        assert p.dtype == np.float32
        assert np.abs(p.data).max() <= bound
    assert np.abs(layer.parameters()[0].data).max() > 0.9 * bound


def test_one_seed_one_layer():
    a, b, c = (L.Conv2d(2, 3, 3, rng=rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.weight.data, b.weight.data)
    assert (a.weight.data != c.weight.data).any()


# -- names and state -------------------------------------------------------------------------------------------------
class Net(L.Module):
    def __init__(self, seed=0):
        self.body = L.Sequential(L.Linear(3, 4, rng=rng(seed)), L.BatchNorm1d(4), L.ReLU())
        self.heads = [L.Linear(4, 2, rng=rng(seed), bias=False), L.Linear(4, 1, rng=rng(seed))]
        self.scale = L.Parameter(np.ones(1, np.float32))

    def forward(self, x):
        return self.heads[0](self.body(x)) * self.scale


def test_parameters_are_found_by_their_dotted_names():
    assert [n for n, _ in Net().named_parameters()] == [
        "scale", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias",
        "heads.0.weight", "heads.1.weight", "heads.1.bias",
    ]  # fmt: skip


def test_a_shared_parameter_is_listed_once():
    net = Net()
    net.heads[1].weight = net.heads[0].weight
    assert len(net.parameters()) == len({id(p) for p in net.parameters()}) == 7


def test_state_goes_out_and_in():
    one, two = Net(1), Net(2)
    x = normal(5, 3)
    one(x)  # moves the running statistics
    two.load_state_dict(one.state_dict())
    assert "body.1.running_var" in one.state_dict()
    np.testing.assert_array_equal(one.eval()(x).data, two.eval()(x).data)
    assert not np.shares_memory(one.scale.data, two.scale.data)
    two.load_state_dict({k: v.astype(np.float64) for k, v in one.state_dict().items()})
    assert {v.dtype for v in two.state_dict().values()} == {np.dtype(np.float32)}


def test_a_state_that_does_not_fit_is_named_and_changes_nothing():
    net = Net()
    before = {k: v.copy() for k, v in net.state_dict().items()}
    state = {**Net(3).state_dict(), "new": np.ones(1)}
    del state["scale"]
    with pytest.raises(InputError, match=r"missing \['scale'\], not known \['new'\]"):
        net.load_state_dict(state)
    with pytest.raises(ShapeError, match=r"heads.0.weight: \(2, 5\) for \(2, 4\)"):
        net.load_state_dict({**Net(3).state_dict(), "heads.0.weight": np.ones((2, 5))})
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_state_that_is_not_strict_takes_what_fits_and_says_what_did_not():
    net, other = Net(), Net(3)
    state = {**other.state_dict(), "new": np.ones(1)}
    del state["scale"]
    kept = net.scale.data.copy()
    assert net.load_state_dict(state, strict=False) == (["scale"], ["new"])
    np.testing.assert_array_equal(net.scale.data, kept)
    np.testing.assert_array_equal(net.state_dict()["heads.0.weight"], state["heads.0.weight"])


def test_train_eval_and_astype_reach_every_module():
    net = Net().eval()
    assert not any(m.training for m in net.modules())
    net.train().astype(np.float64)
    assert all(m.training for m in net.modules())
    assert {v.dtype for v in net.state_dict().values()} == {np.dtype(np.float64)}
    assert net(Tensor(np.ones((2, 3)))).dtype == np.float64


def test_repr_shows_the_tree():
    assert repr(Net().body) == "Sequential(\n  (0): Linear(3, 4)\n  (1): BatchNorm1d(4)\n  (2): ReLU()\n)"
    assert repr(L.Conv2d(4, 6, 3, padding=1, groups=2, rng=rng())) == "Conv2d(4, 6, 3x3, padding=1, groups=2)"


# -- single layers ---------------------------------------------------------------------------------------------------
def test_dropout_keeps_the_mean_and_does_nothing_in_evaluation():
    layer = L.Dropout(0.25, rng=rng())
    x = Tensor(np.ones(100_000, np.float32), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.data.mean() - 1) < 6 * (0.25 / 0.75 / 100_000) ** 0.5
    np.testing.assert_array_equal(x.grad, y.data)
    assert layer.eval()(x) is x


def test_batch_norm_makes_mean_0_and_variance_1_and_remembers():
    layer, x = L.BatchNorm2d(3, momentum=1.0), normal(8, 3, 4, 4) * 5 + 2
    y = layer(x).data
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(layer.running_var, x.data.var((0, 2, 3), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(layer.eval()(x).data, y, rtol=0.01, atol=0.01)


def test_batch_norm_stays_in_float32_with_float64_options():
    layer = L.BatchNorm1d(3, eps=np.float64(1e-5), momentum=np.float64(0.1))
    assert layer(normal(4, 3)).dtype == layer.eval()(normal(4, 3)).dtype == layer.running_var.dtype == np.float32


def test_lstm_state_carried_equals_one_long_sequence():
    layer = L.LSTM(3, 4, rng=rng()).astype(np.float64)
    x = Tensor(rng().standard_normal((7, 2, 3)))
    whole, (h, c) = layer(x)
    first, state = layer(x[:3])
    second, (h2, c2) = layer(x[3:], state)
    np.testing.assert_allclose(np.concatenate([first, second]).data, whole.data, rtol=1e-12)
    np.testing.assert_allclose([h2.data, c2.data], [h.data, c.data], rtol=1e-12)


def test_lstm_keeps_no_state_between_calls():
    layer, x = L.LSTM(3, 4, rng=rng()), normal(2, 1, 3)
    np.testing.assert_array_equal(layer(x)[0].data, layer(x)[0].data)


@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
def test_max_pool_padding_never_wins(form):
    x = Tensor(np.full((1, 1, 4, 4), -5.0), requires_grad=True)
    with backend.form(form):
        y = L.MaxPool2d(3, stride=2, padding=1)(x)
        y.sum().backward()
    assert (y.data == -5).all() and x.grad.sum() == 4


@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
def test_max_pool_of_minus_infinity_still_wins_over_padding(form):
    x = Tensor(np.full((1, 1, 3, 3), -np.inf), requires_grad=True)
    with backend.form(form):
        L.MaxPool2d(3, stride=2, padding=1)(x).backward(np.ones((1, 1, 2, 2)))
    assert x.grad[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]  # the first pixel of each window, as in PyTorch


@pytest.mark.parametrize("form", ["auto", "numpy"])
def test_nan_passes_through_max_pool(form):
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, 0, 1] = np.nan
    with backend.form(form):
        for pool in (L.MaxPool2d(2), L.MaxPool2d(3, stride=1, padding=1)):
            y = pool(Tensor(x)).data
            assert np.isnan(y[0, 0, 0, 0]) and not np.isnan(y[0, 0, -1, -1])


def test_cross_entropy_of_a_uniform_guess_is_log_v():
    assert L.cross_entropy(Tensor(np.zeros((3, 7))), [0, 3, 6]).item() == pytest.approx(np.log(7))
    np.testing.assert_allclose(L.softmax(normal(3, 5)).data.sum(-1), 1, rtol=1e-6)


# -- the same mask for all time steps --------------------------------------------------------------------------------
def test_variational_dropout_draws_one_mask_for_the_sequence():
    layer = L.VariationalDropout(0.5, rng=rng())
    x = Tensor(np.ones((6, 40, 50), np.float32), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (y.data == y.data[0]).all() and set(np.unique(y.data)) == {0, 2}
    assert abs(y.data[0].mean() - 1) < 6 * 2000**-0.5
    np.testing.assert_array_equal(x.grad, y.data)
    assert layer.eval()(x) is x


# -- ghost batches ---------------------------------------------------------------------------------------------------
def test_a_ghost_batch_is_a_batch_of_its_own():
    whole, ghost = L.BatchNorm2d(3), L.BatchNorm2d(3, ghost=4)
    x = normal(10, 3, 2, 2)
    parts = np.concatenate([whole(x[:4]).data, whole(x[4:8]).data, whole(x[8:]).data])
    np.testing.assert_array_equal(ghost(x).data, parts)
    np.testing.assert_array_equal(ghost.running_var, whole.running_var)
    assert repr(ghost) == "BatchNorm2d(3, ghost=4)"
    np.testing.assert_array_equal(ghost.eval()(x).data, whole.eval()(x).data)


# -- tied weights ----------------------------------------------------------------------------------------------------
def test_a_linear_layer_shares_the_embeddings_table():
    class Tied(L.Module):
        def __init__(self):
            self.embedding = L.Embedding(7, 4, rng=rng())
            self.output = L.Linear(4, 7, rng=rng(), bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, ids):
            return self.output(self.embedding(ids))

    model, ids = Tied().astype(np.float64), np.array([1, 1, 3])
    assert [n for n, _ in model.named_parameters()] == ["embedding.weight"]
    g = rng(1).standard_normal((3, 7))
    (model(ids) * g).sum().backward()
    table = model.embedding.weight.data
    expected = g.T @ table[ids]
    np.add.at(expected, ids, g @ table)
    np.testing.assert_allclose(model.embedding.weight.grad, expected, rtol=1e-12)


# -- lists of modules ------------------------------------------------------------------------------------------------
def test_module_list_names_its_members_as_pytorch_does():
    class Tower(L.Module):
        def __init__(self):
            self.floors = L.ModuleList(L.Linear(2, 2, rng=rng(i), bias=False) for i in range(2))
            self.floors.append(L.ReLU()).append(L.Linear(2, 1, rng=rng(2)))

        def forward(self, x):
            for floor in self.floors:
                x = floor(x)
            return x

    tower = Tower()
    names = ["floors.0.weight", "floors.1.weight", "floors.3.weight", "floors.3.bias"]
    assert [n for n, _ in tower.named_parameters()] == list(tower.state_dict()) == names
    assert tower(normal(5, 2)).shape == (5, 1)
    assert len(tower.floors) == 4 and tower.floors[-1] is list(tower.floors)[3]
    assert isinstance(tower.floors[1:], L.ModuleList) and len(tower.floors[1:]) == 3
    assert not any(m.training for m in tower.eval().modules())


# What list(model.state_dict()) gives in PyTorch 2.13 for the model of `like_pytorchs` and for parts of it.
NAMES = {
    "whole": """0.weight 0.bias 1.weight 1.bias 1.running_mean 1.running_var 1.num_batches_tracked
                3.0.weight 3.0.bias 4.weight 4.bias""",
    "[1:]": "1.weight 1.bias 1.running_mean 1.running_var 1.num_batches_tracked 3.0.weight 3.0.bias 4.weight 4.bias",
    "[:2]": "0.weight 0.bias 1.weight 1.bias 1.running_mean 1.running_var 1.num_batches_tracked",
    "[::2]": "0.weight 0.bias 4.weight 4.bias",
    "[1:][1:]": "3.0.weight 3.0.bias 4.weight 4.bias",
    "without 1": "0.weight 0.bias 2.0.weight 2.0.bias 3.weight 3.bias",
    "without 1, one more in front": "0.weight 0.bias 1.weight 1.bias 3.0.weight 3.0.bias 4.weight 4.bias",
}


def like_pytorchs(seed=0):
    g = rng(seed)
    inner = L.Sequential(L.Linear(4, 5, rng=g), L.ReLU())
    return L.Sequential(L.Linear(3, 4, rng=g), L.BatchNorm1d(4), L.ReLU(), inner, L.Linear(5, 2, rng=g))


def test_the_names_of_a_sequential_are_pytorchs():
    model, cut = like_pytorchs(), like_pytorchs()
    parts = {"whole": model, "[1:]": model[1:], "[:2]": model[:2], "[::2]": model[::2], "[1:][1:]": model[1:][1:]}
    del cut[1]
    parts["without 1"] = cut[:]
    parts["without 1, one more in front"] = cut.insert(0, L.Linear(3, 3, rng=rng()))
    for part, sequential in parts.items():
        own, theirs = list(sequential.state_dict()), NAMES[part].split()
        assert own == [k for k in theirs if not k.endswith("num_batches_tracked")], part  # the one thing not kept here


def test_a_state_of_pytorchs_names_is_loaded():
    model, other = like_pytorchs(), like_pytorchs(1)
    shapes = {"3.0.weight": (5, 4), "3.0.bias": (5,), "4.weight": (2, 5), "4.bias": (2,), "0.weight": (4, 3)}
    state = {k: rng(2).random(shapes.get(k, (4,)), np.float32) for k in NAMES["whole"].split()}
    state["1.num_batches_tracked"] = np.array(7)
    assert model.load_state_dict(state) == ([], [])
    for place, layer in (("0", model[0]), ("1", model[1]), ("3.0", model[3][0]), ("4", model[-1])):
        np.testing.assert_array_equal(layer.weight.data, state[f"{place}.weight"])
    with pytest.raises(InputError, match=r"missing \['0.bias', .*not known \['steps.0.bias', "):
        other.load_state_dict({f"steps.{k}": v for k, v in state.items()})
    assert other.load_state_dict({**state, "5.weight": np.ones(1)}, strict=False) == ([], ["5.weight"])


def test_sequential_is_a_list():
    net = L.Sequential(L.Linear(3, 2, rng=rng()), L.ReLU(), L.Flatten())
    x = normal(4, 3)
    assert len(net) == 3 and net[1] is list(net)[1] and net[-1] is net[2]
    assert isinstance(net[:2], L.Sequential) and net[:2][0] is net[0] and len(L.Sequential()) == 0
    np.testing.assert_array_equal(net[:2](x).data, net(x).data)
    head = L.Linear(2, 5, rng=rng(1))
    assert net.append(head) is net and net[3] is head and net(x).shape == (4, 5)
    more = net[2:].extend([L.Linear(5, 1, rng=rng())])
    assert list(more.state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"]  # 3 modules, numbered from 0 again
    net[3] = L.Linear(2, 6, rng=rng(1))
    del net[2]
    assert net(x).shape == (4, 6) and list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(net.extend(net)) == 6
    with pytest.raises(IndexError):
        net[6]
    with pytest.raises(TypeError):
        net[:2] = [head]


def test_a_kind_of_sequential_may_hold_more():
    class Scaled(L.Sequential):
        def __init__(self, *members):
            super().__init__(*members)
            self.scale, self.after = L.Parameter(np.ones(1, np.float32)), L.Linear(2, 2, rng=rng())

    names = ["scale", "0.weight", "0.bias", "2.weight", "2.bias", "after.weight", "after.bias"]
    net = Scaled(L.Linear(3, 2, rng=rng()), lambda x: x, L.Linear(2, 2, rng=rng()))
    assert list(net.state_dict()) == [n for n, _ in net.named_parameters()] == names
    assert list(net[1:].state_dict()) == ["2.weight", "2.bias"]


# -- recurrent layers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind, parts", [(L.LSTM, 2), (L.GRU, 1), (L.RNN, 1)])
@pytest.mark.parametrize("stack", [{}, dict(num_layers=3)], ids=["one layer", "three layers"])
def test_state_carried_equals_one_long_sequence(kind, parts, stack):
    layer = kind(3, 4, rng=rng(), **stack).astype(np.float64)
    x = Tensor(rng().standard_normal((7, 2, 3)))
    whole, end = layer(x)
    first, state = layer(x[:3])
    second, later = layer(x[3:], state)
    np.testing.assert_allclose(np.concatenate([first, second]).data, whole.data, rtol=1e-12, atol=1e-14)
    pairs = zip(later, end, strict=True) if parts == 2 else [(later, end)]
    for mine, expected in pairs:
        np.testing.assert_allclose(mine.data, expected.data, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(layer(x)[0].data, whole.data)  # nothing was remembered


def test_a_stack_has_pytorchs_names():
    layer = L.LSTM(3, 4, 2, bidirectional=True, rng=rng())
    names = [f"{kind}_l{k}{way}" for k in (0, 1) for way in ("", "_reverse")
             for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    assert list(layer.state_dict()) == names
    assert layer.weight_ih_l1.shape == (16, 8) and layer.zero_state(5)[0].shape == (4, 5, 4)
    assert repr(layer) == "LSTM(3, 4, 2 layers, bidirectional)"
    assert repr(L.GRU(3, 4, rng=rng())) == "GRU(3, 4)"


def test_the_second_direction_reads_backwards():
    layer = L.GRU(3, 4, bidirectional=True, rng=rng())
    for name in layer.names(0):
        setattr(layer, name + "_reverse", getattr(layer, name))
    x = normal(5, 2, 3)
    y, y_turned = layer(x)[0].data, layer(x[::-1])[0].data
    np.testing.assert_allclose(y[::-1, :, :4], y_turned[:, :, 4:], rtol=1e-6)


def test_dropout_acts_between_the_layers_and_only_in_training():
    layer = L.RNN(3, 4, 2, rng=rng(), dropout=0.5)
    x = normal(5, 2, 3)
    assert (layer(x)[0].data != layer(x)[0].data).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].data, layer(x)[0].data)
    single = L.RNN(3, 4, rng=rng(), dropout=0.5)
    np.testing.assert_array_equal(single(x)[0].data, single(x)[0].data)


@pytest.mark.parametrize("form", ["auto", "numpy"])
def test_nan_is_not_hidden_by_a_cell(form):
    x = normal(2, 1, 3)
    x.data[0, 0, 0] = np.nan
    with backend.form(form):
        for kind in (L.LSTM, L.GRU, L.RNN):
            assert np.isnan(kind(3, 2, rng=rng())(x)[0].data).all()


@pytest.mark.parametrize("form", ["auto", "numpy"])
def test_nan_in_one_row_stays_in_that_row_of_layer_norm(form):
    x = normal(3, 4)
    x.data[1, 2] = np.nan
    with backend.form(form):
        y = L.LayerNorm(4)(x).data
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


def test_average_pooling_of_everything_is_the_mean():
    x = normal(2, 3, 4, 6)
    mean = x.data.mean((2, 3), keepdims=True)
    for pool in (L.AdaptiveAvgPool2d(1), L.AdaptiveAvgPool2d((1, 1))):
        np.testing.assert_allclose(pool(x).data, mean, rtol=1e-6, atol=1e-7)
    infinite = Tensor(np.where(np.arange(4) == 3, np.inf, 1.0).reshape(1, 1, 1, 4))
    assert L.AdaptiveAvgPool2d((1, 3))(infinite).data.ravel().tolist() == [1, 1, np.inf]  # it stays where it is


@pytest.mark.parametrize(
    "module, function",
    [
        (nn.ReLU(), F.relu), (nn.Sigmoid(), F.sigmoid), (nn.Tanh(), F.tanh), (nn.SiLU(), F.silu), (nn.ELU(), F.elu),
        (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh")), (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
        (nn.Softplus(beta=2), lambda x: F.softplus(x, 2)), (nn.Softmax(dim=0), lambda x: F.softmax(x, 0)),
        (nn.LogSoftmax(1), lambda x: F.log_softmax(x, 1)), (nn.Flatten(0), lambda x: x.reshape(-1)),
    ],
    ids=lambda f: type(f).__name__,
)  # fmt: skip
def test_an_activation_module_is_its_function(module, function):
    x = normal(3, 4)
    np.testing.assert_array_equal(module(x).data, function(x).data)
    with pytest.raises(TypeError, match="inplace"):
        type(module)(inplace=True)


def test_modules_of_functions_show_their_options():
    assert repr(nn.Sequential(nn.LeakyReLU(0.2), nn.Softmax(dim=1))) == (
        "Sequential(\n  (0): LeakyReLU(0.2)\n  (1): Softmax(dim=1)\n)"
    )


def test_gradients_are_forgotten_and_modules_have_dotted_names():
    net = L.Sequential(L.Linear(3, 4, rng=rng()), L.Sequential(L.ReLU()))
    net(normal(2, 3)).sum().backward()
    net.zero_grad()
    assert [p.grad for p in net.parameters()] == [None, None]
    assert [name for name, _ in net.named_modules()] == ["", "0", "1", "1.0"]
    assert [m for _, m in net.named_modules()] == list(net.modules())
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 16


@pytest.mark.parametrize("training", [True, False])
def test_norms_without_scale_and_shift_are_those_of_1_and_0(training):
    x = normal(4, 3, 2, 2)
    for plain, affine in (
        (L.BatchNorm2d(3, affine=False), L.BatchNorm2d(3)),
        (L.LayerNorm((2, 2), elementwise_affine=False), L.LayerNorm((2, 2))),
    ):
        assert plain.parameters() == [] and "affine=False" in repr(plain)
        for layer in (plain, affine):
            layer.train(training)
        np.testing.assert_array_equal(plain(x).data, affine(x).data)


def test_the_padding_row_is_zero_and_learns_nothing():
    layer, ids = L.Embedding(4, 3, padding_idx=-1, rng=rng()), np.array([[0, 3], [3, 1]])
    y = layer(ids)
    np.testing.assert_array_equal(y.data[ids == 3], 0)
    y.sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [3, 3, 0, 0] and repr(layer) == "Embedding(4, 3, padding_idx=3)"
    with pytest.raises(InputError, match="padding_idx 4 is no row of a table of 4"):
        L.Embedding(4, 3, padding_idx=4, rng=rng())


@pytest.mark.parametrize("kind", [L.RNN, L.GRU, L.LSTM])
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True}])
def test_the_batch_may_come_first(kind, stack):
    x, plain, first = normal(5, 2, 3), kind(3, 4, rng=rng(), **stack), kind(3, 4, rng=rng(), batch_first=True, **stack)
    (y, end), (y_first, end_first) = plain(x), first(Tensor(x).transpose(0, 1))
    np.testing.assert_array_equal(y_first.data, y.data.swapaxes(0, 1))
    pairs = zip(end, end_first, strict=True) if isinstance(end, tuple) else [(end, end_first)]
    assert all((a.data == b.data).all() for a, b in pairs)
