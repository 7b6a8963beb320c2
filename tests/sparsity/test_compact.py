"""Compaction: what goes, what is refused and why, and that the small network is the same function.

Where a bias takes over a constant, the model is in float64: in float32 the sum is rounded, once.
Every network here has random biases and statistics, so that nothing is zero by luck.
"""

import copy

import numpy as np
import pytest
from lively import lively, output, removed, set_zero, snapshot, unchanged

from minidl import Tensor, rules
from minidl.errors import CompactError, InputError, UnsupportedOp
from minidl.layers import (
    LSTM,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    cross_entropy,
)
from minidl.models import LSTMLanguageModel, f1, lenet_caffe, lenet_terngrad, mlp
from minidl.optim import SGD, Adam, AdamW, RMSprop
from minidl.sparsity import compact, cost, silence_, units
from minidl.sparsity.removable import CARRIER


def networks(dtype=np.float32):
    rng = np.random.default_rng(5)
    image, pixels = rng.random((6, 1, 28, 28), np.float32), rng.random((6, 784), np.float32)
    language = LSTMLanguageModel(30, 12, (14, 16), init_scale=0.5, rng=rng)
    words = (rng.integers(0, 30, (5, 4)), language.zero_states(4))
    models = {
        "lenet_caffe": (lenet_caffe(rng), image), "lenet_terngrad": (lenet_terngrad(rng), image),
        "mlp": (mlp((784, 50, 30, 10), rng=rng), pixels), "f1": (f1(hidden=40, layers=3, rng=rng), pixels),
        "language": (language, words),
    }  # fmt: skip
    return {name: (lively(model, rng).astype(dtype), x) for name, (model, x) in models.items()}


def test_the_certificate_is_a_table():
    model, x = networks()["mlp"]
    found = units(model, x)
    silence_(model, found[:7])
    small, certificate = compact(model, x)
    text = str(certificate)
    assert "removed               7  0             unread: every weight that reads it is 0" in text
    assert "stays                43  0             needed" in text and "float64" in text
    assert f"{certificate.weights_before:,} -> {certificate.weights_after:,}" in text
    assert list(certificate.kept["0"]) == list(range(7, 50)) and len(certificate.kept["2"]) == 30
    assert small[0].weight.shape == (43, 784) and small[2].weight.shape == (30, 43)


# -- constants -------------------------------------------------------------------------------------------------------
def test_zero_filters_are_constants_that_the_next_layer_takes_over():
    model, x = networks(np.float64)["lenet_caffe"]
    set_zero(model.conv1.weight, [2, 7])
    set_zero(model.conv2.weight, [0, 1, 30])
    set_zero(model.ip1.weight, slice(100, 200))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("conv1", "constant"): 2, ("conv2", "constant"): 3, ("ip1", "constant"): 100}
    assert certificate.folded == ["conv2.bias", "ip1.bias", "ip2.bias"]
    assert np.abs(output(model, x) - output(small, x)).max() <= certificate.tolerance


def test_constants_follow_each_other():
    """A filter that reads only constants is one itself."""
    model, x = networks(np.float64)["lenet_caffe"]
    set_zero(model.conv1.weight, slice(0, 10))
    set_zero(model.conv2.weight, (slice(0, 25), slice(10, 20)))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("conv1", "constant"): 10, ("conv2", "constant"): 25}
    assert np.abs(output(model, x) - output(small, x)).max() <= certificate.tolerance


def test_what_only_unread_units_read_goes_too():
    model, x = networks()["lenet_caffe"]
    set_zero(model.ip1.weight, (slice(None), slice(0, 16 * 10)))
    set_zero(model.conv2.weight, (slice(10, None), slice(0, 4)))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("conv1", "unread"): 4, ("conv2", "unread"): 10}


def convnet(padding, bias=True, pool_padding=0):
    """Convolution, BatchNorm with beta = .7, pooling, convolution."""
    rng = np.random.default_rng(0)
    model = Sequential(
        Conv2d(1, 6, 3, padding=1, rng=rng), BatchNorm2d(6), ReLU(), MaxPool2d(2, padding=pool_padding),
        Conv2d(6, 4, 3, padding=padding, bias=bias, rng=rng), Flatten(),
    )  # fmt: skip
    lively(model, rng)
    model[1].bias.data = np.full(6, 0.7, np.float32)
    set_zero(model[0].weight, [1, 5])
    return model, rng.random((3, 1, 8, 8), np.float32)


