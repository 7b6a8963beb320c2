"""The claims iss-counts and iss-blackbox: supported, and not so under their controls."""

import sys

import pytest

pytest.importorskip("minidl.claims")

from minidl.claims import iss_blackbox, iss_counts
from minidl.claims.claim import Context, why_broken


def rows_of(claim):
    ctx = Context(claim)
    claim.run(ctx)
    rows = ctx.finish()
    assert why_broken(rows) is None
    return {row["quantity"]: row for row in rows}


def test_the_tables_are_as_printed_and_no_control_is():
    rows = rows_of(iss_counts.CLAIM)
    judged = [row for row in rows.values() if row["criterion"]]
    assert len(judged) == 5
    for row in judged:
        assert row["outcome"] == "supported" and row["control"]["outcome"] == "not shown", row["quantity"]
        assert row["scale"] == "computed"


def test_the_exact_counts():
    assert [iss_counts.formula(hidden) for hidden in iss_counts.LSTMS] == [
        (66_022_000, 51_000_000), (21_824_148, 6_811_396), (25_190_548, 10_176_884),
    ]  # fmt: skip


def test_another_printed_figure_would_not_be_supported(monkeypatch):
    monkeypatch.setattr(iss_counts, "RHNS", {**iss_counts.RHNS, 517: 11.3})
    ctx = Context(iss_counts.CLAIM)
    iss_counts.highway(ctx)
    assert ctx.rows[0]["outcome"] == "not shown"


def test_pytorch_runs_what_is_left():
    pytest.importorskip("torch")
    (row,) = rows_of(iss_blackbox.CLAIM).values()
    assert row["outcome"] == "supported" and row["control"]["measured"] > 1e-3


def test_without_pytorch_it_is_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (row,) = rows_of(iss_blackbox.CLAIM).values()
    assert row["outcome"] == "not run" and "PyTorch" in row["criterion"]
