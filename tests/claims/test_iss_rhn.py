"""The claim iss-rhn on a very small model: units go by training, are taken out exactly, and the controls see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_rhn = pytest.importorskip("minidl.claims.iss_rhn")


@pytest.fixture
def ran(monkeypatch):
    from minidl.data.text import english

    config = replace(iss_rhn.QUICK.config, width=10, depth=3, batch=8, steps=8, epochs=3)
    tiny = replace(
        iss_rhn.QUICK, config=config, lasso_from=1, lasso_to=2, words=3_000, vocabulary=40, lambdas=LAMBDAS
    )  # fmt: skip
    monkeypatch.setattr(iss_rhn, "QUICK", tiny)
    text = english()
    monkeypatch.setattr(claim, "load", lambda kind, folder: text)
    ctx = claim.Context(iss_rhn.CLAIM)
    iss_rhn.run(ctx)
    return {row["quantity"]: row for row in ctx.finish()}, ctx


LAMBDAS = (1e-6, 0.05)


def test_units_go_by_training_and_the_proof_can_fail(ran):
    rows, ctx = ran  # (a model that has learned this little does not miss random units: perplexity is not judged here)
    exact = rows["float64 difference between the emptied and the small model"]
    assert exact["outcome"] == "supported" and exact["control"]["outcome"] == "not shown"
    gone = rows["units removed by training"]
    assert 0 < gone["measured"] < 1 and gone["trials"] == 2 and gone["control"]["measured"] == 0
    anew = rows["validation perplexity at the end, small over dense"]
    assert "drawn anew" in anew["control"]["what"] and anew["control"]["measured"] != anew["measured"]
    assert rows["multiply-adds, dense over small"]["measured"] > 1
    assert rows["weights, dense over small"]["measured"] > 1
    assert len(ctx.figures) <= 1 and any("unread" in note for note in ctx.notes)
    (said,) = [note.splitlines() for note in ctx.notes if "model says" in note]
    assert [line.split(":")[0] for line in said] == ["the dense model says", "the small model says"]
    assert said[0].split(": ")[1] != said[1].split(": ")[1] and all(len(line.split()) > 40 for line in said)


def test_the_published_table_is_met_with_one_table_of_words_and_not_with_two():
    ctx = claim.Context(iss_rhn.CLAIM)
    iss_rhn.table(ctx)
    (row,) = ctx.rows
    assert row["outcome"] == "supported" and row["control"]["outcome"] == "not shown" and row["scale"] == "computed"
    np.testing.assert_allclose(row["measured"], [23.482, 18.880, 11.071, 7.621, 5.663], atol=5e-4)


def test_random_units_are_as_many_as_training_took():
    config = replace(iss_rhn.QUICK.config, width=10, depth=2)
    dense = iss_rhn.RHNLanguageModel(20, config, rng=np.random.default_rng(0))
    x = np.zeros((2, 3), int), dense.zero_states(3)
    silent = iss_rhn.at_random(dense, x, 6, np.random.default_rng(1))
    assert (silent.embedding.weight.data != 0).any(0).sum() == 6 and dense.embedding.weight.data.all()


def test_a_run_that_was_cut_off_goes_on_behind_the_last_epoch_with_the_same_numbers(tmp_path, monkeypatch):
    from minidl.data.text import english

    config = replace(iss_rhn.QUICK.config, width=10, depth=2, drop=(0.1,) * 4, batch=8, steps=8, epochs=3)
    s = replace(iss_rhn.QUICK, config=config, lasso_from=1, lasso_to=3, words=2_000, vocabulary=40)
    text = iss_rhn.reduced(english(), s)

    def trainer(folder):
        ctx = claim.Context(iss_rhn.CLAIM, parts=folder)
        return iss_rhn.Trainer(ctx, text, config, ctx.progress(0, "")), iss_rhn.new_model(ctx, text, config)

    whole, model = trainer(None)
    wanted = whole.train("Lasso", model, range(3), 0.05, 1)
    kept, begun = trainer(tmp_path)
    epochs, real = [], iss_rhn.train_epoch

    def counted(*args, **named):
        epochs.append(1)
        return real(*args, **named)

    monkeypatch.setattr(iss_rhn, "train_epoch", counted)
    kept.train("Lasso", begun, range(2), 0.05, 1)
    again, other = trainer(tmp_path)
    assert again.train("Lasso", other, range(3), 0.05, 1) == wanted and len(epochs) == 3
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array, err_msg=name)
