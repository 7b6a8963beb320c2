"""The claim terngrad-clip in small, its closed form against integration, and its errors against drawn trits."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.ternary.ternarise import draw_key, scale_of, ternarise

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
clip = pytest.importorskip("minidl.claims.terngrad_clip", reason="minidl/claims is not there")


def digits(count=256):
    """Ten easy classes: a bright row at the height of the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    images[np.arange(count), 2 * labels + 4] = 255
    return SimpleNamespace(name="bars", sha256="0", train_images=images, train_labels=labels)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.5, 5.0])
def test_the_closed_form_is_the_integral(c):
    x = np.linspace(-12, 12, 240_001)
    weight = np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    y = np.clip(x, -c, c)
    mean = lambda values: float((weight * values).sum())
    one = clip.gaussian(c)
    assert one.bias2 == pytest.approx(mean((x - y) ** 2), abs=1e-8)
    assert one.noise == pytest.approx(mean(np.abs(y) * (c - np.abs(y))), abs=1e-8)
    assert one.length == pytest.approx(math.sqrt(mean(y * y)), abs=1e-8)
    assert one.zeros == pytest.approx(1 - mean(np.abs(y)) / c, abs=1e-8)
    cosine = mean(x * y) / math.sqrt(mean(y * y))
    assert math.cos(math.radians(one.degrees)) == pytest.approx(cosine, abs=1e-8)


def test_golden_numbers():
    one = clip.gaussian(2.5)
    assert (round(one.length, 4), round(one.degrees, 2), round(100 * one.zeros, 1)) == (0.9887, 2.75, 68.2)


@pytest.mark.parametrize("c", [1.0, 2.5, None])
def test_the_expected_error_is_that_of_drawn_trits(c):
    """Three workers, two tensors, one of them below the size at which a clip is made; 400 draws."""
    rng = np.random.default_rng(1)
    shares = [[rng.standard_t(4, size).astype(np.float32) for size in (500, 20)] for _ in range(3)]
    mean = [np.mean(of_workers, axis=0) for of_workers in zip(*shares, strict=True)]
    found, steps = 0.0, 400
    for k, of_workers in enumerate(zip(*shares, strict=True)):
        own = [np.array([scale_of(g, c)]) for g in of_workers]
        s = max(own)
        for step in range(steps):
            drawn = [
                ternarise(g, s, draw_key(0, step, w, k), o, g.size)
                for w, (g, o) in enumerate(zip(of_workers, own, strict=True))
            ]
            found += float(np.square(s * np.mean(drawn, axis=0) - mean[k]).sum()) / steps
    found /= sum(float(m @ m) for m in mean)
    assert clip.relative_errors(shares, [c])[c] == pytest.approx(found, rel=0.02)


def test_the_claim_in_small(monkeypatch):
    ctx = claim.Context(clip.CLAIM)
    monkeypatch.setattr(ctx, "dataset", lambda kind: digits())
    for name, value in dict(QUICK_SIZE=2**14, QUICK_AT=(0, 1), QUICK_COUNTS=(1, 2)).items():
        monkeypatch.setattr(clip, name, value)
    clip.run(ctx)
    rows = {row["quantity"].partition(":")[0]: row for row in ctx.finish()}
    assert claim.why_broken(list(rows.values())) is None
    formula = next(row for name, row in rows.items() if name.startswith("squared error of ternary Gaussian"))
    assert formula["outcome"] == "supported" and formula["control"]["measured"] > 10_000, "512 equal ones are one"
    bests = dict(zip(map(str, clip.WORKERS), (1.02, 1.23, 1.45, 1.69, 1.92, 2.15, 2.38, 2.59, 2.8, 3.0), strict=True))
    assert rows["best c by the formula, 1 to 512 workers"]["measured"] == bests
    assert len(ctx.figures) <= 1


def test_a_clip_that_is_right_everywhere_or_nowhere_is_said_to_be():
    ctx, fails = claim.Context(clip.CLAIM), {"c = 5": {2: 3.0, 64: 3.0}}
    for published in ({2: 1.1, 64: 1.2}, {2: 3.0, 64: 1.1}, {2: 3.0, 64: 2.0}):
        clip.judge(ctx, "made up", published, fails, "computed")
    assert [row["outcome"] for row in ctx.rows] == ["supported", "not shown", "contradicted"]
