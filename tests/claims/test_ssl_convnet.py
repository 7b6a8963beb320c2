"""The claim ssl-convnet, made tiny: rows and columns of zeros are counted, removed and timed."""

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims import claim, ssl_convnet
from minidl.claims.claim import Context
from minidl.data.images import ImageSet


def made_up(*shape: int) -> ImageSet:
    """Noise with a brighter band for each class: quickly made, quickly learned."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for n in (96, 64):
        images, labels = rng.integers(0, 120, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[..., 2 * label : 2 * label + 6, :] += 120
        parts += [images, labels]
    return ImageSet("made up", "0", *parts)


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setattr(claim, "_loaded", {("cifar10", "None"): made_up(3, 32, 32)})

    def make(*lambdas):
        tiny = ssl_convnet.Setting(
            size=16, batch=8, base=20, lasso=12, fine_tune=3, rates=(1e-3,), lambdas=lambdas, images=64, held_back=32,
            test=64,
        )  # fmt: skip
        monkeypatch.setattr(ssl_convnet, "QUICK", tiny)
        return Context(ssl_convnet.CLAIM)

    return make


def test_rows_and_columns_become_zero_and_leave_exactly(context):
    ctx = context(0.15)
    ssl_convnet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    left = rows["multiply-adds of the three products left without zero rows and columns"]
    assert left["measured"] < 100 == left["control"]["measured"] and left["control"]["outcome"] == "not shown"
    proof = rows["float64 difference between the zeroed and the small network"]
    assert proof["outcome"] == "supported" and proof["control"]["outcome"] == "not shown"
    assert len(rows["speed-up of the products of conv1, conv2, conv3, one image"]["measured"]) == 3


def test_with_next_to_no_lambda_nothing_is_zero_and_the_claim_says_so(context):
    ctx = context(1e-9)
    ssl_convnet.run(ctx)
    assert {row["outcome"] for row in ctx.rows} == {"not shown"}
    assert ctx.rows[0]["measured"] == ctx.rows[1]["measured"] == [0, 0, 0] and ctx.rows[2]["measured"] == 100


def test_what_is_left_agrees_with_the_published_reductions():
    """Table 3: 1 - (1 - .281)(1 - .593) = 70.7 % of conv2 gone, 36.1 % of conv3."""
    model = ssl_convnet.convnet(rng=np.random.default_rng(0))
    model.conv2.weight.data[:9] = 0  # 28.1 % of the rows
    matrix = ssl_convnet.matrix(model, "conv2")
    matrix[:, : round(0.593 * 800)] = 0
    rows, columns = ssl_convnet.zeros(model)
    assert rows == [0, pytest.approx(28.1, abs=0.1), 0] and columns == [0, pytest.approx(59.3, abs=0.1), 0]
    gone, whole = 32 * 800 * 4 * 0.707, 32 * 75 * 16 + 32 * 800 * 4 + 64 * 800
    assert ssl_convnet.left(model) == pytest.approx(100 * (1 - gone / whole), abs=0.1)
