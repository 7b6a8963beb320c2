"""The claim smoothout-f1, in the small: pairing, the control's bits, and that its criteria can hold and fail."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims import smoothout_f1 as claim
from minidl.claims.claim import Context, why_broken


class NoBar:
    def update(self):
        pass


@pytest.fixture
def ctx():
    return Context(claim.CLAIM)


@pytest.fixture
def task(rng):
    """Ten blurred prototypes of random pixels, 300 images: ghost batches of 128 and a ragged rest."""
    y = rng.integers(0, 10, 300)
    x = (rng.random((10, 784))[y] + rng.normal(0, 0.5, (300, 784))).astype(np.float32)
    return claim.Task(x, y, x[:50], y[:50], hidden=8, epochs=3, large=256, held_back=60, measured=100)


def bits(model):
    return b"".join(array.tobytes() for array in model.state_dict().values())


def test_the_control_has_the_bits_of_the_large_batch_and_noise_has_not(ctx, task):
    large = claim.Method("large batch", task.large, 0.1)
    trained = {a: bits(claim.train(ctx, task, NoBar(), dataclasses.replace(large, a=a), 0)) for a in (None, 0.0, 0.01)}
    assert trained[0.0] == trained[None] != trained[0.01]


def test_one_seed_gives_the_same_network_and_the_same_measurement(ctx, task):
    pytest.importorskip("scipy")
    method = claim.Method("large batch + SmoothOut", task.large, 0.1, a=0.01)
    ones, others = (
        claim.measure(ctx, task, claim.train(ctx, task, NoBar(), method, 3), 3) for _ in range(2)
    )  # fmt: skip
    assert (ones.accuracy, ones.sharpness) == (others.accuracy, others.sharpness)
    np.testing.assert_array_equal(ones.curve, others.curve)


def test_a_setting_that_cannot_learn_is_not_chosen(ctx, task):
    good, frozen = claim.Method("small batch", 128, 0.1), claim.Method("small batch", 128, 0.0)
    assert claim.choose(ctx, task, NoBar(), [frozen, good]) is good


def rows_of(ctx, gain, factor, rng):
    """The rows where SmoothOut gains so many points and multiplies sharpness so, with a little scatter."""
    curve = np.zeros(len(claim.CURVE))
    large = [claim.Result(93 + rng.normal(), 2 * np.exp(rng.normal()), curve) for _ in claim.SEEDS]
    small = [claim.Result(r.accuracy + 1, r.sharpness / 3, curve) for r in large]
    scatter = rng.uniform(-0.1, 0.1, len(large))
    smooth = [
        claim.Result(r.accuracy + gain + s, r.sharpness * factor * np.exp(s), curve)
        for r, s in zip(large, scatter, strict=True)
    ]
    methods = [claim.Method(name, 128, 0.1) for name in ("small", "large", "smooth")]
    found = dict(zip(methods, (small, large, smooth), strict=True))
    claim.report(ctx, methods, found, large[: len(claim.CONTROL_SEEDS)], "reduced")
    return {row["quantity"]: row for row in ctx.rows}


@pytest.mark.parametrize("gain, factor, outcome", [(1, 0.5, "supported"), (0, 1, "not shown"), (-1, 2, "contradicted")])
def test_the_criteria_can_hold_and_fail_and_the_control_never_meets_them(ctx, rng, gain, factor, outcome):
    rows = rows_of(ctx, gain, factor, rng)
    for quantity in ("accuracy, large batch with SmoothOut minus", "sharpness, large batch with SmoothOut over"):
        row = rows[f"{quantity} without"]
        assert row["outcome"] == outcome
        assert row["control"]["outcome"] == "not shown"
        assert row["interval"][0] < row["measured"] < row["interval"][1]
    assert why_broken(ctx.rows) is None
