"""The claim's machinery on a few steps: two real ranks, every row judged, every control failing."""

from types import SimpleNamespace

import numpy as np
import pytest

from minidl.errors import MissingExtra
from minidl.ternary import launch

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
terngrad_lenet = pytest.importorskip("minidl.claims.terngrad_lenet", reason="minidl/claims is not there")


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
def test_the_claim_in_small(monkeypatch):
    try:
        launch.find_mpirun()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    ctx = claim.Context(terngrad_lenet.CLAIM)
    monkeypatch.setattr(terngrad_lenet, "QUICK_STEPS", 5)
    monkeypatch.setattr(ctx, "dataset", lambda kind: digits())
    terngrad_lenet.run(ctx)
    rows = {row["quantity"]: row for row in ctx.rows}
    assert 0 <= rows["test accuracy, float gradients"]["measured"] <= 100
    rows.pop("test accuracy, ternary minus float")  # a few steps on 101 images show nothing of it
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


def test_paired_difference():
    first, second = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    difference, (low, high) = terngrad_lenet.paired(first, second)
    assert difference == 25 and low < 25 < high and np.isclose(high - low, 2 * 1.96 * 100 * np.sqrt(3 / 16) / 2)
