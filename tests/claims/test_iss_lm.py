"""The claim iss-lm on a very small model: units go by training, are taken out exactly, and the controls see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_lm = pytest.importorskip("minidl.claims.iss_lm")

TINY = dict(hidden=12, batch=8, steps=8, epochs=3, lasso_from=1, lasso_to=2, slow_after=2, words=6_000, vocabulary=40)


@pytest.fixture
def ran(monkeypatch):
    from minidl.data.text import english

    monkeypatch.setattr(iss_lm, "QUICK", replace(iss_lm.QUICK, **TINY, lambdas=(0.0001, 0.006)))
    text = english()
    monkeypatch.setattr(claim, "load", lambda kind, folder: replace(text, valid=text.valid[:900], test=text.test[:900]))
    ctx = claim.Context(iss_lm.CLAIM)
    iss_lm.run(ctx)
    return {row["quantity"]: row for row in ctx.finish()}, ctx


def test_units_go_by_training_and_the_proof_can_fail(ran):
    rows, ctx = ran  # (a model that has learned this little does not miss random units: perplexity is not judged here)
    exact = rows["float64 difference between the emptied and the small model"]
    assert exact["control"]["outcome"] == "not shown"
    assert exact["outcome"] == "supported"
    gone = rows["hidden units removed by training"]
    assert 0 < gone["measured"] < 1 and gone["trials"] == 2 and gone["control"]["measured"] == 0
    assert rows["multiply-adds, dense over small"]["measured"] > 1
    assert len(ctx.figures) <= 1 and ctx.notes


def test_the_most_frequent_words_keep_their_numbers():
    from minidl.data.text import UNK, english

    text = iss_lm.reduced(english(), replace(iss_lm.QUICK, **TINY))
    whole = english()
    unknown = text.vocabulary.index(UNK)
    assert len(text.train) == 6_000 and text.train.max() < 40 and text.vocabulary == whole.vocabulary[:40]
    known = whole.train[:6_000] < 40
    np.testing.assert_array_equal(text.train[known], whole.train[:6_000][known])
    assert (text.train[~known] == unknown).all()
