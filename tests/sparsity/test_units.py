"""Units found on the tape, against counts known from the papers and against networks built to mislead."""

from collections import Counter

import numpy as np
import pytest

from minidl import Tensor, backend, rules
from minidl.errors import InputError
from minidl.layers import (
    LSTM,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    layer_norm,
)
from minidl.models import LSTMLanguageModel, f1, lenet_caffe, mlp
from minidl.sparsity import Function, groups, silence_, units


def sizes(model, x, twice=False):
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return Counter((u.layer, u.size(shapes, twice=twice)) for u in units(model, x))


def image(n=2):
    return np.random.default_rng(0).random((n, 1, 28, 28), np.float32)


def language_model():
    model = LSTMLanguageModel(11, 7, (6, 5), rng=np.random.default_rng(0))
    return model, (np.zeros((2, 1), int), model.zero_states(1))


def test_lenet_a_filter_leaves_with_the_channel_that_reads_it():
    found = units(lenet_caffe(np.random.default_rng(0)), image())
    assert Counter(u.layer for u in found) == {"conv1": 20, "conv2": 50, "ip1": 500}
    first = next(u for u in found if u.layer == "conv2" and u.index == 3)
    assert {(m.parameter, m.axis): list(m.indices) for m in first.members} == {
        ("conv2.weight", 0): [3], ("conv2.bias", 0): [3], ("ip1.weight", 1): list(range(48, 64)),
    }  # fmt: skip
    assert [m.parameter for m in first.members if m.reads] == ["ip1.weight"]


def test_batch_norm_goes_with_its_neuron():
    model = f1(hidden=8, layers=2, rng=np.random.default_rng(0))
    found = units(model, np.zeros((2, 784), np.float32))
    assert Counter(u.layer for u in found) == {"0": 8, "3": 8}
    assert [m.parameter for m in found[0].members] == [
        "0.weight", "0.bias", "1.weight", "1.bias", "3.weight",
    ]  # fmt: skip


def test_mlp():
    assert sizes(mlp((9, 8, 7, 3), rng=np.random.default_rng(0)), np.zeros((2, 9), np.float32)) == {
        ("0", 9 + 7): 8, ("2", 8 + 3): 7,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["auto", "composed"])
def test_intrinsic_sparse_structures_of_the_language_model(form):
    """Layer 1: 4(E + H1) + 4H1 + 4H2; layer 2: 4(H1 + H2) + 4H2 + V; published counts, crossings twice."""
    model, x = language_model()
    with backend.form(form):
        twice, once = sizes(model, x, twice=True), sizes(model, x)
    words = {("embedding", 11 + 24): 7}
    assert twice == {("layers.0", 4 * 13 + 24 + 20): 6, ("layers.1", 4 * 11 + 20 + 11): 5} | words
    assert once == {("layers.0", 92): 6, ("layers.1", 71): 5} | words


def test_an_lstm_with_two_biases_and_its_own_zero_state():
    rng = np.random.default_rng(0)
    model = Sequential(lambda t: t.unsqueeze(0), LSTM(4, 5, rng=rng), lambda out: out[0][0], Linear(5, 2, rng=rng))
    found = units(model, np.ones((3, 4), np.float32))
    assert Counter(u.layer for u in found) == {"1": 5}
    assert {m.parameter for m in found[0].members} == {
        "1.weight_ih", "1.weight_hh", "1.bias_ih", "1.bias_hh", "3.weight",
    }  # fmt: skip


class Residual(Module):
    """Two branches that are added: their channels belong together. The first convolution's are free."""

    def __init__(self, rng, groups=1):
        self.a, self.b = Conv2d(1, 4, 3, padding=1, rng=rng), Conv2d(4, 4, 3, padding=1, groups=groups, rng=rng)
        self.norm, self.out = BatchNorm2d(4), Linear(4, 2, rng=rng)

    def forward(self, x):
        x = self.a(x)
        x = x + self.norm(self.b(rules.relu(x)))
        return self.out(x.mean((2, 3)))


