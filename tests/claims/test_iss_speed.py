"""The claim iss-speed at small sizes: the published multiply-adds, and processes that really ran the models."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_speed = pytest.importorskip("minidl.claims.iss_speed")


def test_multiply_adds_are_the_published_ones():
    assert iss_speed.macs((1500, 1500)) == 51_000_000
    assert iss_speed.macs((373, 315)) == 6_811_396
    assert iss_speed.macs((381, 535)) == 10_176_884


@pytest.mark.parametrize("library, package", [("PyTorch", "torch"), ("ONNX Runtime", "onnxruntime")])
def test_each_library_computes_the_same(library, package, monkeypatch):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(iss_speed, "VOCABULARY", 50)
    rng = np.random.default_rng(0)
    model = iss_speed.LSTMLanguageModel(50, 12, (7, 5), rng=rng)
    x = rng.integers(0, 50, (4, iss_speed.BATCH))
    mine, theirs = (iss_speed.BUILDERS[name](model, x) for name in ("minidl", library))
    for _ in range(2):  # the second with the states of the first
        np.testing.assert_allclose(np.asarray(theirs()), mine(), atol=1e-5)


def test_rows_of_given_times_and_a_control_that_fails():
    ctx = claim.Context(iss_speed.CLAIM)
    mine = {iss_speed.DENSE: [0.6] * 4, iss_speed.COPY: [0.6] * 4, "373 + 315": [0.05] * 4, "381 + 535": [0.2] * 4}
    theirs = {iss_speed.DENSE: [0.5] * 4, iss_speed.COPY: [], "373 + 315": [0.06] * 4, "381 + 535": [0.1] * 4}
    iss_speed.report(ctx, 1, {"minidl": mine, "PyTorch": theirs}, 2)
    rows = {row["quantity"]: row for row in ctx.finish()}
    fast = rows["speed-up with 373 + 315 units over the fastest dense model (PyTorch), 1 thread"]
    assert fast["measured"] == pytest.approx(10) and fast["outcome"] == "supported"  # against 0.5 s, not against 0.6 s
    assert fast["control"] == {
        "what": "the dense model over a copy of itself", "measured": 1.0, "outcome": "not shown"
    }  # fmt: skip
    slow = rows["speed-up with 381 + 535 units over the fastest dense model (PyTorch), 1 thread"]
    assert slow["measured"] == pytest.approx(2.5) and slow["outcome"] == "not shown"
