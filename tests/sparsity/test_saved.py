"""Saved and loaded: another process builds the large model and gets the small one, bit for bit."""

import numpy as np
import pytest
from lively import lively, output, set_zero, snapshot, unchanged

from minidl import checkpoint
from minidl.errors import InputError, ShapeError
from minidl.models import LSTMLanguageModel, lenet_caffe, resnet
from minidl.optim import SGD
from minidl.sparsity import compact, load_compacted, silence_, units


def shrunk_resnet(rng):
    model = lively(resnet(8, shortcut="B", rng=rng), rng)
    set_zero(model.blocks[0].conv2.weight)
    set_zero(model.blocks[2].conv1.weight, (slice(None), 5, 1, 1))
    silence_(model, [u for u in units(model, np.zeros((2, 3, 8, 8), np.float32)) if u.layer == "blocks.1.conv1"][:9])
    return compact(model, rng.random((2, 3, 8, 8), np.float32), columns=True)[0]


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "state"])
def test_a_fresh_model_takes_the_shapes_of_the_file(tmp_path, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    small, x = shrunk_resnet(rng), rng.random((2, 3, 8, 8), np.float32)
    fresh = resnet(8, shortcut="B", rng=np.random.default_rng(7))
    path = tmp_path / f"small.{suffix}"
    if suffix == "state":
        loaded = load_compacted(fresh, snapshot(small))
    else:
        checkpoint.save(path, model=small, step=3)
        loaded = load_compacted(fresh, path)
    assert loaded is fresh and "load_state_dict" not in vars(fresh)
    assert unchanged(loaded, snapshot(small)) and repr(loaded) == repr(small)
    assert np.array_equal(output(loaded, x, np.float32), output(small, x, np.float32))


def test_then_the_optimizer_loads_as_usual(tmp_path):
    rng = np.random.default_rng(0)
    small = shrunk_resnet(rng)
    optimizer = SGD(small.parameters(), 0.1, momentum=0.9)
    optimizer.velocity = {k: rng.standard_normal(p.shape) for k, p in enumerate(small.parameters())}
    checkpoint.save(tmp_path / "run.npz", model=small, optimizer=optimizer)
    fresh = load_compacted(resnet(8, shortcut="B", rng=rng), tmp_path / "run.npz")
    again = SGD(fresh.parameters(), 0.1, momentum=0.9)
    checkpoint.load(tmp_path / "run.npz", model=fresh, optimizer=again)
    assert all(np.array_equal(again.velocity[k], v) for k, v in optimizer.velocity.items())


def test_recurrent_layers_and_their_random_numbers(tmp_path):
    rng = np.random.default_rng(0)
    build = lambda seed: LSTMLanguageModel(20, 8, (10, 12), keep=0.5, rng=np.random.default_rng(seed))
    model = build(1)
    x = (rng.integers(0, 20, (3, 2)), model.zero_states(2))
    silence_(model, units(model, x)[::2])
    small, _ = compact(model, x)
    checkpoint.save(tmp_path / "lm.npz", model=small)
    loaded = load_compacted(build(2), tmp_path / "lm.npz")
    assert loaded.dropout.rng.random() == small.dropout.rng.random()
    small_x = (x[0], small.zero_states(2))
    assert np.array_equal(output(loaded, small_x, np.float32), output(small, small_x, np.float32))


def test_what_is_no_part_of_the_model_is_refused_and_changes_nothing():
    rng = np.random.default_rng(0)
    model = lenet_caffe(rng)
    before, state = snapshot(model), model.state_dict()
    larger = state | {"conv1.weight": np.zeros((21, 1, 5, 5), np.float32)}
    with pytest.raises(ShapeError, match=r"conv1.weight has shape \(21, 1, 5, 5\) in the state and \(20, 1, 5, 5\)"):
        load_compacted(model, larger)
    with pytest.raises(InputError, match="holds nothing for conv2, and no constant"):
        load_compacted(model, {k: v for k, v in state.items() if not k.startswith("conv2")})
    with pytest.raises(InputError, match="not known here|not known"):
        load_compacted(model, state | {"conv9.weight": np.zeros(3)})
    with pytest.raises(InputError, match="missing"):
        load_compacted(model, {k: v for k, v in state.items() if k != "ip1.bias"})
    assert unchanged(model, before)
