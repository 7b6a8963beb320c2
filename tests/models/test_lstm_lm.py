"""The language model of the paper: settings, schedules, training with carried state, text from it, its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minidl import Tensor
from minidl import checkpoint as checkpoints
from minidl.callbacks import Callback, SaveEvery
from minidl.data.text import batch_stream
from minidl.errors import DataError, InputError, MinidlError
from minidl.layers import cross_entropy
from minidl.models import SETTINGS, LSTMLanguageModel, generate, perplexity, rhn
from minidl.models.lstm_lm import cost, load_language_model, perplexity_of_text, save_language_model, train_epoch
from minidl.optim import SGD


def small(vocabulary=11, embedding=5, hidden=(4, 3), seed=0, **options):
    return LSTMLanguageModel(vocabulary, embedding, hidden, rng=np.random.default_rng(seed), **options)


def ids(n, vocabulary=11):
    return np.random.default_rng(1).integers(0, vocabulary, n)


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, rates",
    [
        ("small", {0: 1, 3: 1, 4: 0.5, 5: 0.25, 12: 0.5**9}),
        ("medium", {5: 1, 6: 0.8, 38: 0.8**33}),
        ("large", {13: 1, 14: 1 / 1.15, 54: 1.15**-41}),
        ("sparse-large", {0: 1, 17: 1, 18: 0.1, 35: 0.1, 36: 0.01, 53: 0.01, 54: 0.001}),
    ],
)
def test_the_published_learning_rates(name, rates):
    setting = SETTINGS[name]
    assert {epoch: setting.lr(epoch) for epoch in rates} == pytest.approx(rates)
    assert max(rates) == setting.epochs - 1 or name == "small" and setting.epochs == 13


def test_a_setting_makes_its_model():
    model = SETTINGS["small"].model(30, rng=np.random.default_rng(0))
    assert model.sizes == (30, 200, (200, 200)) and model.dropout.p == 0
    weights = np.concatenate([p.data.ravel() for p in model.parameters()])
    assert 0.099 < np.abs(weights).max() <= np.float32(0.1)
    direct = SETTINGS["sparse-large"].model(10, (37, 31), rng=np.random.default_rng(0))
    assert direct.sizes == (10, 1500, (37, 31)) and direct.dropout.p == pytest.approx(0.4)


def test_tied_weights_are_one_parameter_with_both_gradients():
    model = small(hidden=(4, 5), tied=True).astype(np.float64)
    assert model.output.weight is model.embedding.weight
    assert len(model.parameters()) == len(small(hidden=(4, 5)).parameters()) - 1
    x, y = ids(6).reshape(3, 2), ids(12)[6:].reshape(3, 2)
    cost(model, x, y, model.zero_states(2))[0].backward()
    both = model.embedding.weight.grad
    untied = small(hidden=(4, 5)).astype(np.float64)
    untied.load_state_dict(model.state_dict())
    cost(untied, x, y, untied.zero_states(2))[0].backward()
    np.testing.assert_allclose(both, untied.embedding.weight.grad + untied.output.weight.grad, rtol=1e-12)
    with pytest.raises(InputError, match="the last layer has 3 units, the embedding 5"):
        small(tied=True)


# -- the published numbers ---------------------------------------------------------------------------------------------
def test_the_cost_is_summed_over_steps_and_averaged_over_rows():
    model = small().astype(np.float64)
    x, y = ids(12).reshape(4, 3), ids(24)[12:].reshape(4, 3)
    total, _ = cost(model, x, y, model.zero_states(3))
    mean = cross_entropy(model(x, model.zero_states(3))[0], y.ravel()).item()
    assert total.item() == pytest.approx(4 * mean, rel=1e-12)
    assert perplexity(model, [(x, y)]) == pytest.approx(np.exp(mean), rel=1e-12)


def test_perplexity_of_a_text_is_batch_1_word_by_word_at_any_number_of_steps():
    model, text = small().astype(np.float64), ids(24)
    word_by_word = perplexity(model, batch_stream(text, 1, 1))
    for steps in (4, 23, 100):
        assert perplexity_of_text(model, text, steps) == pytest.approx(word_by_word, rel=1e-12)
    assert perplexity(model, batch_stream(text, 1, 7)) != pytest.approx(word_by_word, rel=1e-6)  # leaves two words out


def by_hand(model, stream, clip, lr, penalty=lambda p: 0.0):
    """Truncated back-propagation written out: the state carried as arrays, gradients clipped by their joint norm."""
    states = None
    for x, y in stream:
        states = model.zero_states(x.shape[1]) if states is None else states
        logits, after = model(x, states)
        states = [tuple(Tensor(part.data.copy()) for part in state) for state in after]
        for p in model.parameters():
            p.grad = None
        (cross_entropy(logits, y.ravel()) * len(x)).backward()
        total = [p.grad + penalty(p.data) for p in model.parameters()]
        norm = np.sqrt(sum((g**2).sum() for g in total))
        for p, g in zip(model.parameters(), total, strict=True):
            p.data = p.data - lr * g * min(1, clip / norm)


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_an_epoch_is_truncated_backpropagation_with_carried_state_and_a_shorter_last_batch(clip):
    mine, theirs = (small(init_scale=0.5).astype(np.float64) for _ in range(2))
    stream = list(batch_stream(ids(50), 3, 4, rest=True))
    assert [len(x) for x, _ in stream] == [4, 4, 4, 3]
    before = perplexity(mine, stream)
    said = train_epoch(mine, stream, SGD(mine.parameters(), lr=0.3), clip=clip)
    by_hand(theirs, stream, clip, 0.3)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-11, atol=1e-13)
    assert perplexity(mine, stream) < said < before * 1.5


def test_a_penalty_in_the_gradient_is_clipped_with_it_as_published():
    class Pull(Callback):
        def after_backward(self, run):
            for p in run.model.parameters():
                p.grad = p.grad + 0.7 * p.data

    mine, theirs = (small(init_scale=0.5).astype(np.float64) for _ in range(2))
    stream = list(batch_stream(ids(50), 3, 4))
    train_epoch(mine, stream, SGD(mine.parameters(), lr=0.3), clip=0.5, callbacks=[Pull()])
    by_hand(theirs, stream, 0.5, 0.3, penalty=lambda w: 0.7 * w)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-11, atol=1e-13)


def test_what_does_not_fit_is_said():
    model = small()
    with pytest.raises(InputError, match="1 states for 2 layers: begin with"):
        model(np.zeros((2, 3), int), model.zero_states(3)[:1])
    with pytest.raises(InputError, match="hidden is empty"):
        small(hidden=())
    with pytest.raises(InputError, match="clip 0: the limit .* above 0"):
        train_epoch(model, [], SGD(model.parameters(), lr=0.1), clip=0)
    with pytest.raises(InputError, match="ids are float64; they must be integers"):
        model(np.zeros((2, 3)), model.zero_states(3))
    with pytest.raises(InputError, match="1 word is too short for batch 1 .* 2 batch = 2 at least: give a longer text"):
        perplexity_of_text(model, ids(1))


def test_no_words_have_no_perplexity():
    with pytest.raises(InputError, match="the stream is empty"):
        perplexity(small(), [])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_stops_with_the_step_the_layer_and_the_checkpoint(tmp_path):
    class Poison(Callback):
        def after_backward(self, run):
            if run.step == 5:
                run.model.layers[1].bias.grad = np.full_like(run.model.layers[1].bias.grad, np.nan)

    stream = list(batch_stream(ids(90), 3, 4))
    model = small(keep=0.5)
    saver = SaveEvery(tmp_path / "lm.npz", 2)
    with pytest.raises(MinidlError, match="gradient is not finite at step 5 .*checkpoint is .*lm.npz"):
        train_epoch(model, stream, SGD(model.parameters(), lr=0.1), clip=5, callbacks=[Poison(), saver])
    assert all(np.isfinite(p.data).all() for p in model.parameters())
    assert checkpoints.load(tmp_path / "lm.npz").step == 4
    model.layers[0].weight_hh.data = np.full_like(model.layers[0].weight_hh.data, np.nan)
    with pytest.raises(MinidlError, match="cost is nan at step 0 .*layers.0.weight_hh.*no SaveEvery"):
        train_epoch(model, stream, SGD(model.parameters(), lr=0.1), clip=5)


# -- text --------------------------------------------------------------------------------------------------------------
class Even:
    """In the place of a Generator: every number between 0 and 1 equally often."""

    def random(self, n):
        return (np.arange(n) + 0.5) / n


def test_generated_words_follow_the_models_chances():
    model = small(vocabulary=4, init_scale=1.5)
    for p in (model.output.weight, model.output.bias):
        p.data = p.data * (0 if p.ndim == 2 else 1)  # every word then has the same chances, whatever came before
    for temperature in (1.0, 0.5):
        words = generate(model, [1], 200, temperature, rng=Even())
        expected = np.exp(model.output.bias.data / temperature)
        np.testing.assert_allclose(np.bincount(words, minlength=4) / 200, expected / expected.sum(), atol=0.006)
    assert (generate(model, [1], 20, 0, rng=np.random.default_rng(0)) == model.output.bias.data.argmax()).all()


def test_generation_carries_the_state_and_reads_the_whole_prompt():
    model = small(init_scale=2.0, keep=0.5, seed=5)
    words = generate(model, [3, 1, 4], 12, 0, rng=np.random.default_rng(0))
    model.eval()
    said = [3, 1, 4]
    for _ in range(12):
        logits, _ = model(np.array(said)[:, None], model.zero_states(1))
        said.append(int(logits.data[-1].argmax()))
    assert said[3:] == words.tolist() and len(set(said[3:])) > 1
    assert generate(model.train(), [3, 1, 4], 2, 0, rng=np.random.default_rng(0)).tolist() == said[3:5]
    assert model.training


@pytest.mark.parametrize(
    "prompt, temperature, words",
    [
        ([], 1, "the prompt is empty"),
        ([1], -1, "temperature -1"),
        ([11], 1, "from 11 to 11, the table has 11"),
        ("the market", 1, r"the prompt is text, 'the market': give .* text.numbers"),
    ],
)
def test_bad_prompts(prompt, temperature, words):
    with pytest.raises(InputError, match=words):
        generate(small(), prompt, 3, temperature, rng=np.random.default_rng(0))


def test_less_than_no_word_is_refused():
    with pytest.raises(InputError, match="-1 words to say"):
        generate(small(), [1], -1, rng=np.random.default_rng(0))


# -- the file ----------------------------------------------------------------------------------------------------------
WORDS = tuple("abcdefghijk")


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_comes_back_with_its_words_and_its_sizes(tmp_path, tied):
    model = small(hidden=(4, 5), keep=0.7, tied=tied)
    save_language_model(tmp_path / "lm.npz", model, WORDS)
    again, words = load_language_model(tmp_path / "lm.npz", WORDS, rng=np.random.default_rng(9))
    assert words == WORDS and again.sizes == model.sizes and again.dropout.p == pytest.approx(0.3)
    assert (again.output.weight is again.embedding.weight) == tied
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)


def test_another_vocabulary_is_refused(tmp_path):
    save_language_model(tmp_path / "lm.npz", small(), WORDS)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="11 words there, 11 here, first different at number 2: 'c' there, 'x' here"):
        load_language_model(tmp_path / "lm.npz", "abxdefghijk", rng=rng)
    with pytest.raises(InputError, match="11 words there, 10 here, first different at number 10: 'k' there, nothing"):
        load_language_model(tmp_path / "lm.npz", WORDS[:10], rng=rng)
    with pytest.raises(InputError, match="knows 11 words, the vocabulary holds 10"):
        save_language_model(tmp_path / "lm.npz", small(), WORDS[:10])
    checkpoints.save(tmp_path / "plain.npz", model=small())
    with pytest.raises(DataError, match="holds no LSTM language model with a vocabulary"):
        load_language_model(tmp_path / "plain.npz", rng=rng)


def test_a_model_with_another_kind_of_state_is_trained_and_asked_alike():
    config = replace(rhn.DENSE, depth=2, width=5, drop=(0.0,) * 4)
    model = rhn.RHNLanguageModel(11, config, rng=np.random.default_rng(0))
    stream = list(batch_stream(ids(50), 3, 4, rest=True))
    before = perplexity(model, stream)
    for _ in range(3):
        train_epoch(model, stream, SGD(model.parameters(), lr=0.1), clip=5)
    assert perplexity(model, stream) < before
    assert len(generate(model, [1], 4, rng=np.random.default_rng(0))) == 4