def test_a_zero_filter_with_beta_is_folded_where_nothing_is_padded():
    for pool_padding in (0, 1):  # maxima are padded with -infinity: a constant stays one
        model, x = convnet(padding=0, pool_padding=pool_padding)
        _, certificate = compact(model, x)
        assert removed(certificate) == {("0", "constant"): 2} and certificate.folded == ["4.bias"]


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 0, "bias": False}])
def test_where_no_bias_can_take_it_over_one_constant_channel_speaks_for_all(options):
    model, x = convnet(**options)
    small, certificate = compact(model.astype(np.float64), x)
    assert removed(certificate) == {("0", "constant"): 1} and certificate.merged == ["4.weight"]
    assert ("0", CARRIER, 1) in certificate.stays and small[4].weight.shape == (4, 5, 3, 3)
    np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-12)
    with pytest.raises(CompactError, match="nothing can be removed.*1 constant: one has to stay"):
        compact(small, x)


def test_averages_over_padded_zeros_are_no_constant():
    for options in ({"padding": 1}, {"padding": 1, "count_include_pad": False}):
        model, x = convnet(padding=0)
        model[3] = AvgPool2d(2, **options)
        if "count_include_pad" in options:
            assert compact(model, x)[1].folded == ["4.bias"]
        else:
            with pytest.raises(CompactError, match="2 nothing feeds it, but it is not the same number everywhere"):
                compact(model, x)


def test_a_constant_zero_needs_no_place():
    model, x = convnet(padding=1, bias=False)
    model[1].bias.data = np.full(6, -9.0, np.float32)  # ReLU makes 0 of it
    _, certificate = compact(model, x)
    assert removed(certificate)["0", "constant"] == 2 and certificate.folded == []


def test_a_dead_relu_is_no_constant():
    """On this x the neuron says 0 always; on another it need not: only weights prove anything."""
    model, x = networks()["mlp"]
    model[0].bias.data = model[0].bias.data - np.float32(100) * (np.arange(50) == 3)
    with pytest.raises(CompactError, match="50 needed"):
        compact(model, x)


def test_weights_that_add_up_to_zero_are_not_zero():
    model, x = networks()["mlp"]
    w = model[2].weight.data.copy()
    w[:, 4] = np.tile([1, -1], 15)
    model[2].weight.data = w
    with pytest.raises(CompactError, match="nothing can be removed"):
        compact(model, x)


# -- recurrent units -------------------------------------------------------------------------------------------------
def quiet_unit(model, k, biases):
    """Zero everything that feeds unit k of the first LSTM layer."""
    layer = model.layers[0]
    width = layer.weight_hh.shape[1]
    set_zero(layer.weight_ih, slice(k, None, width))
    set_zero(layer.weight_hh, slice(k, None, width))
    if not biases:
        set_zero(layer.bias, slice(k, None, width))


def test_a_recurrent_unit_fed_by_its_biases_is_refused():
    model, x = networks()["language"]
    quiet_unit(model, 3, biases=True)
    with pytest.raises(CompactError, match="layers.0: 1 only its biases feed it, but a recurrent unit"):
        compact(model, x)


def test_a_recurrent_unit_that_says_zero_goes():
    model, x = networks()["language"]
    quiet_unit(model, 3, biases=False)
    small, certificate = compact(model, x)
    assert removed(certificate) == {("layers.0", "constant"): 1} and certificate.folded == []
    assert small.layers[0].weight_hh.shape == (4 * 13, 13)


def test_a_state_that_is_carried_in_keeps_it():
    model, x = networks()["language"]
    quiet_unit(model, 3, biases=False)
    states = [tuple(Tensor(np.full(t.shape, 0.1, np.float32)) for t in state) for state in x[1]]
    with pytest.raises(CompactError, match="14 needed"):
        compact(model, (x[0], states))


def test_an_unread_recurrent_unit_goes_with_any_state_and_its_weights_to_itself_do_not_matter():
    model, x = networks()["language"]
    rng = np.random.default_rng(1)
    states = [tuple(Tensor(rng.standard_normal(t.shape).astype(np.float32)) for t in state) for state in x[1]]
    found = [u for u in units(model, x) if u.layer == "layers.0"][2:5]
    own = model.layers[0].weight_hh.data.copy()
    silence_(model, found)
    w = model.layers[0].weight_hh.data.copy()
    for k in (2, 3, 4):  # among themselves they may talk
        for j in (2, 3, 4):
            w[k::14, j] = own[k::14, j]
    model.layers[0].weight_hh.data = w
    small, certificate = compact(model, (x[0], states))
    assert removed(certificate) == {("layers.0", "unread"): 3}
    assert list(certificate.kept["layers.0"]) == [0, 1, *range(5, 14)]


