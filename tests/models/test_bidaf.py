"""BiDAF: padding changes nothing; its groups are the published ones and what they leave out; units leave exactly."""

import copy
from collections import Counter

import numpy as np
import pytest
from lively import lively

from minidl import checkpoint
from minidl.data.squad import Vocabulary
from minidl.errors import DataError, InputError, ShapeError
from minidl.models import bidaf
from minidl.models.bidaf import LSTMS, BiDAF, answer, load_bidaf, loss, published_groups, save_bidaf, weights_of
from minidl.optim import SGD, Adam
from minidl.sparsity import GroupLasso, compact, groups, silence_, units

WIDTHS = (5, 6, 4, 3, 5, 4)
TABLE = {  # table 4: units of LSTMS -> millions of weights of the whole model
    (100,) * 6: 2.69, (87, 81, 87, 92, 74, 96): 2.29, (51, 33, 42, 58, 37, 26): 1.17, (20, 33, 40, 38, 31, 16): 0.95,
    (23, 22, 35, 35, 25, 14): 0.88,
}  # fmt: skip


def network(rng, widths=WIDTHS, **sizes):
    model = BiDAF(30, 12, word=5, char=3, filters=4, hidden=4, widths=widths, rng=rng, **sizes)
    return lively(model, rng)


def texts(rng):
    """Two texts of 9 and 6 words, questions of 5 and 3."""
    context, question = rng.integers(2, 30, (9, 2)), rng.integers(2, 30, (5, 2))
    context[6:, 1], question[3:, 1] = 0, 0
    return context, rng.integers(1, 12, (9, 2, 7)), question, rng.integers(1, 12, (5, 2, 7))


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    model, x = network(rng).astype(np.float64).eval(), texts(rng)
    whole, alone = model(*x), model(x[0][:6, 1:], x[1][:6, 1:], x[2][:3, 1:], x[3][:3, 1:])
    for padded, short in zip(whole, alone, strict=True):
        assert padded.shape == (2, 9) and (padded.data[1, 6:] < -50).all()
        np.testing.assert_allclose(padded.data[1, :6], short.data[0], atol=1e-12)


def test_attention_is_the_papers_formula():
    rng = np.random.default_rng(0)
    layer = bidaf.Attention(6, rng=rng).astype(np.float64)
    h, u = rng.standard_normal((4, 2, 6)), rng.standard_normal((3, 2, 6))
    context, question = np.ones((4, 2), int), np.ones((3, 2), int)
    context[3, 1] = question[2, 1] = 0
    found = layer(bidaf.Tensor(h), bidaf.Tensor(u), context, question).data
    w = np.concatenate([layer.context.weight.data[0], layer.question.weight.data[0], layer.both.data])
    for b, (T, J) in enumerate(((4, 3), (3, 2))):
        H, U = h[:T, b], u[:J, b]
        S = np.array([[w @ np.concatenate([x, y, x * y]) for y in U] for x in H]) + layer.context.bias.data
        a = np.exp(S) / np.exp(S).sum(1, keepdims=True)
        best = np.exp(S.max(1))
        h_ = best @ H / best.sum()
        expected = np.concatenate([H, a @ U, H * (a @ U), H * h_], axis=1)
        np.testing.assert_allclose(found[:T, b], expected, atol=1e-12)


def test_gradients():
    rng = np.random.default_rng(0)
    model, x = network(rng, (2,) * 6).astype(np.float64).eval(), texts(rng)
    value = lambda: loss(model, x, np.array([1, 2]), np.array([3, 5]))
    value().backward()
    for name in (
        "g2.backwards.weight_ih",
        "g0.forwards.weight_hh",
        "attention.both",
        "highway.1.gate.weight",
        "word.weight",
    ):
        p = dict(model.named_parameters())[name]
        k = tuple(n // 2 for n in p.shape)
        slope, w, change = p.grad[k], p.data.copy(), 1e-6
        ends = []
        for sign in (1, -1):
            p.data = w.copy()
            p.data[k] += sign * change
            ends.append(value().item())
        p.data = w
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * change), abs=1e-7), name


