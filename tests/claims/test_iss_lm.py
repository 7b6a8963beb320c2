"""The claim iss-lm on a very small model: units go by training, are taken out exactly, and the controls see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_lm = pytest.importorskip("minidl.claims.iss_lm")

TINY = dict(hidden=12, batch=8, steps=8, epochs=3, lasso_from=1, lasso_to=2, slow_after=2, words=6_000, vocabulary=40)


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


def test_an_interrupted_run_goes_on_behind_the_last_epoch_with_the_same_numbers(prepared, monkeypatch, tmp_path):
    whole, _ = measured()
    real, epochs = iss_lm.train_epoch, []

    def stopped(*args, **more):  # in the second epoch of the Lasso's model
        if len(epochs) == 4:
            raise KeyboardInterrupt
        epochs.append(real(*args, **more))

    monkeypatch.setattr(iss_lm, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path)
    done = []
    monkeypatch.setattr(iss_lm, "train_epoch", lambda *args, **more: done.append(real(*args, **more)))
    again, _ = measured(tmp_path)
    assert len(done) == 3 * TINY["epochs"] - 4
    for name in ("test perplexity of the dense model", "test perplexity of the small model"):
        assert again[name]["measured"] == whole[name]["measured"]


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
