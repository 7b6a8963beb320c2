"""The claim ssl-lenet, made tiny: it runs through, every control can fail, and its two ends are honest."""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("minidl.claims")
pytest.importorskip("mlxtend")

from minidl.claims import claim, ssl_lenet
from minidl.claims.claim import Context
from minidl.claims.lab import Schedule
from minidl.claims.shrinking import caffe_sgd
from minidl.claims.ssl_lenet import LENET2, LENET3, LENET4, LENET5, total
from minidl.data import images


@pytest.fixture(scope="module")
def digits():
    whole = images.mnist_5k()
    return dataclasses.replace(whole, test_images=whole.test_images[:100], test_labels=whole.test_labels[:100])


@pytest.fixture
def context(monkeypatch, digits):
    monkeypatch.setattr(claim, "_loaded", {("mnist", "None"): digits})
    monkeypatch.setattr(ssl_lenet, "speed_up", functools.partial(ssl_lenet.speed_up, rounds=3))

    def make(filters, columns, rows, trial=(12, 3), final=None, **more):
        short = Schedule(0.03, *trial)
        tiny = dataclasses.replace(
            ssl_lenet.QUICK, trial=short, final=short if final is None else Schedule(0.03, *final), held_back=100,
            lambdas={"filter+channel": filters, "column": columns}, rows=tuple((row, 99.0) for row in rows),
        )  # fmt: skip
        monkeypatch.setattr(ssl_lenet, "QUICK", tiny)
        return Context(ssl_lenet.CLAIM, **more)

    return make


def test_it_measures_every_quantity_and_the_controls_of_exactness_fail(context):
    ctx = context((0.09,), (0.08,), (LENET3, LENET5), trial=(40, 4))
    ssl_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    kept = rows["LeNet 3: filters kept in conv1 and conv2"]
    assert sum(kept["measured"]) < 70 and kept["control"]["measured"] == [20, 50]
    assert kept["control"]["outcome"] == "not shown"
    shapes = rows["LeNet 5: weights of a filter kept in conv1 and conv2"]
    assert shapes["measured"][1] < 100 and shapes["control"]["measured"] == [25, 500]
    macs = rows["LeNet 5: multiply-adds of conv1 and conv2"]["measured"]  # the paper's own arithmetic
    left = rows["LeNet 5: channels that conv2 reads"]["measured"]
    assert macs == pytest.approx([100 * left * shapes["measured"][0] / 500, 100 * shapes["measured"][1] / 500])
    for name in ("LeNet 3", "LeNet 5"):
        proof = rows[f"{name}: float64 difference between the zeroed and the small network"]
        assert proof["outcome"] == "supported" and proof["control"]["outcome"] == "not shown"
    assert len(ctx.figures) == 2 and "lambda 0.09" in ctx.notes[0] and "reduced GEMM" in "".join(ctx.notes)


def test_with_next_to_no_lambda_nothing_is_removed_and_the_claim_says_so(context):
    ctx = context((1e-9,), (1e-9,), (LENET3, LENET5))
    ssl_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    assert rows["LeNet 3: filters kept in conv1 and conv2"]["measured"] == [20, 50]
    assert rows["LeNet 5: weights of a filter kept in conv1 and conv2"]["measured"] == [25, 500]
    judged = [row for row in ctx.rows if "kept" in row["quantity"] or "multiply-adds" in row["quantity"]]
    assert len(judged) == 4 and all(row["outcome"] == "not shown" for row in judged)


@pytest.mark.slow
def test_short_trials_choose_for_the_long_runs_and_an_interrupted_claim_goes_on(context, tmp_path, monkeypatch):
    ctx = context((0.06, 0.09), (0.08,), (LENET2,), trial=(20, 2), final=(30, 3), parts=tmp_path)
    ssl_lenet.run(ctx)
    assert len(ctx.figures) == 2  # filters, and error against multiply-adds
    assert {row["trials"] for row in ctx.rows if row["quantity"].startswith("LeNet 2")} == {2}
    parts = len(list(tmp_path.iterdir()))
    assert parts == 1 + 3 + 1 + 1 + 1 + 1  # dense, trials, dense, without prox, final, re-initialised
    monkeypatch.setattr(ssl_lenet.LeNetLab, "train", None)  # nothing is trained any more
    again = context((0.06, 0.09), (0.08,), (LENET2,), trial=(20, 2), final=(30, 3), parts=tmp_path)
    ssl_lenet.run(again)
    timed = "speed-up"
    assert [r["measured"] for r in again.rows if timed not in r["quantity"]] == [
        r["measured"] for r in ctx.rows if timed not in r["quantity"]
    ]


def test_the_published_shares_follow_from_the_published_sizes():
    for row in (LENET2, LENET3):
        (a, b), c = row.kept, row.channels
        assert row.share == pytest.approx((100 * a / 20, 100 * b * c / 1000), abs=0.05)
    for row in (LENET4, LENET5):
        (a, b), c = row.kept, row.channels
        assert row.share == pytest.approx((100 * a * c / 500, 100 * b / 500), abs=0.05)
    assert total((100, 100)) == pytest.approx(100) and total((25, 7.6)) == pytest.approx(10.25, abs=0.01)


def test_with_another_momentum_a_gradient_leads_as_far(context):
    ctx = context((0.1,), (0.1,), (LENET3,))
    lab = ssl_lenet.LeNetLab(ctx, ctx.dataset("mnist").split(), 10)
    seen = []
    model = lab.fresh()
    optimizer = caffe_sgd(model)
    for momentum in (0.9, 0.97):
        optimizer.momentum = momentum
        lab.train(model, optimizer, range(1), lambda k: 0.01, after_step=lambda k: seen.append(optimizer.lr))
    assert np.allclose(seen, [0.01, 0.003])
