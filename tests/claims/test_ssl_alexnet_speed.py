"""The claim ssl-alexnet-speed: the zeros are those of the table, and every row can come out otherwise."""

import numpy as np
import pytest

pytest.importorskip("minidl.claims")
pytest.importorskip("scipy")

from minidl.claims import ssl_alexnet_speed as claims
from minidl.claims.claim import Context
from minidl.sparsity.ways import CAFFENET


def test_the_shares_of_zeros_are_the_published_ones():
    rng = np.random.default_rng(0)
    layer = CAFFENET["conv4"]
    kept = claims.structured_zeros(layer, 84.7, 46.9, rng).reshape(192, 1728)
    assert (~kept.any(0)).sum() == round(0.847 * 1728) and (~kept.any(1)).sum() == round(0.469 * 192)
    assert (~claims.scattered_zeros(layer, 12345, rng)).sum() == 12345


@pytest.mark.parametrize(("structured", "outcome"), [(3.0, "supported"), (0.8, "contradicted")])
def test_the_outcome_follows_what_was_timed(monkeypatch, structured, outcome):
    times = iter([(structured, (1, 1)), (1.5, (1, 1)), (0.3, (1, 1))] * 10)
    monkeypatch.setattr(claims, "speed_up", lambda *_: next(times))
    ctx = Context(claims.CLAIM)
    claims.run(ctx)
    assert [row["outcome"] for row in ctx.rows[2::3]] == [outcome] * 2
    assert ctx.rows[0]["control"]["measured"] == [0.3] * 5 and ctx.rows[0]["control"]["outcome"] == "not shown"
    assert (ctx.rows[0]["outcome"] == "supported") == (structured > 1.15)


def test_structured_and_dense_products_agree():
    rng = np.random.default_rng(0)
    layer = CAFFENET["conv5"]
    weight = claims.structured_zeros(layer, 80.7, 0, rng) * rng.standard_normal(layer.weight_shape)
    x = rng.standard_normal((1, layer.channels, layer.size, layer.size))
    runs = [claims.prepare(way, weight, x, layer) for way in ("dense", "removed", "csr")]
    dense, *others = [run.multiply(run.lower()) for run in runs]
    for other in others:
        assert np.abs(other - dense).max() <= 1e-12 * np.abs(dense).max()
