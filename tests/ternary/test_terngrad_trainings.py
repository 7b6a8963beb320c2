"""The claims that train a ConvNet, a language model, AlexNet and GoogLeNet, in small: real ranks, controls judged."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.errors import MissingExtra
from minidl.ternary import launch
from minidl.ternary.comm import Counted, OneRank

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
terngrad_ranks = pytest.importorskip("minidl.claims.terngrad_ranks", reason="minidl/claims is not there")


def colours(n_train=2100, n_test=60):
    """Ten easy classes: a bright row at the height of the label."""
    rng, made = np.random.default_rng(0), {}
    for part, n in (("train", n_train), ("test", n_test)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 3, 32, 32)).astype(np.uint8)
        images[np.arange(n), :, 2 * labels + 4] = 255
        made |= {f"{part}_images": images, f"{part}_labels": labels}
    return SimpleNamespace(name="bars", sha256="0", **made)


def words():
    from minidl.data.text import TextSet

    ids = np.random.default_rng(0).integers(0, 20, 3000).astype(np.int32)
    return TextSet("noise", "0", ids[:2000], ids[2000:2500], ids[2500:], ("<unk>", *map(str, range(19))))


SMALL = {
    "cifar": {"STEPS": {"quick": 2, "full": 2}, "SEEDS": 2},
    "lstm": {"SEEDS": 2},
    "scaling": {"QUICK_IMAGES": 512, "IMAGES": 512, "SEEDS": {"quick": 1, "full": 2}},
}


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("full", [False, True])
def test_the_claim_in_small(monkeypatch, name, full):
    try:
        launch.find_mpirun()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    module = importlib.import_module(f"minidl.claims.terngrad_{name}")
    for key, value in SMALL[name].items():
        monkeypatch.setattr(module, key, value)
    ctx = claim.Context(module.CLAIM, full=full)
    monkeypatch.setattr(ctx, "dataset", lambda kind: words() if kind == "text" else colours())
    module.run(ctx)
    judged = [row for row in ctx.rows if row["control"]]
    assert len(judged) >= 2, "a few steps show nothing, but they are judged, beside a control"
    for row in judged:
        assert np.isfinite(row["measured"] if isinstance(row["measured"], float) else 0)
        assert row["interval"] or "minus" not in row["quantity"] or (name, full) == ("scaling", False)
    for row in ctx.rows:
        if "fewer bytes" in row["quantity"] and row["criterion"] and name == "cifar":
            assert row["outcome"] == "supported" and row["control"]["outcome"] == "not shown"
    assert len(ctx.figures) + len(ctx.notes) == 2, "a figure, or a note that matplotlib is missing; and the settings"


def test_a_jobs_exchange_and_ternariser():
    module = pytest.importorskip("minidl.models.mlp")
    model = module.mlp((4, 3, 2), rng=np.random.default_rng(0))
    job = terngrad_ranks.Job("ternary", 2, "any", 1)
    kinds = {}
    for mode in ("float", "ternary", "floor", "sign", "no clip", "alone"):
        one = terngrad_ranks.Job(mode, 2, "any", 1)
        kinds[mode] = terngrad_ranks.data_parallel(one, model, Counted(OneRank()))
    assert job.name == "any, ternary, 2 workers, seed 0" and job.length == 1
    assert kinds["float"].mode == "float" and kinds["no clip"].mode == "ternary"
    assert kinds["no clip"].ternariser.clip is None and kinds["ternary"].ternariser.clip == 2.5
    assert isinstance(kinds["floor"].ternariser, terngrad_ranks.NoDraw)
    assert isinstance(kinds["sign"].ternariser, terngrad_ranks.Sign)
    assert isinstance(kinds["alone"], terngrad_ranks.Alone)
