"""Stacked, bidirectional and tied recurrent networks become smaller ordinary ones; text before and after is the same.

All biases are random, as training leaves them: a unit may go because nobody reads it, never because its weights alone
are 0.
"""

from __future__ import annotations

import numpy as np
import pytest
from lively import lively, output, removed, set_zero

from minidl import Tensor
from minidl.callbacks import Callback
from minidl.data.text import batch_stream
from minidl.errors import CompactError
from minidl.layers import GRU, LSTM, RNN, Linear, Module, cross_entropy
from minidl.models import LSTMLanguageModel, generate
from minidl.models.lstm_lm import load_language_model, save_language_model, train_epoch
from minidl.optim import SGD
from minidl.sparsity import L1, GroupLasso, NothingToRemove, Steer, compact, freeze_zeros, groups, silence_, units
from minidl.sparsity.picture import draw_strips

RNG = np.random.default_rng


class Tagger(Module):
    """A recurrent stack with an output layer that reads every step; with `carry` its state goes in and comes out."""

    def __init__(self, kind, layers=2, bidirectional=False, carry=False, width=6, dropout=0.0, seed=0):
        rng = RNG(seed)
        self.layer = kind(4, width, layers, bidirectional=bidirectional, dropout=dropout, rng=rng)
        self.out, self.carry = Linear(width * (1 + bidirectional), 3, rng=rng), carry
        lively(self, rng)

    def forward(self, x, state=None):
        y, after = self.layer(x, state)
        return (self.out(y), after) if self.carry else self.out(y)


def cell_units(model, x):
    """The units of each cell, in the order of the cells: {name of its recurrent weights: its units}."""
    found: dict[str, list] = {}
    for unit in units(model, x):
        own = next(m.parameter for m in unit.members if "weight_hh" in m.parameter)
        found.setdefault(own, []).append(unit)
    return found


def widths(model):
    return [p.shape[1] for name, p in model.named_parameters() if "weight_hh" in name]


def zeroed_readers(model, x, counts):
    """Set every weight that reads so many units of each cell to 0."""
    found = cell_units(model, x)
    chosen = [unit for own, count in zip(found.values(), counts, strict=True) for unit in own[:count]]
    silence_(model, chosen)


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("bidirectional, counts", [(False, (2, 4)), (True, (1, 3, 2, 5))])
def test_units_that_nobody_reads_leave_each_cell_by_itself(kind, bidirectional, counts):
    model = Tagger(kind, bidirectional=bidirectional, dropout=0.3)
    x = RNG(1).standard_normal((5, 3, 4))
    before = output(model, x)
    zeroed_readers(model, x, counts)
    silenced = output(model, x)
    small, certificate = compact(model, x)
    assert widths(small) == [6 - count for count in counts] and sum(counts) == sum(removed(certificate).values())
    assert np.abs(output(small, x) - silenced).max() <= 1e-12 * max(1, np.abs(silenced).max())
    assert np.abs(silenced - before).max() > 1e-3
    assert certificate.proof.train is not None  # with the same dropout masks in both
    longer = RNG(2).standard_normal((9, 2, 4))  # other numbers of steps and rows than those of the proof
    assert np.abs(output(small, longer) - output(model, longer)).max() <= 1e-12


@pytest.mark.parametrize("bidirectional, counts", [(False, (2, 4)), (True, (1, 3, 2, 5))])
def test_a_state_per_cell_is_carried_through_cells_of_any_width(bidirectional, counts):
    model = Tagger(LSTM, bidirectional=bidirectional, carry=True)
    x = RNG(1).standard_normal((5, 3, 4)).astype(np.float32)
    rng = RNG(2)
    state = tuple([Tensor(rng.standard_normal(p.shape).astype(np.float32)) for p in part]
                  for part in model.layer.zero_state(3, cells=True))  # fmt: skip
    zeroed_readers(model, (x, state), counts)
    small, certificate = compact(model, (x, state))
    assert certificate.difference <= certificate.tolerance and widths(small) == [6 - count for count in counts]
    (y, after), zero = small(Tensor(x)), small.layer.zero_state(3)
    assert [h.shape for h in after[0]] == [h.shape for h in zero[0]] == [(3, 6 - count) for count in counts]
    if not bidirectional:  # in pieces, the last one shorter
        said, carried = [], None
        for part in (x[:3], x[3:]):
            own, carried = small(Tensor(part), carried)
            said.append(own.data)
        np.testing.assert_allclose(np.concatenate(said), y.data, atol=1e-6)


