"""The claim's machinery on a few steps: real ranks, every row judged, every control failing."""

from types import SimpleNamespace

import numpy as np
import pytest

from minidl.errors import MissingExtra
from minidl.ternary import launch

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
terngrad_lenet = pytest.importorskip("minidl.claims.terngrad_lenet", reason="minidl/claims is not there")
terngrad_ranks = pytest.importorskip("minidl.claims.terngrad_ranks", reason="minidl/claims is not there")


def digits(n_train=256, n_test=101):
    """Ten easy classes: a bright row at the height of the label."""
    rng = np.random.default_rng(0)
    made = {}
    for part, n in (("train", n_train), ("test", n_test)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        images[np.arange(n), 2 * labels + 4] = 255
        made |= {f"{part}_images": images, f"{part}_labels": labels}
    return SimpleNamespace(name="bars", sha256="0", **made)


@pytest.mark.mpi
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_claim_in_small(monkeypatch, full):
    try:
        launch.find_mpirun()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    ctx = claim.Context(terngrad_lenet.CLAIM, full=full)
    monkeypatch.setattr(terngrad_lenet, "QUICK_STEPS", 2)
    monkeypatch.setattr(terngrad_lenet, "FULL_STEPS", 2)
    monkeypatch.setattr(terngrad_lenet, "SHORT", 2)
    monkeypatch.setattr(terngrad_lenet, "SEEDS", 2)
    monkeypatch.setattr(ctx, "dataset", lambda kind: digits())
    terngrad_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    learnt = [name for name in rows if name.startswith("test accuracy")]
    optimizers = ["momentum", "vanilla"] if full else ["momentum"]
    for optimizer in optimizers:  # a few steps on 101 images show nothing, but they are judged
        row = rows[f"test accuracy, ternary minus float, {optimizer}, 2 workers"]
        assert row["interval"] and row["control"] and row["seeds"] == [0, 1]
        one = f"test accuracy, ternary minus float, {optimizer}, 64 workers (one seed: no interval)"
        assert (one in rows) == full
    assert len(learnt) == (2 * (1 + 2 + 2 + 4) if full else 1 + 2 + 1)
    for name in learnt:
        rows.pop(name)
    assert {row["outcome"] for row in rows.values() if row["criterion"]} == {"supported"}
    assert {row["control"]["outcome"] for row in rows.values() if row["control"]} == {"not shown"}
    assert rows["bytes per step and rank, ternary"]["measured"] == 478_568
    assert rows["bytes per step and rank, float"]["measured"] == 4 * 1_256_080
    assert len(ctx.figures) + len(ctx.notes) == 2, "a figure, or a note that matplotlib is missing; and the settings"


def test_without_mpi_the_claim_is_not_run(monkeypatch):
    def missing():
        raise MissingExtra("pip install 'minidl[mpi]'")

    monkeypatch.setattr(terngrad_lenet, "find_mpirun", missing)
    with pytest.raises(MissingExtra):
        terngrad_lenet.run(claim.Context(terngrad_lenet.CLAIM))


def test_paired_differences_have_students_interval():
    difference, (low, high) = terngrad_ranks.paired([99.0, 98.5, 99.5], [98.0, 98.5, 99.0])
    assert difference == 0.5 and np.isclose(high - low, 2 * 4.303 * 0.5 / 3**0.5) and np.isclose(high + low, 1)


def test_the_counters_and_the_controls():
    g = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    g[:100] = 0
    for kind, zeros in ((terngrad_ranks.Counting, None), (terngrad_ranks.Sign, 100)):
        ternariser = kind(seed=1)
        own = ternariser.scales(g)
        trits = ternariser.trits(g, own, own=own, step=25, worker=0, tensor=0)
        assert zeros is None or np.count_nonzero(trits == 0) == zeros
    counting = terngrad_ranks.Counting(seed=1)
    trits = counting.trits(g, own, own=own, step=0)
    counting.trits(g, own, own=own, step=1)
    assert counting.nonzero == np.count_nonzero(trits) and counting.numbers == 4000 and counting.signs == 3900
    assert np.isclose(counting.expected, np.minimum(np.abs(g), own).sum() / own[0], rtol=1e-6)
    zeros, off = terngrad_lenet.missed(counting.counted())
    assert abs(off) < 5 and 60 < zeros < 75
    floor = terngrad_ranks.NoDraw(seed=1).trits(g, own, own=own)
    assert set(floor) == {-1, 0, 1} and (floor <= np.clip(g / own, -1, 1)).all(), "never above the truth"


def test_the_running_average_is_the_published_one():
    model = SimpleNamespace(parameters=lambda: [p])
    p = SimpleNamespace(data=np.array([1.0, 2.0], np.float32))
    average, expected = terngrad_ranks.Average(model), p.data
    for step in range(4):
        p.data = p.data + 1
        average.after_step(step)
        keep = min(0.9999, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * p.data
    average.into(model)
    assert np.allclose(p.data, expected)


def test_every_epoch_is_a_permutation():
    rows = terngrad_ranks.shuffled(20, 6, 1, 2)
    epoch = np.concatenate([rows(step) for step in range(3)])
    assert len(set(epoch)) == 18 and not np.array_equal(epoch, np.concatenate([rows(step) for step in range(3, 6)]))
    assert np.array_equal(rows(1), terngrad_ranks.shuffled(20, 6, 1, 2)(1))
