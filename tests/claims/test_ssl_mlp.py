"""The claim ssl-mlp, made tiny: neurons go, pixels are counted, the paper's percentages follow from its sizes."""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("minidl.claims")
pytest.importorskip("mlxtend")

from minidl.claims import claim, ssl_mlp
from minidl.claims.claim import Context
from minidl.claims.lab import Schedule
from minidl.claims.ssl_mlp import MLP2, MLP3, SIZES
from minidl.data import images
from minidl.errors import InputError


@pytest.fixture(scope="module")
def digits():
    whole = images.mnist_5k()
    return dataclasses.replace(whole, test_images=whole.test_images[:100], test_labels=whole.test_labels[:100])


@pytest.fixture
def context(monkeypatch, digits):
    monkeypatch.setattr(claim, "_loaded", {("mnist", "None"): digits})
    monkeypatch.setattr(ssl_mlp, "speed_up", functools.partial(ssl_mlp.speed_up, rounds=3))

    def make(lam, lasso=60, **more):
        short = Schedule(0.2, lasso, 8)
        tiny = dataclasses.replace(ssl_mlp.QUICK, trial=short, final=short, lambdas=(lam,), held_back=100)
        monkeypatch.setattr(ssl_mlp, "QUICK", tiny)
        return Context(ssl_mlp.CLAIM, **more)

    return make


def test_neurons_and_pixels_go_and_the_rows_say_how_many(context):
    ctx = context(0.015)
    ssl_mlp.run(ctx)
    rows = {row["quantity"].removeprefix("MLP 2: "): row for row in ctx.rows}
    found = rows["pixels and neurons left"]
    assert found["measured"][0] < 784 and sum(found["measured"][1:]) < 800
    assert found["control"]["measured"] == [784, 500, 300] and found["control"]["outcome"] == "not shown"
    sizes = [*found["measured"], 10]
    shares = [100 * a * b / (c * d) for a, b, c, d in zip(sizes, sizes[1:], SIZES, SIZES[1:], strict=False)]
    assert rows["multiply-adds of the three layers"]["measured"] == pytest.approx(shares)
    assert rows["multiply-adds of the three layers"]["control"]["measured"] == 100
    border = rows["of them outside the central 20 x 20 pixels"]
    assert border["control"]["measured"] < 65 < border["measured"]
    proof = rows["float64 difference between the zeroed and the small network"]
    assert proof["outcome"] == "supported" and proof["control"]["outcome"] == "not shown"
    assert len(ctx.figures) == 1 and "pinned" in "".join(ctx.notes)


def test_with_next_to_no_lambda_nothing_goes(context):
    ctx = context(1e-9, lasso=40)
    ssl_mlp.run(ctx)
    rows = {row["quantity"].removeprefix("MLP 2: "): row for row in ctx.rows}
    assert rows["pixels and neurons left"]["measured"] == [784, 500, 300]
    assert rows["pixels and neurons left"]["outcome"] == "not shown"
    assert rows["multiply-adds of the three layers"]["outcome"] == "not shown"


def test_the_published_percentages_follow_from_the_published_sizes():
    for row in (MLP2, MLP3):
        sizes = [*row.left, 10]
        shares = [100 * a * b / (c * d) for a, b, c, d in zip(sizes, sizes[1:], SIZES, SIZES[1:], strict=False)]
        assert row.share == pytest.approx(shares, abs=0.02)


def test_fine_tuning_leaves_unread_pixels_unread(context):
    ctx = context(0.015)
    lab = ssl_mlp.MlpLab(ctx, ctx.dataset("mnist").split(), 100)
    r = lab.shrunk(ssl_mlp.BY, 0.015, ssl_mlp.QUICK.trial)
    cut, small = (m[0].weight.data.any(0) for m in (r.cut, r.small))
    assert not cut.all() and np.array_equal(cut, small)
    assert not np.array_equal(r.cut[0].weight.data, r.small[0].weight.data)


def test_the_last_step_of_the_lasso_must_be_a_proximal_one(context):
    ctx = context(0.015)
    lab = ssl_mlp.MlpLab(ctx, ctx.dataset("mnist").split(), 100)
    with pytest.raises(InputError, match="10 steps .* every 4"):
        lab.shrunk(ssl_mlp.BY, 0.015, Schedule(0.2, 10, 2))