@pytest.mark.parametrize("kind", [GRU, RNN])
def test_a_state_of_one_array_loses_its_units_too(kind):
    """h goes in and comes out by itself, as the layer takes it; what only looks like that stays an input."""
    model, rng = Tagger(kind, layers=1, carry=True), RNG(2)
    x, h = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 4), (3, 6)))
    silence_(model, units(model, (x, Tensor(h)))[2:4])
    small, certificate = compact(model, (x, Tensor(h)))
    assert widths(small) == [4] and certificate.difference <= certificate.tolerance
    y, after = small(Tensor(x), Tensor(h[:, [0, 1, 4, 5]]))
    first, carried = small(Tensor(x[:3]), Tensor(h[:, [0, 1, 4, 5]]))
    second, end = small(Tensor(x[3:]), carried)
    np.testing.assert_allclose(np.concatenate([first.data, second.data]), y.data, atol=1e-6)
    np.testing.assert_allclose(end.data, after.data, atol=1e-6)
    whole, whole_after = model(Tensor(x), Tensor(h))
    np.testing.assert_allclose(y.data, whole.data, atol=1e-6)
    np.testing.assert_allclose(after.data, whole_after.data[:, [0, 1, 4, 5]], atol=1e-6)


def test_an_input_that_a_model_gives_back_with_something_added_is_no_state():
    class Two(Module):
        def __init__(self):
            self.layer = Linear(4, 4, rng=RNG(0))

        def forward(self, x, z):
            return x * 2, z + self.layer(z)

    x, z = (Tensor(RNG(1).standard_normal((3, 4)).astype(np.float32)) for _ in range(2))
    assert units(Two(), (x, z)) == []


def test_a_state_of_the_wrong_form_is_refused_in_words():
    model = Tagger(LSTM)
    x = RNG(1).standard_normal((5, 3, 4)).astype(np.float32)
    zeroed_readers(model, x, (2, 4))
    small, _ = compact(model, x)
    with pytest.raises(ValueError, match=r"as a list of 2, for H = \[4, 2\]"):
        small(Tensor(x), (Tensor(np.zeros((2, 3, 6))),) * 2)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_units_go_by_training_in_both_directions(kind):
    """Tags depend on the first two inputs only; the Lasso empties units of every cell, and what is left says the same.

    In between, no unit is chosen by hand; behind it, the small network learns on."""
    model, rng = Tagger(kind, layers=1, bidirectional=True, width=8), RNG(1)
    x = rng.standard_normal((6, 20, 4)).astype(np.float32)
    y = (x[..., 0] > 0).astype(int) + (x[..., 1] > 0)
    penalty = GroupLasso(groups(model, x, by="unit", layers="layer"), lam=2e-2)
    losses: list[float] = []

    def train(one, steps, callbacks=()):
        optimizer = SGD(one.parameters(), lr=0.5, momentum=0.5)
        for _ in range(steps):
            loss = cross_entropy(one(Tensor(x)).flatten(0, 1), y.ravel())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for callback in callbacks:
                callback.prox_(optimizer)
            losses.append(loss.item())

    train(model, 120, [penalty])
    small, certificate = compact(model, x)
    dead = int((penalty.norms() == 0).sum())
    assert 2 <= dead < 16 and sum(widths(small)) == 16 - dead
    assert certificate.difference <= certificate.tolerance
    assert np.abs(output(small, x) - output(model, x)).max() <= 1e-12 * max(1, np.abs(output(model, x)).max())
    train(small, 40)
    assert losses[-1] < losses[119] < losses[0]


@pytest.mark.parametrize("kind, gates", [(LSTM, 4), (GRU, 3)])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_unit_without_input_goes_only_if_it_says_0(kind, gates, quiet):
    """With its trained biases it counts up by itself: h_t is not one constant, and no bias could take its place."""
    model, x = Tagger(kind, layers=1), RNG(1).standard_normal((5, 3, 4))
    rows = slice(2, None, 6)
    for name in ("weight_ih", "weight_hh"):
        set_zero(getattr(model.layer, name), rows)
    assert len(range(*rows.indices(gates * 6))) == gates
    if not quiet:
        with pytest.raises(CompactError, match="1 only its biases feed it, but a recurrent unit is then not constant"):
            compact(model, x)
        return
    set_zero(model.layer.bias_ih, rows)
    set_zero(model.layer.bias_hh, rows)
    small, certificate = compact(model, x)
    assert widths(small) == [5] and removed(certificate) == {("layer", "constant"): 1}
    assert np.abs(output(small, x) - output(model, x)).max() <= 1e-12


