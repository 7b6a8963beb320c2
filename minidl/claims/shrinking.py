"""Small tools of the claims about shrinking networks: units that go at random, weights drawn anew, differences with
their standard error, times side by side, and what language models say.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minidl.data.text import EOS, TextSet
from minidl.layers import Module
from minidl.models.lstm_lm import generate
from minidl.optim import SGD
from minidl.sparsity import compact, silence_, units
from minidl.train import predict

BATCH = 64
WORDS_SAID = 40  # by each language model, for the reader
M = TypeVar("M", bound=Module)


def caffe_sgd(model: Module, weight_decay: float = 5e-4) -> SGD:
    """Caffe's solver: momentum .9 with the rate, which a schedule sets at every step, inside the buffer."""
    return SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=weight_decay, form="caffe")


def with_arrays(model: M, state: dict[str, np.ndarray]) -> M:
    """A copy of the model that holds these arrays, whatever their sizes: a shrunk network from its state_dict()."""
    model = copy.deepcopy(model)
    for name, p in model.named_parameters():
        p.data = state[name]
    return model


def re_initialised(model: M, fresh: Callable[[tuple[int, ...]], np.ndarray]) -> M:
    """A copy with the same sizes and the same zeros, its other weights drawn anew by fresh(shape), its biases 0."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        new = fresh(p.shape) * (p.data != 0) if p.ndim > 1 else np.zeros(p.shape)
        p.data = new.astype(p.dtype)
    return model


def randomly_shrunk(model: Module, x, kept: dict[str, np.ndarray], rng: np.random.Generator) -> Module:
    """The model with as many units in each layer as `kept` lists, chosen at random, and no training after that."""
    model, chosen = copy.deepcopy(model), []
    found = units(model, x)
    for layer, indices in kept.items():
        own = [u for u in found if u.layer == layer]
        chosen += [own[k] for k in rng.choice(len(own), len(own) - len(indices), replace=False)]
    silence_(model, chosen)
    return compact(model, x)[0]


def randomly_emptied(model: M, columns: dict[str, int], rng: np.random.Generator) -> M:
    """The model with all but so many columns of the named weights, chosen at random, set to 0."""
    model = copy.deepcopy(model)
    weights = dict(model.named_parameters())
    for name, count in columns.items():
        matrix = weights[name].data.reshape(len(weights[name].data), -1).copy()
        matrix[:, rng.permutation(matrix.shape[1])[count:]] = 0
        weights[name].data = matrix.reshape(weights[name].shape)
    return model


def mistakes(model: Module, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each image 1 if the model takes it for another digit, else 0."""
    return (predict(model, x).argmax(1) != labels).astype(int)


def paired(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How many percentage points more mistakes `one` makes than `other` on the same images, and its standard error."""
    more = 100.0 * (one - other)
    return float(more.mean()), float(more.std() / len(more) ** 0.5)


def speed_up(first: Callable[[], object], second: Callable[[], object], rounds: int = 25):
    """time(first) / time(second): (median, (lower quartile, upper quartile)) over alternating runs."""
    ratios = []
    for turn in range(rounds + 3):
        seconds = []
        for run in (first, second):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        if turn >= 3:  # the first ones warm caches and compile
            ratios.append(seconds[0] / seconds[1])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(middle), (float(low), float(high))


def said_by(text: TextSet, models: dict[str, Any], rng) -> str:
    """What each model says behind a line's end, with the same random numbers: a reader hears what training left."""
    seed = int(rng.integers(1 << 32))
    start = text.numbers(EOS)
    said = {name: generate(m, start, WORDS_SAID, rng=np.random.default_rng(seed)) for name, m in models.items()}
    return "\n".join(f"the {name} model says: {text.words(ids)}" for name, ids in said.items())


def product(weight: np.ndarray, pixels: int) -> Callable[[], object]:
    """The matrix product of a layer without its zero rows and columns, for so many output pixels: what the paper times.

    weight: (N, ...) is seen as a matrix (N, K); the columns of the image are made once, outside of what is timed.
    """
    matrix = weight.reshape(len(weight), -1)
    matrix = np.ascontiguousarray(matrix[np.ix_(matrix.any(1), matrix.any(0))])
    columns = np.ones((matrix.shape[1], pixels), matrix.dtype)
    return lambda: matrix @ columns