def test_a_residual_sum_ties_both_branches():
    found = units(Residual(np.random.default_rng(0)), image())
    assert Counter(u.layer for u in found) == {"a": 4}
    assert {m.parameter for m in found[0].members if not m.reads} == {
        "a.weight", "a.bias", "b.weight", "b.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
    assert {m.parameter for m in found[0].members if m.reads} == {"b.weight", "out.weight"}


def test_a_grouped_convolution_loses_as_many_of_every_group():
    found = units(Residual(np.random.default_rng(0), groups=2), image())
    assert [u.members[0].indices.tolist() for u in found] == [[0, 2], [1, 3]]


class Joined(Module):
    """Concatenation, and the same channels twice (a channel shuffle) into one reader."""

    def __init__(self, rng):
        self.a, self.b, self.c = Conv2d(1, 3, 3, rng=rng), Conv2d(1, 2, 3, rng=rng), Conv2d(8, 2, 1, rng=rng)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return self.c(np.concatenate([a, b, a], axis=1))


def test_concatenation_and_a_duplicated_input():
    found = units(Joined(np.random.default_rng(0)), image())
    assert Counter(u.layer for u in found) == {"a": 3, "b": 2}
    assert [list(m.indices) for m in found[1].members if m.reads] == [[1, 6]]


class Shared(Module):
    """One module called twice: its outputs and its inputs are the same units."""

    def __init__(self, rng):
        self.first, self.twice, self.out = Linear(3, 5, rng=rng), Linear(5, 5, rng=rng), Linear(5, 2, rng=rng)

    def forward(self, x):
        return self.out(rules.relu(self.twice(rules.relu(self.twice(self.first(x))))))


def test_a_shared_module_ties_its_input_to_its_output():
    found = units(Shared(np.random.default_rng(0)), np.ones((2, 3), np.float32))
    assert len(found) == 5 and len({m.parameter for m in found[0].members if m.parameter.endswith("weight")}) == 3


class Strange(Module):
    """A normaliser across the features, a constant per feature, and a function without a rule: each pins."""

    def __init__(self, rng, what):
        self.a, self.b, self.what = Linear(3, 5, rng=rng), Linear(5, 2, rng=rng), what

    def forward(self, x):
        h = self.a(x)
        if self.what == "softmax":
            h = (h - h.logsumexp(-1, keepdim=True)).exp()
        elif self.what == "constant":
            h = h * np.arange(1, 6, dtype=np.float32)
        elif self.what == "layer norm":
            h = layer_norm(h, Tensor(np.ones(5, np.float32)), Tensor(np.zeros(5, np.float32)))
        elif self.what == "gather":
            h = h.gather(1, np.arange(10).reshape(2, 5) % 5)
        elif self.what == "chosen":
            h = h[:, np.array([4, 3, 2, 1, 0])]
        elif self.what == "shuffle":
            h = h.pad((0, 1))[:, :6].reshape(2, 2, 3).transpose(1, 2).reshape(2, 6)[:, :5]
        elif self.what == "no rule":
            h = rules.scatter(h, index=(slice(None), slice(None)), shape=(2, 5))
        return self.b(h)


@pytest.mark.parametrize(
    "what, count",
    [
        ("nothing", 5),
        *((w, 0) for w in ("softmax", "layer norm", "constant", "gather", "chosen", "shuffle", "no rule")),
    ],
)
def test_what_uses_all_features_pins_them(what, count):
    assert len(units(Strange(np.random.default_rng(0), what), np.ones((2, 3), np.float32))) == count


class Inception(Module):
    """GoogLeNet's module: four branches, joined; one of them through pooling, two through a reduction."""

    def __init__(self, rng):
        def conv(i, o, k):
            return Conv2d(i, o, k, padding=k // 2, rng=rng)

        self.first, self.one, self.reader = conv(1, 3, 3), conv(3, 2, 1), Linear(11, 2, rng=rng)
        self.reduce, self.three, self.pooled, self.five = conv(3, 2, 1), conv(2, 4, 3), conv(3, 2, 1), conv(3, 3, 5)

    def forward(self, x):
        x = MaxPool2d(2)(rules.relu(self.first(x)))
        pooled = self.pooled(MaxPool2d(3, stride=1, padding=1)(x))
        x = np.concatenate([self.one(x), self.three(rules.relu(self.reduce(x))), self.five(x), pooled], axis=1)
        return self.reader(rules.relu(x).mean((2, 3)))


def test_the_branches_of_googlenet():
    found = units(Inception(np.random.default_rng(0)), image())
    assert Counter(u.layer for u in found) == {"first": 3, "one": 2, "reduce": 2, "three": 4, "five": 3, "pooled": 2}
    read = {(u.layer, u.index): list(m.indices) for u in found for m in u.members if m.parameter == "reader.weight"}
    assert sorted(read.values()) == [[k] for k in range(11)]
    assert read["one", 1] == [1] and read["three", 0] == [2] and read["five", 0] == [6] and read["pooled", 1] == [10]
    first = {m.parameter for m in found[0].members}
    assert first == {f"{n}.weight" for n in ("first", "one", "reduce", "five", "pooled")} | {"first.bias"}


@pytest.mark.parametrize("within, count", [(False, 0), (True, 4)])
@pytest.mark.parametrize("pool", [MaxPool2d(2), AvgPool2d(2)])
def test_response_normalisation_across_channels_pins_and_within_a_channel_does_not(within, count, pool):
    rng = np.random.default_rng(0)
    model = Sequential(
        Conv2d(1, 4, 3, rng=rng), pool, LocalResponseNorm(3, within=within), Flatten(), Linear(4 * 13 * 13, 3, rng=rng)
    )
    assert len(units(model, image())) == count


def test_a_tied_embedding_ties_words_recurrence_and_output():
    """A recurrent highway network's groups: row, column and embedding column of unit k, in a function of Tensors."""

    def f(p, ids, state):
        (s,) = state
        for word in ids:
            x = p["embedding"][word]
            h, t = np.tanh(x @ p["wh"] + s @ p["rh"] + p["bh"]), rules.sigmoid(x @ p["wt"] + s @ p["rt"])
            s = (h - s) * t + s
        return s @ p["embedding"].t(), [s]

    rng = np.random.default_rng(0)
    shapes = {"embedding": (9, 4), "wh": (4, 4), "rh": (4, 4), "bh": (4,), "wt": (4, 4), "rt": (4, 4)}
    model = Function(f, {name: rng.standard_normal(shape) for name, shape in shapes.items()})
    x = (np.array([[0, 3], [8, 1]]), [Tensor(np.zeros((2, 4)))])
    assert sizes(model, x, twice=True) == {("wh", 9 + 4 * 8): 4}
    assert sizes(model, x) == {("wh", 9 + 4 * 7): 4}
    found = groups(model, x, by="embedding")
    assert found.count == 4 and set(found.parameters) == {"embedding", "wh", "rh", "wt", "rt"}


def test_dropout_and_training_mode_do_not_matter_and_nothing_changes():
    rng = np.random.default_rng(0)
    model = Sequential(
        Conv2d(1, 4, 3, rng=rng), BatchNorm2d(4), ReLU(), MaxPool2d(2), Dropout(0.5, rng=rng), Flatten(),
        Linear(4 * 13 * 13, 3, rng=rng),
    )  # fmt: skip
    before = {k: v.copy() for k, v in model.state_dict().items()}
    draw = rng.bit_generator.state
    assert len(units(model.train(), image())) == 4
    assert model.training and rng.bit_generator.state == draw
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items())


def test_silence_sets_what_reads_a_unit_to_zero():
    model = mlp((4, 5, 3), rng=np.random.default_rng(0))
    found = units(model, np.ones((2, 4), np.float32))
    before = model[2].weight.data
    silence_(model, [found[1], found[3]])
    assert not model[2].weight.data[:, [1, 3]].any() and before.all()
    assert model[2].weight.data[:, [0, 2, 4]].all() and model[0].weight.data.all()


def test_a_model_without_tensors_is_refused():
    class Cut(Module):
        def forward(self, x):
            return x.detach().numpy()

    with pytest.raises(InputError, match="ndarray without a Tensor"):
        units(Cut(), Tensor(np.ones((2, 3), np.float32)))