# -- the language model ------------------------------------------------------------------------------------------------
def language_model(tied=False, keep=0.7, seed=0):
    model = LSTMLanguageModel(30, 10, (12, 10), keep=keep, init_scale=0.5, tied=tied, rng=RNG(seed))
    return lively(model, RNG(seed + 1))


def words_and_state(model, steps=5, batch=4):
    rng = RNG(3)
    states = [tuple(Tensor(0.3 * rng.standard_normal(t.shape).astype(np.float32)) for t in s)
              for s in model.zero_states(batch)]  # fmt: skip
    return rng.integers(0, 30, (steps, batch)), states


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_loses_units_and_dimensions_of_its_embedding(tied):
    model = language_model(tied)
    x = words_and_state(model)
    found = {layer: [u for u in units(model, x) if u.layer == layer] for layer in ("embedding", "layers.0", "layers.1")}
    assert [len(own) for own in found.values()] == [0 if tied else 10, 12, 10]  # tied: a dimension is a unit on top
    silence_(model, [*found["embedding"][:3], *found["layers.0"][5:], *found["layers.1"][4:5]])
    small, certificate = compact(model, x)
    assert small.sizes == (30, 9 if tied else 7, (5, 9))
    assert (small.output.weight is small.embedding.weight) == tied
    assert certificate.difference <= certificate.tolerance and certificate.proof.train is not None


@pytest.mark.parametrize("tied", [False, True])
def test_the_text_before_and_after_is_the_same(tmp_path, tied):
    model = language_model(tied).astype(np.float64)
    x = (words_and_state(model)[0], model.zero_states(4))
    own = units(model, x)
    before = generate(model, [1, 2], 40, 0.8, rng=RNG(7))
    silence_(model, own[::3])
    after_zeros = generate(model, [1, 2], 40, 0.8, rng=RNG(7))
    small, _ = compact(model, x)
    assert small.sizes != model.sizes
    assert (generate(small, [1, 2], 40, 0.8, rng=RNG(7)) == after_zeros).all() and (before != after_zeros).any()
    words = [f"word{k}" for k in range(30)]
    save_language_model(tmp_path / "small.npz", small, words)
    again, _ = load_language_model(tmp_path / "small.npz", words, rng=RNG(0))
    assert again.sizes == small.sizes
    np.testing.assert_allclose(again.layers[1].weight_hh.data, small.layers[1].weight_hh.data, rtol=1e-6)


def test_the_small_model_goes_on_training_like_the_emptied_one():
    """Fine-tuning with a shorter last batch: equal to the large model whose zeros are kept at 0."""
    model = language_model(keep=1.0).astype(np.float64)
    x = (words_and_state(model)[0], model.zero_states(4))
    own = units(model, x)
    silence_(model, own[::3])
    small, _ = compact(model, x)
    stream = list(batch_stream(RNG(5).integers(0, 30, 100), 4, 7, rest=True))
    assert [len(part) for part, _ in stream] == [7, 7, 7, 3]
    said = []
    for one, callbacks in ((small, []), (model, [freeze_zeros(model)])):
        optimizer = SGD(one.parameters(), lr=0.1, momentum=0.5)
        said.append([train_epoch(one, stream, optimizer, clip=1.5, callbacks=callbacks) for _ in range(2)])
    # a silenced unit's own rows have no gradient, so that the joint norm, and with it the clipping, is the same
    assert said[0] == pytest.approx(said[1], rel=1e-11)
    assert said[0][0] != said[0][1]


