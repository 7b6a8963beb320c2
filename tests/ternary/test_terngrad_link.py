"""The claim over slow links: simulated where links cannot be throttled, real where they can; and what they count."""

import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.layers import Flatten, Linear, Sequential
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.launch import report_result
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.sim_comm import SimComm

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
links = pytest.importorskip("minidl.claims.links", reason="minidl/claims is not there")
terngrad_link = pytest.importorskip("minidl.claims.terngrad_link", reason="minidl/claims is not there")


def digits():
    rng = np.random.default_rng(0)
    made = {}
    for part, n in (("train", 600), ("test", 60)):
        made |= {f"{part}_labels": rng.integers(0, 10, n).astype(np.uint8)}
        made |= {f"{part}_images": rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)}
    return SimpleNamespace(name="noise", sha256="0", **made)


def small(rng):
    return Sequential(Flatten(), Linear(784, 1000, rng=rng), Linear(1000, 10, rng=rng))


@pytest.fixture
def run(monkeypatch):
    def run(full=False, reason="there is no root here"):
        ctx = claim.Context(terngrad_link.CLAIM, full=full)
        monkeypatch.setattr(ctx, "dataset", lambda kind: digits())
        monkeypatch.setattr(links, "missing", lambda: reason)
        monkeypatch.setattr(terngrad_link, "NETS", {"perceptron": small, "LeNet": small})
        terngrad_link.run(ctx)
        assert claim.why_broken(ctx.rows) is None
        return ctx

    return run


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_simulated_links_show_ratios_and_the_control_none(run, full):
    ctx = run(full)
    rows = {row["quantity"]: row for row in ctx.rows}
    for bits, least in (("float32", 9), ("float16", 4.5)):
        row = rows[f"best ternary exchange against the best {bits}, perceptron, 4 ranks, 100 Mbit/s"]
        assert row["scale"] == "simulated" and row["measured"] > least
        assert row["control"]["outcome"] == "not shown" and row["control"]["measured"] < 2.2
    assert rows["measured over predicted exchange time"]["outcome"] == "supported"
    assert any("nothing trained: there is no root here" in note for note in ctx.notes)


def test_a_ring_that_is_no_better_than_trits_is_not_shown(run, monkeypatch):
    """Sabotaged: what is called ternary sends floats."""
    monkeypatch.setattr(
        terngrad_link, "parallel_of",
        lambda model, comm, scheme, seed: DataParallel(model.named_parameters(), comm, "ring16"),
    )  # fmt: skip
    outcomes = [row["outcome"] for row in run().rows if row["control"]]
    assert outcomes == ["not shown", "not shown"]


# ------------------------------------------------------------------------------------------------ real links

REASON = links.missing()
real = [pytest.mark.slow, pytest.mark.mpi, pytest.mark.skipif(bool(REASON), reason=REASON or "")]


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("", [pytest.param(marks=real)])
def test_the_claim_over_real_links(run, monkeypatch):
    steps = [("perceptron", scheme) for scheme in ("ring32", "ring16", "gather", "sums")]
    plan = [terngrad_link.Training(2, rate, *what, 3) for rate in ("100mbit", None) for what in steps]
    plan.append(terngrad_link.Training(2, "100mbit", "LeNet", "sums", 20, True))
    monkeypatch.setattr(claim, "why_broken", lambda rows: None)  # two ranks are not judged
    monkeypatch.setattr(terngrad_link, "plan", lambda full: plan)
    monkeypatch.setattr(terngrad_link, "perceptron", small)
    monkeypatch.setattr(terngrad_link, "TARGET", 2.0)
    ctx = run(reason=None)
    rows = {row["quantity"]: row["measured"] for row in ctx.rows}
    sent = rows["bytes that a rank hands to MPI in one step"]
    assert sent["perceptron, 2, ring32"] == 2 * sent["perceptron, 2, ring16"] == 4 * 2_688_510, (
        "the ranks know no small one"
    )
    assert str(os.getpid()) not in namespaces(), "nothing is left behind"


# ------------------------------------------------------------------------------------------------ the kernel's counters


def exchange_on(comm, mode, steps):
    params = [("w", SimpleNamespace(data=np.zeros(400_000, np.float32), grad=None))]
    options = {"exchange": sum_allreduce} if mode == "sums" else {"mode": mode}
    parallel = DataParallel(params, comm, **options)
    for step in range(steps):
        params[0][1].grad = np.random.default_rng(comm.Get_rank()).standard_normal(400_000, np.float32)
        parallel.reduce(step)
    comm.Barrier()


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=real) for mode in ("ring32", "ring16", "gather", "sums")])
def test_bytes_counted_are_what_the_kernel_counts(mode):
    """Beside what first contact takes, the interface sends 1.058 bytes for each of a message, and no other."""
    sim = SimComm(2)
    few, many = [], []
    for steps, found in ((2, few), (14, many)):
        with links.Links(2, "100mbit") as wires:  # which cuts packets to the size they have on a real wire
            wires.run([__file__, json.dumps([mode, steps])], timeout=60)
            found += [sent for _, sent in wires.bytes()]
    sim.run(lambda comm: exchange_on(comm, mode, 12))
    for rank in range(2):
        assert (many[rank] - few[rank]) / sim.sent[rank] == pytest.approx(1.058, rel=0.02)


if __name__ == "__main__":
    import sys

    exchange_on(world(), *json.loads(sys.argv[1]))
    report_result({})
