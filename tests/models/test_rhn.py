"""The recurrent highway network: its step by hand, in all forms, its dropout, its state, and the published counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minidl import Tensor, backend, checkpoint, no_grad
from minidl.errors import DataError, InputError, ShapeError
from minidl.gradcheck import gradcheck
from minidl.layers import cross_entropy
from minidl.models import generate, perplexity
from minidl.models.lstm_lm import load_language_model
from minidl.models.rhn import DENSE, ISS, Config, RHNLanguageModel, WordDropout, load_rhn, rhn, save_rhn
from minidl.sparsity import compact, silence_, units

SMALL = Config(width=6, depth=3, init_scale=0.4)


def rng(seed=0):
    return np.random.default_rng(seed)


def arrays(steps=3, batch=2, features=4, n=3, depth=2, masked=True):
    r = rng()
    shapes = [(steps, batch, features), (batch, n), (batch, n), (2 * n, features), *[(2 * n, n), (2 * n,)] * depth]
    found = [r.standard_normal(shape) for shape in shapes]
    found[2] = (found[2] > 0) / 0.5 if masked else None
    return found


def test_one_step_as_the_paper_writes_it():
    """s = (h - s) t + s with h, t from [x, s m] at the first depth and from [s m] at the others."""
    x, s, m, w, r0, b0, r1, b1 = arrays(steps=1)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    h = np.tanh(x[0] @ w[:3].T + (s * m) @ r0[:3].T + b0[:3])
    t = sigmoid(x[0] @ w[3:].T + (s * m) @ r0[3:].T + b0[3:])
    s1 = (h - s) * t + s
    h, t = np.tanh((s1 * m) @ r1[:3].T + b1[:3]), sigmoid((s1 * m) @ r1[3:].T + b1[3:])
    y, end = rhn(x, s, m, w, r0, b0, r1, b1)
    np.testing.assert_allclose(y.data[0], (h - s1) * t + s1, rtol=1e-14)
    np.testing.assert_array_equal(y.data[-1], end.data)


def run(form, values, dtype=np.float64):
    args = [None if a is None else Tensor(a.astype(dtype), requires_grad=True) for a in values]
    with backend.form(form):
        y, end = rhn(*args)
        r = rng(1)
        ((y * r.standard_normal(y.shape).astype(dtype)).sum() + (end * r.standard_normal(end.shape)).sum()).backward()
    return [y.data, end.data, *(a.grad for a in args if a is not None)]


SHAPES = [{}, {"masked": False}, {"steps": 1, "batch": 1, "features": 1, "n": 1, "depth": 1}, {"depth": 5, "steps": 4}]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_hand_written_equals_composed(shapes):
    for a, b in zip(run("numpy", arrays(**shapes)), run("composed", arrays(**shapes)), strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1, np.abs(b).max())


@pytest.mark.parametrize("form", ["numpy", "composed"])
def test_backward_against_finite_differences(form):
    with backend.form(form):
        gradcheck(rhn, *arrays(), rng=rng(1))


def test_second_derivatives():
    gradcheck(rhn, *arrays(), rng=rng(1), directions=1, rtol=1e-5, order=2)


def test_only_the_sequence_or_only_the_end_gets_a_gradient():
    for which in (0, 1):
        grads = []
        for form in ("numpy", "composed"):
            args = [Tensor(a, requires_grad=True) for a in arrays()]
            with backend.form(form):
                (rhn(*args)[which] ** 2).sum().backward()
            grads.append([a.grad for a in args])
        for a, b in zip(*grads, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_shapes_that_clash_are_named():
    with pytest.raises(InputError, match="0 states: a highway network has one"):
        RHNLanguageModel(5, SMALL, rng=rng())(np.zeros((2, 3), int), [])
    values = arrays()
    for k, wrong in ((1, np.zeros((2, 5))), (3, np.zeros((6, 5))), (6, np.zeros((6, 4))), (2, np.zeros((3, 3)))):
        with pytest.raises(ShapeError, match=r"do not fit; they must be \(T, B, I\)"):
            rhn(*[wrong if i == k else a for i, a in enumerate(values)])


# -- the model ---------------------------------------------------------------------------------------------------------
def trained(form, steps_of_batches):
    """Losses, gradients and states over batches of these lengths, the state carried: same weights, same masks."""
    model = RHNLanguageModel(11, SMALL, rng=rng()).astype(np.float64)
    ids, start, found = rng(2).integers(0, 11, (40, 4)), 0, []
    states = model.zero_states(4)
    with backend.form(form):
        for steps in steps_of_batches:
            x, y = ids[start : start + steps], ids[start + 1 : start + steps + 1]
            logits, states = model(x, [s.detach() for s in states])
            model.zero_grad()
            cross_entropy(logits, y.ravel()).backward()
            found += [logits.data, states[0].data, *(p.grad for p in model.parameters())]
            start += steps
    return found


def test_hand_written_equals_composed_with_carried_state_dropout_and_a_ragged_last_batch():
    ours, composed = trained("numpy", (5, 5, 2)), trained("composed", (5, 5, 2))
    assert len(ours) == 3 * (2 + 9)
    for a, b in zip(ours, composed, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1, np.abs(b).max())


def test_state_carried_over_batches_equals_one_long_sequence():
    model = RHNLanguageModel(11, SMALL, rng=rng()).astype(np.float64).eval()
    ids = rng().integers(0, 11, (13, 3))
    pieces = [(ids[t : t + 4], ids[t + 1 : t + 5]) for t in range(0, 12, 4)]
    whole = perplexity(model, [(ids[:-1], ids[1:])])
    assert perplexity(model, pieces) == pytest.approx(whole, rel=1e-12)
    assert perplexity(model, [(x[:2], y[:2]) for x, y in pieces]) != pytest.approx(whole, rel=1e-6)


def test_the_table_is_tied_and_gates_start_nearly_closed():
    model = RHNLanguageModel(11, SMALL, rng=rng())
    assert model.output.weight is model.embedding.weight
    assert [name for name, _ in model.named_parameters()] == [
        "weight_ih", "embedding.weight", *(f"layers.{k}.{p}" for k in range(3) for p in ("weight", "bias")),
        "output.bias",
    ]  # fmt: skip
    for layer in model.layers:
        assert (layer.bias.data[6:] == -2).all() and np.abs(layer.bias.data[:6]).max() <= 0.4


def test_word_dropout_takes_a_word_away_everywhere_in_its_sequence_alone():
    ids = np.array([[1, 1], [2, 1], [1, 3], [3, 2], [2, 2]])
    drop, x = WordDropout(0.5, rng=rng()), Tensor(np.ones((5, 2, 3)))
    kept = np.array([drop(x, ids).data for _ in range(400)])
    assert set(np.unique(kept)) == {0, 2} and (kept == kept[..., :1]).all()
    for b in range(2):
        for word in (1, 2, 3):
            places = kept[:, ids[:, b] == word, b, 0]
            assert (places == places[:, :1]).all() and places[:, 0].mean() == pytest.approx(1, abs=0.2)
    assert not (kept[:, 0, 0] == kept[:, 0, 1]).all()  # another sequence, another draw
    assert drop.eval()(x, ids) is x


def test_masks_hold_for_a_whole_sequence():
    """With the recurrence cut off, what the output mask takes is missing at every time step, in evaluation nothing."""
    config = replace(SMALL, drop=(0.0, 0.0, 0.5, 0.5))
    model = RHNLanguageModel(11, config, rng=rng())
    seen = []
    model.drop_output.rng = Spy(model.drop_output.rng, seen)
    model.drop_state.rng = Spy(model.drop_state.rng, seen)
    ids = np.zeros((7, 4), int)
    model(ids, model.zero_states(4))
    assert seen == [(1, 4, 6)] * 2  # one draw for all time steps and all depths
    with no_grad():
        one, two = (model.eval()(ids, model.zero_states(4))[0].data for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(seen) == 2


class Spy:
    def __init__(self, generator, seen):
        self.generator, self.seen = generator, seen

    def random(self, shape, dtype=np.float64):
        self.seen.append(shape)
        return self.generator.random(shape, dtype)


@pytest.mark.parametrize("width, millions", [(830, 23.5), (726, 18.9), (517, 11.1), (403, 7.6), (328, 5.7)])
def test_the_published_table(width, millions):
    assert round(replace(DENSE, width=width).weights(10_000) / 1e6, 1) == millions


@pytest.mark.parametrize("depth, width", [(1, 3), (4, 6), (10, 8)])
def test_the_formula_counts_the_model(depth, width):
    config = Config(width=width, depth=depth)
    assert sum(p.numel() for p in RHNLanguageModel(11, config, rng=rng()).parameters()) == config.weights(11)


def test_the_published_schedule():
    assert DENSE.rate(18) == 0.2 and DENSE.rate(19) == 0.2 and DENSE.rate(20) == pytest.approx(0.2 / 1.02)
    assert ISS.drop == pytest.approx([0.6 * p for p in DENSE.drop]) and (ISS.width, ISS.depth) == (830, 10)


# -- the file ----------------------------------------------------------------------------------------------------------
def test_a_shrunk_model_comes_back_with_its_words_and_no_others_are_taken(tmp_path):
    file, words, rng = tmp_path / "rhn.npz", tuple("abcdefg"), np.random.default_rng(0)
    model = RHNLanguageModel(7, Config(width=5, depth=3, drop=(0.1, 0.2, 0.3, 0.4), init_scale=0.5), rng=rng)
    x = rng.integers(0, 7, (4, 2)), model.zero_states(2)
    silence_(model, units(model, x)[1:3])
    small, _ = compact(model, x)
    save_rhn(file, small, words)
    again, own = load_rhn(file, words, rng=np.random.default_rng(9))
    assert own == words and again.config == small.config == Config(width=3, depth=3, drop=(0.1, 0.2, 0.3, 0.4))
    prompt = [1, 2, 3]
    said = [generate(m, prompt, 20, rng=np.random.default_rng(5)).tolist() for m in (small, again)]
    assert said[0] == said[1]
    with pytest.raises(InputError, match="7 words there, 7 here, first different at number 0: 'a' there, 'x' here"):
        load_rhn(file, "xbcdefg", rng=rng)
    with pytest.raises(DataError, match="holds no LSTM language model"):
        load_language_model(file, rng=rng)
    with pytest.raises(InputError, match="the model knows 7 words, the vocabulary holds 6"):
        save_rhn(file, small, words[:6])
    checkpoint.save(file, model=small)
    with pytest.raises(DataError, match="holds no highway network with a vocabulary"):
        load_rhn(file, rng=rng)
