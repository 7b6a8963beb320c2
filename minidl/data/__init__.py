"""Data sets: find (`fetch`), read (`images`, `cifar`, `text`) and vary them (`augment`), cut minibatches (`loader`)."""

from minidl.data.augment import crop_and_mirror, random_crop, random_mirror
from minidl.data.cifar import cifar10
from minidl.data.images import ImageSet, fashion_mnist, mnist
from minidl.data.loader import DataLoader, batches
from minidl.data.text import TextSet, batch_stream, english, plain_text, ptb, wikitext2

__all__ = [
    "DataLoader", "ImageSet", "TextSet", "batch_stream", "batches", "cifar10", "crop_and_mirror", "english",
    "fashion_mnist", "mnist", "plain_text", "ptb", "random_crop", "random_mirror", "wikitext2",
]  # fmt: skip