# -- penalties on the language model -----------------------------------------------------------------------------------
def iss_by_hand(w, hidden, lam):
    """{parameter: gradient of lam sum_k sqrt(S_k + 1e-8)}: the published sums of squares, crossings counted twice.

    S_k: the four gate rows of unit k (here rows, there columns), its recurrent column, the column of what reads it.
    """
    more = {name: np.zeros_like(a) for name, a in w.items()}
    for layer, reader in ((0, "layers.1.weight_ih"), (1, "output.weight")):
        ih, hh, n = f"layers.{layer}.weight_ih", f"layers.{layer}.weight_hh", hidden[layer]
        for k in range(n):
            parts = [(ih, np.s_[k::n]), (hh, np.s_[k::n]), (hh, np.s_[:, k]), (reader, np.s_[:, k])]
            root = np.sqrt(sum((w[name][part] ** 2).sum() for name, part in parts) + 1e-8)
            for name, part in parts:
                more[name][part] += lam * w[name][part] / root
    return more


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_published_rule_is_the_published_step(everywhere):
    """Gradient of cost and penalty, clipped together, a plain step, then |w| < 1e-4 is 0: in all variables, there."""

    class Everywhere(Callback):
        def after_step(self, run):
            penalty.threshold_(params=run.model.parameters())

    model, theirs = (language_model(keep=1.0).astype(np.float64) for _ in range(2))
    for m in (model, theirs):
        m.embedding.weight.data = m.embedding.weight.data * (RNG(8).random((30, 10)) < 0.5) * 1e-4
    x = (words_and_state(model)[0], model.zero_states(4))
    found = groups(model, x, by="unit", layers=["layers.0", "layers.1"])
    penalty = GroupLasso(found, lam=0.05, rule="published", per="sum")
    assert set(penalty.sizes()) == {4 * (10 + 12) + 48 + 40, 4 * (12 + 10) + 40 + 30}
    stream = list(batch_stream(RNG(5).integers(0, 30, 40), 4, 4))
    callbacks = [penalty, Everywhere()] if everywhere else [penalty]
    train_epoch(model, stream, SGD(model.parameters(), lr=0.02), clip=0.7, callbacks=callbacks)
    states, own = theirs.zero_states(4), dict(theirs.named_parameters())
    for a, b in stream:
        logits, after = theirs(a, states)
        states = [tuple(part.detach() for part in state) for state in after]
        for p in own.values():
            p.grad = None
        (cross_entropy(logits, b.ravel()) * len(a)).backward()
        more = iss_by_hand({name: p.data for name, p in own.items()}, (12, 10), 0.05)
        total = {name: p.grad + more[name] for name, p in own.items()}
        scale = min(1, 0.7 / np.sqrt(sum((g**2).sum() for g in total.values())))
        for name, p in own.items():
            p.data = p.data - 0.02 * scale * total[name]
            if everywhere or name in found.parameters:
                p.data = np.where(np.abs(p.data) < 1e-4, 0, p.data)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.data, own[name].data, atol=1e-12, err_msg=name)
    assert (model.embedding.weight.data == 0).mean() > 0.9 or not everywhere


