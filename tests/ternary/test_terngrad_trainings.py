"""The claims that train a ConvNet, a language model, AlexNet and GoogLeNet, in small: real ranks, controls judged."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.errors import MissingExtra
from minidl.layers import Linear
from minidl.optim import SGD
from minidl.tensor import Tensor
from minidl.ternary import launch
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.sim_comm import SimComm

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
        assert np.isfinite(row["measured"])
        assert row["interval"] or "minus" not in row["quantity"] or (name, full) == ("scaling", False)
    for row in ctx.rows:
        if "fewer bytes" in row["quantity"]:
            assert row["outcome"] == "supported", "also with the output layer in float: it has 20 words only"
            assert row["control"]["outcome"] == "not shown"
    assert len(ctx.figures) + len(ctx.notes) == 2, "a figure, or a note that matplotlib is missing; and the settings"


def test_a_jobs_exchange_and_ternariser():
    kinds = {}
    for mode in ("float", "ternary", "floor", "sign", "no clip", "alone"):
        job = terngrad_ranks.Job(mode, 2, "any", 1)
        kinds[mode] = terngrad_ranks.data_parallel(job, Linear(3, 2, rng=np.random.default_rng(0)), Counted(OneRank()))
    assert kinds["float"].mode == "float" and kinds["no clip"].mode == "ternary"
    assert kinds["no clip"].ternariser.clip is None and kinds["ternary"].ternariser.clip == 2.5
    assert isinstance(kinds["floor"].ternariser, terngrad_ranks.NoDraw)
    assert isinstance(kinds["sign"].ternariser, terngrad_ranks.Sign)
    assert isinstance(kinds["alone"], terngrad_ranks.Alone)


@pytest.mark.parametrize("mode", ["float", "ternary"])
def test_a_gradient_that_is_not_finite_ends_training_on_every_rank(mode):
    """Worker 1's gradient becomes nan at step 2: no rank waits for an exchange that another left."""

    def main(comm):
        model = Linear(3, 2, rng=np.random.default_rng(0))
        parallel = terngrad_ranks.data_parallel(terngrad_ranks.Job(mode, 2, "any", 5), model, comm)
        x = Tensor(np.ones((4, 3), np.float32))
        cost = lambda step, w: (model(x) ** 2).mean() * (np.nan if (step, w) == (2, 1) else 1.0)
        losses = terngrad_ranks.train_steps(
            parallel, model, SGD(model.parameters(), 0.1), cost, 5, rate=lambda step: 0.1
        )
        return losses, parallel.weights_crc(), terngrad_ranks.outcome(parallel, losses)

    (one, crc, told), (two, other, _) = SimComm(2).run(main)
    assert np.isfinite(one[:2]).all() and np.isnan(one[2:]).all() and len(one) == len(two) == 5
    assert crc == other and told["bytes"] == 2 * told["formula"], "the question whether to go on is not counted"
