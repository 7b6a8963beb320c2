"""The claim terngrad-bound in small, and its ratios against what the formulas say."""

from types import SimpleNamespace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
bound = pytest.importorskip("minidl.claims.terngrad_bound", reason="minidl/claims is not there")


def some_gradient(rng):
    """Two layers, the second 100 times smaller."""
    sizes = {"a.weight": (2000, 1.0), "a.bias": (100, 0.5), "b.weight": (3000, 0.01), "b.bias": (100, 0.01)}
    return {name: (size * rng.standard_normal(count)).astype(np.float32) for name, (count, size) in sizes.items()}


def test_the_ratio_is_the_largest_times_the_sum_over_the_square():
    g = np.array([3.0, -4.0, 1.0, 0.0], np.float32)
    assert bound.ratio([g]) == pytest.approx(4 * 8 / 26)
    assert bound.ratio([g[:2], g[2:]]) == pytest.approx((4 * 7 + 1 * 1) / 26)
    assert bound.ratio([g], block=1) == pytest.approx(1), "a scale for each number: the float gradient"
    assert bound.ratio([np.full(100, 2.0)]) == pytest.approx(1), "nothing is longer where all are equal"


def test_finer_scales_come_nearer_and_exchanged_numbers_do_not():
    rng = np.random.default_rng(0)
    found = bound.schemes(some_gradient(rng), rng)
    assert found["network"] > found["layer"] >= found["tensor"] > found["block"] > 1
    assert found["tensor"] > found["tensor, clipped"] and found["tensor"] == found["tensor, hardly clipped"]
    assert found["exchanged"] > 0.8 * found["network"]


def test_a_gaussian_is_changed_as_the_formula_says():
    g = {"w": np.random.default_rng(0).standard_normal(200_000)}
    for c in (1.0, 2.5):
        formula = bound.gaussian(c)
        assert bound.change(g, c) == pytest.approx((100 * (1 - formula.length), formula.degrees), rel=0.03)
    assert bound.change(g, 25.0) == pytest.approx((0, 0), abs=1e-3)
    assert bound.within(*bound.change(g, 2.5)) and not bound.within(*bound.change(g, 2.0))


def small(monkeypatch):
    ctx, rng = claim.Context(bound.CLAIM), np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (128, 28, 28)).astype(np.uint8), rng.integers(0, 10, 128).astype(np.uint8)
    found = SimpleNamespace(name="noise", sha256="0", train_images=images, train_labels=labels)
    monkeypatch.setattr(ctx, "dataset", lambda kind: found)
    monkeypatch.setattr(bound, "QUICK_AT", (0, 1))
    return ctx


def test_the_claim_in_small(monkeypatch):
    ctx = small(monkeypatch)
    monkeypatch.setattr(bound, "QUICK_DRAWS", 3)
    bound.run(ctx)
    rows = ctx.finish()
    assert claim.why_broken(rows) is None and len(rows) == 11
    assert {row["control"]["outcome"] for row in rows if row["control"]} == {"not shown"}
    assert rows[0]["outcome"] == "supported" and len(ctx.figures) <= 1


def test_a_wrong_length_is_not_supported(monkeypatch):
    """A ternariser that keeps three numbers in a hundred too many."""
    ctx, rng = claim.Context(bound.CLAIM), np.random.default_rng(0)
    right = bound.Ternariser.trits

    def too_many(self, g, s=None, **where):
        return np.where(rng.random(g.size) < 0.03, 1, right(self, g, s, **where))

    g = some_gradient(rng)
    bound.equation(ctx, g, 20)
    monkeypatch.setattr(bound.Ternariser, "trits", too_many)
    bound.equation(ctx, g, 20)
    assert [row["outcome"] for row in ctx.rows] == ["supported", "not shown"]