class Zeros:
    """A random generator that draws zeros: groups do not depend on the numbers."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def test_groups_at_the_papers_size_are_the_published_ones_and_what_they_leave_out():
    model = BiDAF(3, 3, rng=Zeros())
    shapes = {name: p.shape for name, p in model.named_parameters()}
    x = np.ones((2, 1), int), np.ones((2, 1, 5), int), np.ones((1, 1), int), np.ones((1, 1, 5), int)
    found = [u for u in units(model, x) if u.layer in LSTMS]
    a1i = 2 * 400  # rows 1000 + k (forwards) and 1100 + k (backwards) of both output LSTMs
    published = dict(zip(LSTMS, (4800, 4800, 3201, 3201, 6401, 6401), strict=True))
    assert Counter(u.layer for u in found) == dict.fromkeys(LSTMS, 100)
    for u in found:
        assert u.size(shapes, twice=True) == published[u.layer] + (a1i if u.layer.startswith("g1") else 0)
    places = {(u.layer, u.index): {(m.parameter, m.axis): m.indices.tolist() for m in u.members} for u in found}
    for layer, first in (("g1.forwards", 0), ("g1.backwards", 100)):
        for k in (0, 7, 99):
            own = places[layer, k]
            for reader in ("g2.forwards.weight_ih", "g2.backwards.weight_ih"):
                assert own[reader, 1] == [800 + first + k, 1000 + first + k, 1200 + first + k]
            assert own["start.weight", 1] == [first + k]
            assert own[f"{layer}.weight_hh", 1] == [k]
            assert own[f"{layer}.weight_ih", 0] == [k, 100 + k, 200 + k, 300 + k]
    assert places["g0.backwards", 3]["g1.forwards.weight_ih", 1] == [103]
    assert places["g2.backwards", 3]["end.weight", 1] == [103]


def squares_as_published(model):
    """Sums of squares of the authors' groups, from their list of (matrix, axis, first place), a line for each LSTM.

    Matrices are theirs: [input; state] by gates, the readers of start and end as [LSTM; p0].
    """
    w = {name: p.data.astype(float) for name, p in model.named_parameters()}
    for name in LSTMS:
        w[name] = np.concatenate([w[f"{name}.weight_ih"], w[f"{name}.weight_hh"]], axis=1).T
    n, (a, b, c, d, e, f) = model.widths, LSTMS
    p0, g1 = 8 * 4, n[2] + n[3]
    rows = (  # of each group: rows k behind these places
        [(a, p0), (c, 0), (d, 0)], [(b, p0), (c, n[0]), (d, n[0])],
        [(c, n[0] + n[1]), ("start", 0), (e, p0), (f, p0), (e, p0 + 2 * g1), (f, p0 + 2 * g1)],
        [(d, n[0] + n[1]), ("start", n[2]), (e, p0 + n[2]), (f, p0 + n[2]), (e, p0 + 2 * g1 + n[2]),
         (f, p0 + 2 * g1 + n[2])],
        [(e, p0 + 3 * g1), ("end", 0)], [(f, p0 + 3 * g1), ("end", n[4])],
    )  # fmt: skip
    w |= {"start": w["start.weight"].T, "end": w["end.weight"].T}
    return np.array([
        sum((w[m][first + k] ** 2).sum() for m, first in rows[i]) + (w[name][:, k :: n[i]] ** 2).sum()
        for i, name in enumerate(LSTMS) for k in range(n[i])
    ])  # fmt: skip


def test_the_published_groups_and_their_rule_leave_a1i_out():
    model = network(np.random.default_rng(1))
    penalty = GroupLasso(groups(model, by=published_groups(model)), 0.5, rule="published", smooth=1e-8)
    expected = squares_as_published(model)
    np.testing.assert_allclose(np.square(penalty.norms()), expected, rtol=1e-6)
    assert penalty.value() == pytest.approx(0.5 * np.sqrt(expected + 1e-8).sum(), rel=1e-6)
    part = GroupLasso(groups(model, by=published_groups(model)[: sum(WIDTHS[:4])]), 0.5, rule="published")
    part.add_subgradient_()  # without g2's own units, whose gate rows reach over all columns
    g1 = WIDTHS[2] + WIDTHS[3]
    pulled = [False] * 32 + [True] * g1 + [False] * g1 + [True] * g1  # p0, g1, a1i, g1 * a1i
    assert model.g2.forwards.weight_ih.grad.any(0).tolist() == pulled


def test_the_published_groups_have_the_published_sizes():
    model = BiDAF(3, 3, rng=Zeros())
    sizes = groups(model, by=published_groups(model)).sizes(twice=True)
    assert sizes.tolist() == list(np.repeat((4800, 4800, 3201, 3201, 6401, 6401), 100))


def test_weights_of_the_table():
    rest = 2.69e6 - weights_of((100,) * 6)
    for widths, said in TABLE.items():
        published = (rest + weights_of(widths, a1i=200)) / 1e6
        assert said - 0.005 <= published < said + 0.01  # rounded or cut off
    own = [(rest + weights_of(widths)) / 1e6 for widths in TABLE]  # a1i has as many numbers as g1
    np.testing.assert_allclose(own, [2.690, 2.276, 1.151, 0.932, 0.859], atol=6e-4)
    small = BiDAF(3, 3, word=2, char=2, filters=2, hidden=4, widths=WIDTHS, rng=Zeros())
    counted = [p for name, p in small.named_parameters() if name.split(".")[0] in ("g0", "g1", "g2", "start", "end")]
    assert sum(p.numel() for p in counted) == weights_of(WIDTHS, 4) and small.widths == WIDTHS


@pytest.mark.parametrize("part", [0.2, 0.7])
def test_random_units_leave_exactly(part):
    rng = np.random.default_rng(1)
    model, x = network(rng, (8, 7, 8, 7, 8, 7)), texts(rng)
    found = [u for u in units(model, x) if u.layer in LSTMS]
    chosen = [u for name in LSTMS for u in found if u.layer == name and u.index < part * 7]
    silence_(model, chosen)
    small, certificate = compact(model, x)
    gone = Counter(u.layer for u in chosen)
    assert small.widths == tuple(n - gone[name] for n, name in zip(model.widths, LSTMS, strict=True))
    assert certificate.difference <= 1e-12 and certificate.proof.gradients < 1e-9
    assert certificate.proof.train is not None and certificate.proof.train[0] <= 1e-11
    np.testing.assert_array_equal(answer(model, x), answer(small, x))
    stays = dict.fromkeys(layer for layer, _, _ in certificate.stays)
    assert "contextual.forwards" in stays and "word" in stays  # attention reads them: needed


def test_a_published_group_of_zeros_may_still_speak_through_a1i():
    rng = np.random.default_rng(1)
    model, x = network(rng), texts(rng)
    unit = next(u for u in units(model, x) if u.layer == "g1.forwards" and u.index == 1)
    silence_(model, [unit])
    data = dict(model.named_parameters())["g2.forwards.weight_ih"].data
    data[:, 32 + 7 + 1] = rng.standard_normal(len(data))  # the a1i column of this unit, which no published group holds
    less, _ = compact_or_nothing(model, x)
    assert less.widths == WIDTHS
    before = model.astype(np.float64).eval()(*x)[1].data
    model.g1.forwards.bias.data = model.g1.forwards.bias.data + 1.0
    other = copy.deepcopy(model)
    dict(other.named_parameters())["g2.forwards.weight_ih"].data[:, 40] = 0
    assert np.abs(other(*x)[1].data - before)[0].max() > 1e-9


def compact_or_nothing(model, x):
    from minidl.sparsity import NothingToRemove

    try:
        return compact(model, x)
    except NothingToRemove:
        return model, None


def test_learns_and_loses_units_by_training():
    rng = np.random.default_rng(0)
    model, x = BiDAF(30, 12, word=5, char=3, filters=4, hidden=4, keep=1.0, rng=rng), texts(rng)
    start, end = np.array([1, 2]), np.array([3, 5])
    penalty = GroupLasso(groups(model, x, by="unit", layers=LSTMS), lam=0.12)
    optimizer = Adam(model.parameters(), lr=0.02)
    for step in range(60):
        if step == 20:
            optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        value = loss(model, x, start, end)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step >= 20:
            penalty.prox_(optimizer)
    np.testing.assert_array_equal(answer(model, x), np.stack([start, end], axis=1))
    small, certificate = compact(model, x)
    assert sum(small.widths) < 24 and certificate.difference <= certificate.tolerance


def test_an_answer_is_a_piece_of_at_most_so_many_words():
    class Fixed:
        training = False

        def __call__(self):
            return bidaf.Tensor(np.array([[0.0, 5, 0, 4]])), bidaf.Tensor(np.array([[9.0, 0, 0, 3]]))

        def eval(self):
            return self

        def train(self, was):
            return self

    assert answer(Fixed(), ()).tolist() == [[0, 0]]  # not (1, 0), which ends before it starts
    Fixed.__call__ = lambda self: (bidaf.Tensor(np.array([[5.0, 0, 4]])), bidaf.Tensor(np.array([[0.0, 0, 9]])))
    assert answer(Fixed(), ()).tolist() == [[0, 2]] and answer(Fixed(), (), longest=2).tolist() == [[2, 2]]


def test_what_does_not_fit_is_said():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="5 widths: give six"):
        network(rng, (1,) * 5)
    x = texts(rng)
    with pytest.raises(ShapeError, match=r"word numbers \(5, 2\) with letters \(9, 2, 7\)"):
        network(rng)(x[0], x[1], x[2], x[1])


def test_a_shrunk_model_comes_back_with_its_vocabulary_and_no_other_one_is_taken(tmp_path):
    rng, file = np.random.default_rng(1), tmp_path / "reader.npz"
    vocabulary = Vocabulary(tuple(f"w{k}" for k in range(30)), tuple("abcdefghijkl"))
    model, x = network(rng, (5, 4, 3, 4, 5, 4), keep=0.7), texts(rng)
    silence_(model, [u for u in units(model, x) if u.layer in LSTMS and u.index == 1])
    small, _ = compact(model, x)
    save_bidaf(file, small, vocabulary)
    again, own = load_bidaf(file, vocabulary, rng=np.random.default_rng(9))
    assert again.widths == (4, 3, 2, 3, 4, 3) and own == vocabulary and again.dropout.p == pytest.approx(0.3)
    for a, b in zip(small.eval()(*x), again.eval()(*x), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    swapped = Vocabulary(vocabulary.words, tuple("abdcefghijkl"))
    with pytest.raises(InputError, match="12 characters there, 12 here, first different at number 2: 'c' there, 'd'"):
        load_bidaf(file, swapped, rng=rng)
    fewer = Vocabulary(vocabulary.words[:29], vocabulary.characters)
    with pytest.raises(InputError, match="30 words there, 29 here, first different at number 29: 'w29' there, nothing"):
        load_bidaf(file, fewer, rng=rng)
    with pytest.raises(InputError, match="the model knows 30 words, the vocabulary holds 29"):
        save_bidaf(file, small, fewer)
    checkpoint.save(file, model=small)
    with pytest.raises(DataError, match="holds no BiDAF with a vocabulary"):
        load_bidaf(file, rng=rng)