def test_a_dimension_of_the_embedding_that_is_zero_for_every_word_goes():
    model, x = networks()["language"]
    set_zero(model.embedding.weight, (slice(None), [1, 4]))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("embedding", "constant"): 2} and small.embedding.weight.shape == (30, 10)
    model.embedding.weight.data = model.embedding.weight.data + np.float32(0.5) * np.isin(np.arange(12), [1, 4])
    small, certificate = compact(model, x)
    assert removed(certificate) == {("embedding", "constant"): 2} and certificate.folded == ["layers.0.bias"]


# -- networks that are no chain --------------------------------------------------------------------------------------
class Residual(Module):
    def __init__(self, rng):
        self.a, self.b, self.norm = Conv2d(1, 6, 3, rng=rng), Conv2d(6, 6, 3, padding=1, rng=rng), BatchNorm2d(6)
        self.out = Conv2d(6, 4, 3, rng=rng)

    def forward(self, x):
        x = rules.relu(self.a(x))
        return self.out(rules.relu(x + self.norm(self.b(x)))).flatten(1)


def test_a_residual_branch():
    """A channel of the sum goes only if both branches are dead in it, or if nobody reads it."""
    rng = np.random.default_rng(0)
    model, x = lively(Residual(rng), rng), rng.random((2, 1, 9, 9), np.float32)
    set_zero(model.b.weight, [0, 1])
    with pytest.raises(CompactError, match="6 needed"):
        compact(model, x)
    set_zero(model.a.weight, [0])  # a constant, but b, padded, reads it
    with pytest.raises(CompactError, match="1 constant: one has to stay, for a reader that pads"):
        compact(model, x)
    set_zero(model.b.weight, (slice(None), [0]))
    model.norm.bias.data = np.full(6, 5, np.float32)
    small, certificate = compact(model, x)
    assert removed(certificate) == {("a", "constant"): 1} and certificate.folded == ["out.bias"]
    assert small.norm.running_mean.shape == (5,) and small.b.weight.shape == (5, 5, 3, 3)


class Joined(Module):
    def __init__(self, rng):
        self.a, self.b, self.c = Conv2d(1, 3, 3, rng=rng), Conv2d(1, 2, 3, rng=rng), Conv2d(8, 2, 1, rng=rng)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return self.c(np.concatenate([a, b, a], axis=1)).flatten(1)


def test_a_channel_that_is_read_in_two_places():
    rng = np.random.default_rng(0)
    model, x = lively(Joined(rng), rng), rng.random((2, 1, 6, 6), np.float32)
    set_zero(model.c.weight, (slice(None), [1]))
    with pytest.raises(CompactError, match="a: 3 needed"):
        compact(model, x)
    set_zero(model.c.weight, (slice(None), [6]))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("a", "unread"): 1} and small.c.weight.shape == (2, 6, 1, 1)


