"""The claim ssl-one-shot, made tiny: where units leave, the loss goes on; where random ones do, it jumps."""

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims import claim, ssl_one_shot
from minidl.claims.claim import Context
from minidl.data.images import ImageSet


def made_up(*shape: int) -> ImageSet:
    """Noise with a brighter band for each class: quickly made, quickly learned."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for n in (600, 64):
        images, labels = rng.integers(0, 120, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[..., 2 * label : 2 * label + 6, :] += 120
        parts += [images, labels]
    return ImageSet("made up", "0", *parts)


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setattr(claim, "_loaded", {("mnist", "None"): made_up(28, 28)})

    def make(*trials):
        tiny = ssl_one_shot.Setting(trials=trials, lasso=20, steps=30, every=10, held_back=100)
        monkeypatch.setattr(ssl_one_shot, "QUICK", tiny)
        return Context(ssl_one_shot.CLAIM)

    return make


def test_units_leave_without_a_jump_and_random_ones_with_one(context):
    ctx = context((0.03, 0.2))
    ssl_one_shot.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    left = rows["filters of conv1 and conv2 left"]
    assert sum(left["measured"]) < 70 and left["control"]["measured"] == [20, 50]
    jump = rows["largest jump of the loss where units are taken out, relative"]
    assert jump["outcome"] == "supported" and jump["control"]["outcome"] == "not shown"
    assert jump["control"]["measured"] > 100 * jump["measured"] > 0


def test_with_next_to_no_lambda_nothing_leaves_and_no_row_says_otherwise(context):
    ctx = context((0.03, 1e-9))
    ssl_one_shot.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    assert rows["filters of conv1 and conv2 left"]["measured"] == [20, 50]
    assert rows["filters of conv1 and conv2 left"]["outcome"] == "not shown"
    assert rows["largest jump of the loss where units are taken out, relative"]["outcome"] == "not shown"


def test_the_clock_counts_the_attempts_and_stops_where_the_error_is_reached():
    s = ssl_one_shot.Setting(trials=(), lasso=20, steps=30, every=10, held_back=1)
    course = {"step_seconds": [0.1, 0.2, 0.1], "cut_seconds": [0.5, 0.5, 0.0]}
    np.testing.assert_allclose(ssl_one_shot.clock(s, course, False), [1, 3, 4])
    np.testing.assert_allclose(with_cuts := ssl_one_shot.clock(s, course, True), [1.5, 4, 5])
    assert ssl_one_shot.first_at(with_cuts, [9, 5, 6], 6) == 4
    assert ssl_one_shot.first_at(with_cuts, [9, 8, 7], 6) == np.inf
