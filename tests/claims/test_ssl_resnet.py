"""The claim ssl-resnet, made tiny: layers really leave, and the two ends of lambda are honest."""

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims import claim, ssl_resnet
from minidl.claims.claim import Context
from minidl.claims.trainings import pictures
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

    def make(lam, published=None):
        tiny = ssl_resnet.Setting(
            layers=8, rates=(1e-3,), lam=lam, gone=(0.5,), published=published, batch=8, lasso=12, fine_tune=2,
            images=64, held_back=32, test=64,
        )  # fmt: skip
        monkeypatch.setattr(ssl_resnet, "QUICK", tiny)
        return Context(ssl_resnet.CLAIM)

    return make


def test_layers_leave_and_every_control_of_what_is_exact_fails(context):
    ctx = context(400)
    ssl_resnet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    layers = rows["layers left of 8"]
    assert layers["measured"] < 8 == layers["control"]["measured"] and layers["outcome"] == "supported"
    proof = rows["float64 difference between the zeroed and the small network"]
    assert proof["outcome"] == "supported" and proof["control"]["outcome"] == "not shown"
    assert rows["multiply-adds left"]["measured"] < 100 and "branch" in ctx.notes[1]


def test_the_weights_are_gone_from_the_state(context):
    ctx = context(400)
    s = ssl_resnet.QUICK
    data = pictures(ctx.dataset("cifar10"), size=16, held_back=32, scale=True, train=64, test=8)
    r = ssl_resnet.Lab(ctx, s, data).shrunk(0.5)
    assert r.gone
    for k in r.gone:
        assert not [name for name in r.small.state_dict() if name.startswith(f"blocks.{k}.conv")]
    assert len(ssl_resnet.convolutions(r.small)) == 6 - 2 * len(r.gone)
    x = data.held_back[0][:4].astype(np.float64)
    zeroed, cut = (ssl_resnet.predict(m.astype(np.float64), x) for m in (r.zeroed, r.cut))
    assert np.abs(zeroed - cut).max() < 1e-4 * np.abs(zeroed).max()  # what was folded is float32


def test_with_next_to_no_lambda_no_layer_leaves_and_the_claim_says_so(context):
    ctx = context(1e-6, published=1e-9)
    ssl_resnet.run(ctx)
    assert [row["outcome"] for row in ctx.rows] == ["not shown"] * 2
    assert [row["measured"] for row in ctx.rows] == [8, 8]


def test_the_fewest_layers_are_taken_among_those_that_are_good_enough():
    class Found:
        def __init__(self, gone, error):
            self.gone, self.error, self.certificate = [0] * gone, error, object()

    found = [Found(1, 5.0), Found(3, 5.9), Found(5, 9.0)]
    assert ssl_resnet.taken(found, 6.0) is found[1]
    assert ssl_resnet.taken(found, 4.0) is found[0]