class Shuffled(Module):
    """Channels change places between two groups, as in ShuffleNet."""

    def __init__(self, rng):
        self.a, self.b, self.out = Conv2d(1, 8, 3, rng=rng), Conv2d(8, 8, 3, groups=2, rng=rng), Linear(8, 3, rng=rng)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        x = np.swapaxes(x.reshape(n, 2, c // 2, h, w), 1, 2).reshape(n, c, h, w)
        return self.out(self.b(x).mean((2, 3)))


def test_shuffled_channels_are_pinned_and_grouped_filters_go_in_equal_numbers():
    rng = np.random.default_rng(0)
    model, x = lively(Shuffled(rng), rng), rng.random((2, 1, 9, 9), np.float32)
    set_zero(model.b.weight, (slice(None), [1]))
    set_zero(model.a.weight, [0])
    set_zero(model.out.weight, (slice(None), [2, 5, 6]))  # one of the first group, two of the other
    small, certificate = compact(model, x)
    assert removed(certificate) == {("b", "unread"): 1} and small.b.weight.shape == (6, 4, 3, 3)
    assert list(certificate.kept["b"]) == [0, 1, 3] and small.out.weight.shape == (3, 6)
    assert ("a", "0, but axis 0 of a.weight is pinned", 1) in certificate.stays


class Normalised(Module):
    """Local response normalisation across channels: what a channel says depends on its neighbours."""

    def __init__(self, rng):
        self.a, self.norm = Conv2d(1, 8, 3, rng=rng), LocalResponseNorm(3, alpha=1.0)
        self.b, self.out = Conv2d(8, 6, 3, rng=rng), Conv2d(6, 2, 3, rng=rng)

    def forward(self, x):
        return self.out(self.b(self.norm(self.a(x)))).flatten(1)


def test_what_is_normalised_across_channels_is_pinned_and_listed():
    rng = np.random.default_rng(0)
    model, x = lively(Normalised(rng), rng), rng.random((2, 1, 9, 9), np.float32)
    set_zero(model.b.weight, (slice(None), [3]))
    set_zero(model.out.weight, (slice(None), [3]))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("b", "unread"): 1} and small.a.weight.shape[0] == 8
    assert ("b", "0, but axis 1 of b.weight is pinned", 1) in certificate.stays


class Twice(Module):
    """One layer run twice."""

    def __init__(self, rng):
        self.first, self.twice, self.out = Linear(3, 5, rng=rng), Linear(5, 5, rng=rng), Linear(5, 2, rng=rng)

    def forward(self, x):
        return self.out(rules.relu(self.twice(rules.relu(self.twice(rules.relu(self.first(x)))))))


def test_a_module_that_runs_twice():
    rng = np.random.default_rng(0)
    model, x = lively(Twice(rng), rng), rng.random((4, 3), np.float32)
    set_zero(model.twice.weight, (slice(None), [2]))
    set_zero(model.out.weight, (slice(None), [2]))
    small, certificate = compact(model, x)
    assert removed(certificate) == {("first", "unread"): 1} and small.twice.weight.shape == (4, 4)


def test_a_module_that_runs_twice_hands_over_only_what_is_the_same_both_times():
    rng = np.random.default_rng(0)
    x = rng.random((4, 3), np.float32)
    for equal in (True, False):
        model = lively(Twice(rng), rng).astype(np.float64)
        for layer in (model.first, model.twice):
            set_zero(layer.weight, [1, 2])
            bias = np.abs(layer.bias.data) + 1
            bias[[1, 2]] = (0.5, 0.7) if equal or layer is model.first else (0.7, 0.5)
            layer.bias.data = bias
        if equal:  # its bias is added twice, so one channel speaks for both
            small, certificate = compact(model, x)
            assert removed(certificate) == {("first", "constant"): 1} and certificate.merged == ["twice.weight"]
            np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-12)
        else:
            with pytest.raises(CompactError, match="1 constant, but twice runs several times"):
                compact(model, x)


class Attention(Module):
    """Activations that read activations: nothing between them can be shown to be unread."""

    def __init__(self, rng):
        self.q, self.k, self.v = (Linear(3, 4, rng=rng) for _ in range(3))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return (q @ k.T) @ v


def test_products_of_activations_hold_what_they_read():
    rng = np.random.default_rng(0)
    model, x = lively(Attention(rng), rng), rng.random((5, 3), np.float32)
    with pytest.raises(CompactError, match="q: 4 needed"):
        compact(model, x)
    for layer in (model.q, model.k):
        set_zero(layer.weight, [1])
    with pytest.raises(CompactError, match="constant, but a product of activations"):
        compact(model, x)
    for layer in (model.q, model.k):
        set_zero(layer.bias, [1])
    small, certificate = compact(model, x)
    assert removed(certificate) == {("q", "constant"): 1} and small.k.weight.shape == (3, 3)


# -- one unit has to stay --------------------------------------------------------------------------------------------
def test_a_layer_keeps_its_last_unit():
    model, x = networks()["mlp"]
    silence_(model, [u for u in units(model, x) if u.layer == "2"])
    small, certificate = compact(model, x)
    assert small[2].weight.shape == (1, 50) and small[4].weight.shape == (10, 1)
    assert ("2", "last of its layer", 1) in certificate.stays
    np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-12)


# -- what is pinned --------------------------------------------------------------------------------------------------
def test_zeros_that_cannot_go_are_listed():
    model, x = networks()["mlp"]
    set_zero(model[0].weight, (slice(None), slice(0, 100)))
    silence_(model, units(model, x)[:1])
    _, certificate = compact(model, x)
    assert ("0", "0, but axis 1 of 0.weight is pinned", 100) in certificate.stays


def test_nothing_to_remove_is_an_error():
    model, x = networks()["lenet_caffe"]
    before = snapshot(model)
    with pytest.raises(CompactError, match="nothing can be removed.*conv1: 20 needed"):
        compact(model, x)
    assert unchanged(model, before)


class WrittenSizes(Module):
    """A forward with the sizes of the large network in it."""

    def __init__(self, rng):
        self.a, self.b = Linear(3, 6, rng=rng), Linear(6, 2, rng=rng)

    def forward(self, x):
        h = self.a(x) + np.zeros((1, 6), np.float32)
        return self.b(h)


class Untraceable(WrittenSizes):
    def forward(self, x):
        return np.sort(self.a(x))


