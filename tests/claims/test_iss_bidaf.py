"""The claim iss-bidaf counts the weights of the published table; its controls, the really shrunk networks, differ."""

import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_bidaf = pytest.importorskip("minidl.claims.iss_bidaf")


def test_weights_are_the_published_ones_and_the_controls_are_not(monkeypatch):
    monkeypatch.setattr(iss_bidaf, "STEPS", 2)
    ctx = claim.Context(iss_bidaf.CLAIM)
    iss_bidaf.run(ctx)
    rows = ctx.finish()
    counts = [row for row in rows if row["quantity"].startswith("weights with")]
    assert [row["measured"] for row in counts] == pytest.approx([2.2904, 1.1766, 0.9545, 0.8795])
    assert all(row["outcome"] == "supported" and row["control"]["outcome"] == "not shown" for row in counts)
    assert sum(row["quantity"].startswith("speed-up") for row in rows) == 4 and rows[-1]["outcome"] == "not run"
