"""The claim iss-lm on a very small model: units go by training, are taken out exactly, and the controls see it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_lm = pytest.importorskip("minidl.claims.iss_lm")

TINY = dict(hidden=12, batch=8, steps=8, epochs=4, lasso_from=1, lasso_to=2, slow_after=2, words=6_000, vocabulary=40)


@pytest.fixture
def prepared(monkeypatch):
    from minidl.data.text import english

    setting = replace(iss_lm.QUICK, **TINY, lam=0.02, gone=0.3, direct=True)
    monkeypatch.setattr(iss_lm, "QUICK", setting)
    text = english()
    monkeypatch.setattr(claim, "load", lambda kind, folder: replace(text, valid=text.valid[:900], test=text.test[:900]))


def measured(parts=None):
    ctx = claim.Context(iss_lm.CLAIM, parts=parts)
    iss_lm.run(ctx)
    return {row["quantity"]: row for row in ctx.finish()}, ctx


def test_units_go_by_training_and_the_proof_can_fail(prepared):
    rows, ctx = measured()  # (a model that has learned this little does not miss random units: no perplexity is judged)
    exact = rows["float64 difference between the emptied and the small model"]
    assert exact["control"]["outcome"] == "not shown"
    assert exact["outcome"] == "supported"
    gone = rows["hidden units removed by training"]
    assert 0 < gone["measured"] < 1 and gone["control"]["measured"] == 0
    assert rows["multiply-adds, dense over small"]["measured"] > 1
    assert rows["test perplexity, small over the direct design of its sizes"]["measured"] > 0
    assert len(ctx.figures) <= 1 and ctx.notes
    anew = rows["validation perplexity at the end, small over dense"]
    curve = rows["validation perplexity of the re-initialised model at the end"]["measured"]
    dense = rows["validation perplexity of the dense model at the end"]["measured"]
    assert anew["control"]["measured"] == pytest.approx(curve / dense)
    cut = rows["validation perplexity, units taken out over still in"]
    assert cut["outcome"] == "supported" and cut["measured"] == pytest.approx(1, abs=1e-5)


def of_widths(widths, swapped=1.2):
    """A seed whose small model has these widths."""
    shrunk = SimpleNamespace(taken=1.0, swapped=swapped)
    return SimpleNamespace(widths=widths, shrunk=shrunk, curves={"small": [9.0] * 9})


def test_exchanged_sizes_are_reported_of_the_seeds_where_they_differ_and_judge_nothing():
    ctx = claim.Context(iss_lm.CLAIM)
    row = lambda quantity, values, **more: ctx.row(quantity, measured=values, **more)
    found = [of_widths((50, 59), 1.5), of_widths((50, 60), 1.2)]  # 9 and 10 of 200 units
    iss_lm.cut(ctx, replace(iss_lm.QUICK, hidden=100), found, row)
    _, swapped, _ = ctx.rows
    assert swapped["measured"] == [1.2] and not swapped["criterion"] and swapped["control"] is None
    assert "1 of 2 seeds" in ctx.notes[0]


def test_where_exchanging_changes_nothing_a_note_says_so():
    ctx = claim.Context(iss_lm.CLAIM)
    row = lambda quantity, values, **more: ctx.row(quantity, measured=values, **more)
    iss_lm.cut(ctx, replace(iss_lm.QUICK, hidden=100), [of_widths((50, 59))], row)
    assert len(ctx.rows) == 2 and "exchanging" in ctx.notes[0]


def test_exchanged_sizes_silence_as_many_units_of_each_layer(monkeypatch):
    from minidl.models.lstm_lm import LSTMLanguageModel

    model, seen = LSTMLanguageModel(20, 6, (6, 6), rng=np.random.default_rng(0)), []
    ids = np.arange(8, dtype=np.int32).reshape(4, 2)
    x = ids, model.zero_states(2)
    monkeypatch.setattr(iss_lm, "silence_", lambda model, chosen: seen.extend(chosen))
    iss_lm.without(model, [1, 4], x, [(ids, ids)], lambda norms, n: norms.argsort()[:n])
    assert [u.layer for u in seen] == ["layers.0"] + 4 * ["layers.1"]
    norms = iss_lm.GroupLasso(iss_lm.hidden_units(model, x), lam=1.0).norms().reshape(2, 6)
    assert [u.index for u in seen] == [norms[0].argmin(), *norms[1].argsort()[:4]]


@pytest.mark.parametrize("stop", [5, 13])  # in the second epoch of the Lasso's model, and of the re-initialised one
def test_an_interrupted_run_goes_on_behind_the_last_epoch_with_the_same_numbers(prepared, monkeypatch, tmp_path, stop):
    whole, _ = measured()
    real, epochs = iss_lm.train_epoch, []

    def stopped(*args, **more):
        if len(epochs) == stop:
            raise KeyboardInterrupt
        epochs.append(real(*args, **more))

    monkeypatch.setattr(iss_lm, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path)
    done = []
    monkeypatch.setattr(iss_lm, "train_epoch", lambda *args, **more: done.append(real(*args, **more)))
    again, _ = measured(tmp_path)
    assert len(done) == 3 * TINY["epochs"] + TINY["epochs"] - TINY["lasso_to"] - stop
    for name, row in whole.items():
        if "perplexity" in name:
            assert again[name]["measured"] == row["measured"] and again[name]["control"] == row["control"], name


def test_finished_seeds_are_loaded_and_neither_trained_nor_tested_again(prepared, monkeypatch, tmp_path):
    monkeypatch.setattr(iss_lm, "QUICK", replace(iss_lm.QUICK, seeds=2))
    real, epochs, tested, test = iss_lm.train_epoch, [], [], iss_lm.perplexity_of_text
    each = 3 * TINY["epochs"] + TINY["epochs"] - TINY["lasso_to"]

    def stopped(*args, **more):  # in the second seed's first epoch
        if len(epochs) == each:
            raise KeyboardInterrupt
        epochs.append(real(*args, **more))

    monkeypatch.setattr(iss_lm, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path)
    monkeypatch.setattr(iss_lm, "train_epoch", lambda *args, **more: epochs.append(real(*args, **more)))
    monkeypatch.setattr(iss_lm, "perplexity_of_text", lambda *args: tested.append(1) or test(*args))
    rows, _ = measured(tmp_path)
    assert len(epochs) == 2 * each and len(tested) == 3
    assert rows["test perplexity of the small model"]["seeds"] == 2


def test_of_one_seed_no_interval_is_claimed():
    assert iss_lm.interval([3.0]) is None
    low, high = iss_lm.interval([1.0, 3.0])
    assert (low, high) == (0.0, 4.0)


def test_the_most_frequent_words_keep_their_numbers():
    from minidl.data.text import UNK, english

    text = iss_lm.reduced(english(), replace(iss_lm.QUICK, **TINY))
    whole = english()
    unknown = text.vocabulary.index(UNK)
    assert len(text.train) == 6_000 and text.train.max() < 40 and text.vocabulary == whole.vocabulary[:40]
    known = whole.train[:6_000] < 40
    np.testing.assert_array_equal(text.train[known], whole.train[:6_000][known])
    assert (text.train[~known] == unknown).all()