class Hidden(WrittenSizes):
    """Something that the tape does not see."""

    def forward(self, x):
        h = self.a(x)
        return self.b(h) + float(h.data.sum())


@pytest.mark.parametrize(
    "kind, error, message",
    [
        (WrittenSizes, CompactError, "does not run .* must read sizes"),
        (Untraceable, UnsupportedOp, "np.sort is not recorded"),
        (Hidden, CompactError, "the tape does not show"),
    ],
)
def test_a_model_that_cannot_be_shrunk_is_left_as_it_was(kind, error, message):
    rng = np.random.default_rng(0)
    model, x = kind(rng), rng.random((4, 3), np.float32)
    set_zero(model.b.weight, (slice(None), [1, 2]))
    before = snapshot(model)
    with pytest.raises(error, match=message):
        compact(model, x)
    assert unchanged(model, before) and model.training


# -- an ordinary model afterwards ------------------------------------------------------------------------------------
def test_saved_and_loaded_it_has_the_same_bits(tmp_path):
    model, x = networks()["f1"]
    silence_(model, units(model, x)[::3])
    small, _ = compact(model, x)
    np.savez(tmp_path / "small.npz", **small.state_dict())
    other = copy.deepcopy(small)
    for p in other.parameters():
        p.data = np.zeros_like(p.data)
    with np.load(tmp_path / "small.npz") as file:
        other.load_state_dict(dict(file))
    assert np.array_equal(output(other, x, np.float32), output(small, x, np.float32))


OPTIMIZERS = {
    "SGD": lambda p: SGD(p, lr=0.02, momentum=0.9), "Adam": lambda p: Adam(p, 1e-3),
    "AdamW": lambda p: AdamW(p, 1e-3), "RMSprop": lambda p: RMSprop(p, 1e-3, momentum=0.5, centered=True),
}  # fmt: skip


@pytest.mark.parametrize("method", OPTIMIZERS)
@pytest.mark.parametrize("name", ["lenet_caffe", "f1", "language"])
def test_training_goes_on_where_it_stopped(name, method):
    """Three steps of the small model and of the large one whose removed weights are held at 0."""
    model, x = networks()[name]
    model.astype(np.float64)
    if name != "language":
        x = x.astype(np.float64)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 20 if name == "language" else 6)

    def train(m, opt, states, mask=None, steps=3):
        losses = []
        for _ in range(steps):
            loss = cross_entropy(m(x[0], states)[0] if name == "language" else m(Tensor(x)), labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
            for p, keep in mask or ():
                p.data = p.data * keep
            losses.append(loss.item())
        return losses

    optimizer = OPTIMIZERS[method](model.parameters())
    states = model.zero_states(4) if name == "language" else None
    train(model, optimizer, states)
    silence_(model, units(model, x)[::3])
    mask = [(p, p.data != 0) for p in model.parameters()]
    small, certificate, less = compact(model, x, optimizer=optimizer)
    assert less.steps == 3 and list(map(id, less.params)) == list(map(id, small.parameters()))
    for p, state, full in zip(less.params, less.state, optimizer.state, strict=True):
        assert {k: np.shape(v) for k, v in state.items()} == {k: p.shape if np.ndim(v) else () for k, v in full.items()}
    mine = small.zero_states(4) if name == "language" else None
    ours, theirs = train(small, less, mine), train(model, optimizer, states, mask)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    assert len(set(ours)) == 3


def test_an_optimizer_of_another_model_is_refused():
    model, x = networks()["mlp"]
    silence_(model, units(model, x)[:3])
    with pytest.raises(InputError, match="not this model's"):
        compact(model, x, optimizer=SGD(networks()["mlp"][0].parameters(), 0.1))


def test_the_small_network_can_be_compacted_again():
    model, x = networks()["lenet_caffe"]
    silence_(model, units(model, x)[::2])
    once, _ = compact(model, x)
    silence_(once, units(once, x)[::2])
    twice, certificate = compact(once, x)
    assert cost(twice, x).macs == certificate.macs_after < certificate.macs_before == cost(once, x).macs


def test_a_layer_may_make_its_own_zero_state():
    class Reader(Module):
        def __init__(self, rng):
            self.lstm, self.out = LSTM(5, 6, rng=rng), Linear(6, 3, rng=rng)

        def forward(self, x):
            return self.out(self.lstm(x)[0][-1])

    model, x = Reader(np.random.default_rng(0)), np.random.default_rng(1).standard_normal((4, 2, 5))
    silence_(model, [u for u in units(model, x) if u.layer == "lstm"][:2])
    small, certificate = compact(model, x)
    assert small.lstm.weight_hh.shape == (16, 4) and certificate.difference <= certificate.tolerance
