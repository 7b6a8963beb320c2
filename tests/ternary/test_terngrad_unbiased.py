"""The claim terngrad-unbiased in small: supported, and not with any of the mistakes it is to find."""

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
unbiased = pytest.importorskip("minidl.claims.terngrad_unbiased", reason="minidl/claims is not there")


@pytest.fixture
def ctx(monkeypatch):
    small = dict(SIZE=2**14, QUICK_DRAWS=1024, QUICK_EACH=500, COORDINATES=50, QUICK_ROUNDS=10, QUICK_Q=3)
    for name, value in small.items():
        monkeypatch.setattr(unbiased, name, value)
    return claim.Context(unbiased.CLAIM)


def test_every_row_is_supported_and_no_control_is(ctx):
    unbiased.run(ctx)
    rows = ctx.finish()
    assert len(rows) == 4 and claim.why_broken(rows) is None
    assert [row["outcome"] for row in rows] == ["supported"] * 4
    proof, _, each, variance = rows
    assert proof["measured"] == 3 and proof["control"]["measured"] == 2, "<= is right at the ends, not for q = 1"
    assert variance["control"]["measured"] == pytest.approx(8, rel=0.05), "the same draws: n times the noise"
    assert set(each["control"]["measured"]) == {"nearest trit", "floor", "sign times mean |g|"}
    assert len(ctx.figures) <= 1


def no_draw(self, g, s=None, **where):
    return np.rint(g / self.scales(g)[0]).astype(np.int8)


def pushed_up(self, g, s=None, **where):
    """Five percent of the scale too much, everywhere."""
    up = g + 0.05 * np.abs(g).max()
    return unbiased.trits_of(
        np.rint(np.clip(up / self.scales(g)[0], -1, 1) * 2**24).astype(np.int32),
        np.random.default_rng(where["step"]).integers(0, 2**24, g.size, dtype=np.int32),
    )


@pytest.mark.parametrize("mistake", [no_draw, pushed_up])
def test_a_biased_ternariser_is_not_supported(ctx, monkeypatch, mistake):
    monkeypatch.setattr(unbiased.Ternariser, "trits", mistake)
    unbiased.together(ctx, 1024)
    unbiased.number_by_number(ctx, 5000)
    assert [row["outcome"] for row in ctx.finish()] == ["not shown"] * 2