PENALTIES = {
    "unit": lambda model, x: GroupLasso(groups(model, x, by="unit", layers=["layers.0", "layers.1"]), 0.5),
    "embedding": lambda model, x: GroupLasso(groups(model, x, by="embedding"), 0.5),
    "l1": lambda model, x: L1(model, 0.2),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_units_and_dimensions_make_it_smaller_and_single_weights_do_not(name):
    model = language_model()
    x = words_and_state(model)
    penalty, scale = PENALTIES[name](model, x), RNG(9).random(22) < 0.4
    if name != "l1":  # two fifths of the units have learned next to nothing
        for face in penalty.groups.faces:
            p, weak = penalty.parameters[face.parameter], scale[np.maximum(face.labels, 0)] & (face.labels >= 0)
            p.data = np.where(np.expand_dims(weak, 1 - face.axis), p.data * np.float32(0.05), p.data)
    optimizer = SGD(model.parameters(), lr=1.0)
    for p in model.parameters():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    penalty.prox_(optimizer)
    norms = penalty.norms()
    assert 0.1 < (norms == 0).mean() < 0.6
    if name == "l1":
        with pytest.raises(NothingToRemove):
            compact(model, x)
        return
    small, certificate = compact(model, x)
    left = int((norms > 0).sum())
    assert left == (sum(small.sizes[2]) if name == "unit" else small.sizes[1])
    assert certificate.difference <= certificate.tolerance


def test_rows_and_columns_are_groups_of_each_matrix():
    model = language_model()
    found = groups(model, by="row+column", layers=["layers.0", "output"])
    assert [(s.layer, s.kind, s.stop - s.start) for s in found.sections] == [
        ("layers.0", "row", 48), ("layers.0", "row", 48), ("output", "row", 30),
        ("layers.0", "column", 10), ("layers.0", "column", 12), ("output", "column", 10),
    ]  # fmt: skip
    norms, w = GroupLasso(found, 1.0).norms(), model.layers[0].weight_ih.data
    np.testing.assert_allclose(norms[:48], np.sqrt((w**2).sum(1)), rtol=1e-6)
    np.testing.assert_allclose(norms[126:136], np.sqrt((w**2).sum(0)), rtol=1e-6)


def test_rows_and_columns_of_single_matrices_die_without_making_it_smaller():
    """Why a unit is one group: gate rows of many units are 0, recurrent columns of others, and yet none can leave."""
    model = language_model()
    x = words_and_state(model)
    for layer in model.layers:
        ih, hh = layer.weight_ih, layer.weight_hh
        ih.data = ih.data * np.where(np.arange(len(ih.data)) % 3 == 0, 0.01, 1).astype(np.float32)[:, None]
        hh.data = hh.data * np.where(np.arange(hh.shape[1]) % 3 == 1, 0.01, 1).astype(np.float32)
    penalty = GroupLasso(groups(model, by="row+column", layers=["layers.0", "layers.1"]), lam=0.1)
    optimizer = SGD(model.parameters(), lr=1.0)
    for p in model.parameters():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    penalty.prox_(optimizer)
    for layer in model.layers:
        assert (~layer.weight_ih.data.any(1)).mean() > 0.3 and (~layer.weight_hh.data.any(0)).mean() >= 0.3
        assert layer.weight_ih.data.any(0).all() and layer.weight_hh.data.any(1).all()
    with pytest.raises(NothingToRemove):
        compact(model, x)


def test_one_steer_goes_through_the_epochs_of_a_language_model():
    model = language_model(keep=1.0)
    found = groups(model, words_and_state(model), by="unit", layers=["layers.0", "layers.1"])
    penalty = GroupLasso(found, lam=1e-3, per="sum")
    steer, stream = Steer(penalty, 0.5, over=20, every=2), list(batch_stream(RNG(5).integers(0, 30, 70), 4, 4))
    for epoch in range(4):
        optimizer = SGD(model.parameters(), lr=0.1)
        train_epoch(model, stream, optimizer, clip=5, callbacks=[penalty, steer], step=epoch * len(stream))
    assert len(stream) == 4 and [step for step, _, _ in steer.history] == [*range(1, 16, 2)]
    lambdas = [lam for _, lam, _ in steer.history]
    assert lambdas == sorted(lambdas) and lambdas[-1] > 1e-3  # nothing is 0 yet


def test_l1_as_published_for_all_but_the_embedding():
    model = language_model(keep=1.0)
    parameters = {name: p for name, p in model.named_parameters() if name != "embedding.weight"}  # biases as well
    before = {name: p.data for name, p in model.named_parameters()}
    penalty = L1(parameters, 0.5, rule="published", per="sum")
    penalty.add_subgradient_()
    assert model.embedding.weight.grad is None
    SGD(model.parameters(), lr=0.1).step()
    penalty.threshold_()
    for name, p in parameters.items():
        moved = before[name] - np.float32(0.05) * np.sign(before[name])
        np.testing.assert_allclose(p.data, np.where(np.abs(moved) < 1e-4, 0, moved), atol=1e-7, err_msg=name)


# -- seen --------------------------------------------------------------------------------------------------------------
def test_strips_are_white_where_a_unit_left():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    model = language_model()
    x = words_and_state(model)
    own = [u for u in units(model, x) if u.layer == "layers.0"]
    silence_(model, [own[1], own[5]])
    _, certificate = compact(model, x)
    draw_strips(figure, certificate)
    strips = {axes.get_ylabel(): np.asarray(axes.images[0].get_array())[0] for axes in figure.axes}
    assert {name.split("\n")[0]: len(strip) for name, strip in strips.items()} == {
        "embedding": 10, "layers.0": 12, "layers.1": 10,
    }  # fmt: skip
    assert np.flatnonzero(strips["layers.0\n10 of 12"] == 0).tolist() == [1, 5]
    assert figure.axes[1].images[0].cmap(0.0)[:3] == (1, 1, 1)
    assert [axes.get_ylabel() for axes in certificate.figure().axes] == list(strips)
