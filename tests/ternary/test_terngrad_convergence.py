"""The claim terngrad-convergence in small, and its predictions where they can be written down by hand."""

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
convergence = pytest.importorskip("minidl.claims.terngrad_convergence", reason="minidl/claims is not there")


def test_the_claim_in_small(monkeypatch):
    """Fewer numbers and steps: rows are judged, and no control meets its criterion."""
    small = dict(QUICK_STEPS=800, COPIES=32, SIZE=16, SLOPES=np.geomspace(0.2, 1, 16), PLATEAUS=(0.1, 0.4))
    for name, value in small.items():
        monkeypatch.setattr(convergence, name, value)
    ctx = claim.Context(convergence.CLAIM)
    convergence.run(ctx)
    rows = ctx.finish()
    assert claim.why_broken(rows) is None and len(ctx.figures) <= 1
    plateaus = next(row for row in rows if row["quantity"].startswith("constant rates"))
    assert all(0.85 < ratio < 1.15 for ratio in plateaus["measured"].values())
    assert min(plateaus["control"]["measured"].values()) > 1.5, "the same draws do not average out"
    assert rows[-2]["outcome"] == "supported", "1/t^2 stalls, however few the steps"


def test_predictions_for_floats_are_the_textbooks():
    rng, a = np.random.default_rng(0), convergence.SLOPES
    noise = convergence.NOISE**2 / convergence.WORKERS
    assert convergence.plateau(0.1, False, rng) == pytest.approx(0.5 * (0.1 * noise / (2 - 0.1 * a)).sum())
    assert convergence.tail(980, False, rng) == pytest.approx(0.5 * (a * 100 * noise / (20 * a - 1)).sum() / 1000)
    assert convergence.plateau(0.1, True, rng) > 2 * convergence.plateau(0.1, False, rng), "trits are noisier"


def test_the_variance_is_that_of_what_workers_send():
    rng, shape = np.random.default_rng(0), (convergence.COPIES, convergence.SIZE)
    sent = []
    for step in range(200):
        grads = [rng.standard_normal(shape, np.float32) for _ in range(convergence.WORKERS)]
        sent.append(convergence.TERNARY.mean(grads, 0, step))
    expected = convergence.variance(0.0, True, rng).mean()
    assert np.square(sent).mean() == pytest.approx(expected, rel=0.02)
    assert abs(np.mean(sent)) < 5 * np.sqrt(expected / np.size(sent))


def test_what_rates_leave_of_the_way():
    assert convergence.left_over(lambda t: 0.0, 5) == pytest.approx(0.5 * 9 * convergence.SLOPES.sum())
    assert convergence.left_over(lambda t: 1.0, 1) == pytest.approx(
        4.5 * (convergence.SLOPES * (1 - convergence.SLOPES) ** 2).sum()
    )
