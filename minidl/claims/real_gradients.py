"""What claims about ternary gradients share: real ones, of LeNet on its way through a training in floats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np

from minidl.claims.claim import Context
from minidl.data.images import ImageSet
from minidl.data.loader import batches
from minidl.layers import Module, cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD
from minidl.progress import Progress
from minidl.tensor import Tensor
from minidl.train import fit

BATCH, RATE, MOMENTUM = 64, 0.01, 0.9  # the paper's, for LeNet


def pixels(images: np.ndarray) -> np.ndarray:
    """(N, 28, 28) bytes -> (N, 1, 28, 28) float32 in [-1, 1)."""
    return (images[:, None].astype(np.float32) - 128) / 128


def lenet_on_the_way(
    ctx: Context, digits: ImageSet, at: Sequence[int], bar: Progress
) -> Iterator[tuple[int, Module, np.ndarray]]:
    """Train TernGrad's LeNet in floats; at these steps, which begin with 0 and increase, yield (step, model, rows).

    rows: (64,) images to take a gradient of, drawn anew at each of the steps.
    """
    model = lenet_terngrad(ctx.rng("weights"))
    optimizer = SGD(model.named_parameters(), RATE, momentum=MOMENTUM)
    rng, count = ctx.rng("batches"), len(digits.train_labels)

    def forever():
        while True:
            for rows in batches(count, BATCH, rng, drop_last=True):
                yield pixels(digits.train_images[rows]), digits.train_labels[rows]

    stream = forever()
    for start, stop in [(0, 0), *pairwise(at)]:
        fit(model, islice(stream, stop - start), optimizer, progress=bar)
        yield stop, model, ctx.rng("gradient", stop).permutation(count)[:BATCH]


def gradients(model: Module, digits: ImageSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of the mean loss over these images: {name: a flat array}."""
    for p in model.parameters():
        p.grad = None
    cross_entropy(model(Tensor(pixels(digits.train_images[rows]))), digits.train_labels[rows]).backward()
    return {name: p.grad.reshape(-1).copy() for name, p in model.named_parameters()}
