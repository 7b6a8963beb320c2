"""The claim ssl-lenet on a few steps: what is removed is proven, and the controls can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

claim = pytest.importorskip("minidl.claims.claim")
ssl_lenet = pytest.importorskip("minidl.claims.ssl_lenet")


def test_filters_go_by_training_and_the_proof_can_fail(monkeypatch):
    tiny = replace(ssl_lenet.QUICK, lasso=40, fine_tune=4, lambdas=(1e-6, 0.09), held_back=100)
    monkeypatch.setattr(ssl_lenet, "QUICK", tiny)
    ctx = claim.Context(ssl_lenet.CLAIM)
    ssl_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.finish()}
    filters = rows["filters of conv1 and conv2 kept by training"]
    assert filters["control"]["measured"] == [20, 50] and sum(filters["measured"]) < 70 and filters["trials"] == 2
    exact = rows["float64 difference between the zeroed and the small network"]
    assert exact["outcome"] == "supported" and exact["control"]["outcome"] == "not shown"
    assert rows["multiply-adds in all"]["measured"] < 100
