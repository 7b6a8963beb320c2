"""Data sets: find them (`fetch`), read them (`images`, `text`), cut them into minibatches (`loader`)."""

from minidl.data.images import ImageSet, fashion_mnist, mnist
from minidl.data.loader import batches
from minidl.data.text import TextSet, batch_stream, english, plain_text, ptb

__all__ = [
    "ImageSet", "TextSet", "batch_stream", "batches", "english", "fashion_mnist", "mnist", "plain_text", "ptb",
]  # fmt: skip
