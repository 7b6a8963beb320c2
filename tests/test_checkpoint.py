"""Checkpoints: the same bits after any kill, nothing half written, nothing half loaded, no pickle."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minidl import backend, checkpoint, machine
from minidl.checkpoint import load, load_safetensors, save, save_safetensors, write_atomically
from minidl.errors import DataError, InputError, MissingExtra, ShapeError
from minidl.layers import BatchNorm1d, Dropout, Linear, Sequential
from minidl.optim import SGD, Adam

KILL_ME = Path(__file__).with_name("kill_me.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 and fork are POSIX's")
def test_100_kills_at_random_moments_change_no_bit(tmp_path):
    run = subprocess.run(
        [sys.executable, str(KILL_ME), str(tmp_path), "100"], capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    outcome, steps, saving = run.stdout.split()
    print(f"\n{steps} steps in 101 processes, {saving} of 100 kills while a checkpoint was being written")
    assert outcome == "same" and int(steps) > 50 and int(saving) > 0


def parts(seed=0, width=4):
    rng = np.random.default_rng(seed)
    model = Sequential(
        Linear(3, width, rng=rng), BatchNorm1d(width), Dropout(0.5, rng=np.random.default_rng(seed + 1)),
        Linear(width, 2, rng=rng),
    )  # fmt: skip
    optimizer = Adam(model.parameters(), lr=0.1 + seed)
    for p in model.parameters():
        p.grad = rng.standard_normal(p.shape).astype(np.float32)
    optimizer.step()
    return model, optimizer


def bits(model, optimizer):
    arrays = [*model.state_dict().values(), *(a for state in optimizer.state for a in state.values())]
    return [np.asarray(a).tobytes() for a in arrays], model[2].rng.bit_generator.state, optimizer.lr


@pytest.mark.parametrize("name", ["run.npz", "run.safetensors"])
def test_everything_comes_back(name, tmp_path):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    extra = {"losses": [0.5, float("inf")], "h": (np.ones((2, 3), np.float16), None), "array": "dict", "dict": {"a": 1}}
    rngs = {kind.__name__: np.random.Generator(kind(3)) for kind in (np.random.MT19937, np.random.Philox)}
    (model, optimizer), (other, another) = parts(0), parts(5)
    save(path, model=model, optimizer=optimizer, step=7, rngs=rngs, extra=extra)
    next_draws = {kind: rng.random(3).tolist() for kind, rng in rngs.items()}
    found = load(path, model=other, optimizer=another, rngs=rngs)
    assert bits(other, another) == bits(model, optimizer)
    assert {kind: rng.random(3).tolist() for kind, rng in rngs.items()} == next_draws
    assert found.step == 7 and found.conditions == machine.conditions()
    h, nothing = found.extra.pop("h")
    assert found.extra == {k: v for k, v in extra.items() if k != "h"} and nothing is None
    assert h.dtype == np.float16 and h.tolist() == [[1] * 3] * 2
    assert another.groups[0]["betas"] == (0.9, 0.999)


def test_there_is_no_pickle_in_it(tmp_path):
    model, optimizer = parts()
    save(tmp_path / "run.npz", model=model, optimizer=optimizer)
    with zipfile.ZipFile(tmp_path / "run.npz") as archive:
        for name in archive.namelist():
            np.lib.format.read_array(archive.open(name), allow_pickle=False)
    for extra in (np.array([object()]), np.array(["text"]), object(), {"a": {1, 2}}):
        with pytest.raises(InputError, match="checkpoint: extra"):
            save(tmp_path / "other.npz", extra=extra)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_what_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "run.npz"
    model, optimizer = parts()
    save(path, model=model, optimizer=optimizer)
    wide, its = parts(1, width=5)
    before = bits(wide, its)
    with pytest.raises(ShapeError, match=r"0.weight: \(4, 3\) for \(5, 3\)"):
        load(path, model=wide, optimizer=its)
    other, _ = parts(1)
    before_other = bits(other, its)
    with pytest.raises(InputError, match="options"):  # the model fits, the optimizer does not
        load(path, model=other, optimizer=SGD(other.parameters(), lr=0.1))
    assert bits(wide, its) == before and bits(other, its) == before_other
    with pytest.raises(InputError, match=r"holds no state for \['data', 'noise'\]; it has \['model', 'model/2.r"):
        load(path, data=its, rngs={"noise": np.random.default_rng()})
    strange = Sequential(*wide)
    strange[2].rng = np.random.Generator(np.random.MT19937(0))
    with pytest.raises(InputError, match="was a PCG64, here it is a MT19937"):
        load(path, model=Sequential(*other[:2], strange[2], other[3]))
    assert load(path, model=other).step == 0  # the weights alone


def test_every_damage_is_named(tmp_path):
    path = tmp_path / "run.npz"
    model, optimizer = parts()
    save(path, model=model, optimizer=optimizer, step=3)
    whole, before = path.read_bytes(), bits(model, optimizer)
    chance, refused = random.Random(0), 0
    with pytest.raises(DataError, match="there is no checkpoint .*none.npz"):
        load(tmp_path / "none.npz", model=model)
    for k in range(120):
        at = chance.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
        path.write_bytes(whole[:at] if k % 2 else flipped)
        try:
            load(path, model=model, optimizer=optimizer)
        except DataError as error:
            assert "run.npz" in str(error)
            refused += 1
        assert bits(model, optimizer) == before  # a flipped bit in the date of a member harms nobody
    assert refused > 90
    np.savez(path, a=np.ones(2))
    with pytest.raises(DataError, match="run.npz"):
        load(path)


def test_a_failed_write_leaves_the_checkpoint_of_before(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fails(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_bytes() == b"old"
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


def test_another_kernel_or_number_of_threads_is_said(tmp_path, monkeypatch):
    save(tmp_path / "run.npz", step=1)
    here = machine.conditions() | {"the BLAS kernel": "openblas 1 Haswell", "the number of BLAS threads": "64"}
    monkeypatch.setattr(checkpoint, "conditions", lambda: here)
    with pytest.warns(UserWarning) as said:
        load(tmp_path / "run.npz")
    texts = [str(w.message) for w in said]
    assert len(texts) == 2 and "here it is openblas 1 Haswell: the run goes on, but not with the same bits" in texts[0]
    assert "where the number of BLAS threads was" in texts[1] and "here it is 64" in texts[1]
    monkeypatch.undo()
    with (
        backend.form("numpy" if backend.current_form() != "numpy" else "auto"),
        pytest.warns(UserWarning, match="form"),
    ):
        load(tmp_path / "run.npz")


def test_safetensors_hold_the_numbers_and_not_the_memory(tmp_path):
    pytest.importorskip("safetensors")
    path, rng = tmp_path / "weights.safetensors", np.random.default_rng(0)
    a = rng.standard_normal((3, 4)).astype(np.float32)
    arrays = {"t": a.T, "strided": a[:, ::2], "number": np.float64(3), "ids": np.arange(3), "empty": np.zeros((0, 2))}
    save_safetensors(path, arrays)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for name, array in arrays.items():
        entry, (first, last) = header[name], header[name]["data_offsets"]
        assert entry["shape"] == list(np.shape(array)) and data[first:last] == np.asarray(array).tobytes(), name
    for name, array in load_safetensors(path).items():
        assert array.dtype == np.asarray(arrays[name]).dtype
        np.testing.assert_array_equal(array, arrays[name])
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="weights.safetensors .* is damaged or cut off"):
        load_safetensors(path)


def test_safetensors_are_read_by_pytorch_and_its_are_read_here(tmp_path):
    torch, st = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    model, _ = parts()
    save_safetensors(tmp_path / "ours.safetensors", model.state_dict())
    theirs = st.load_file(tmp_path / "ours.safetensors")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(theirs[name].numpy(), array)
    st.save_file({"w": torch.arange(6.0).reshape(2, 3)}, tmp_path / "theirs.safetensors")
    np.testing.assert_array_equal(load_safetensors(tmp_path / "theirs.safetensors")["w"], [[0, 1, 2], [3, 4, 5]])


def test_without_the_package_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(MissingExtra, match=r"pip install 'minidl\[data\]'"):
        save(tmp_path / "run.safetensors", step=1)
