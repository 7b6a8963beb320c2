"""Fully-connected networks: the MLP of Structured Sparsity Learning, and F1 of the large-batch papers."""

from __future__ import annotations

import numpy as np

from minidl.layers import BatchNorm1d, Linear, Parameter, ReLU, Sequential


def mlp(sizes=(784, 500, 300, 10), *, rng: np.random.Generator) -> Sequential:
    """Linear layers with ReLU between them, He initialisation (std sqrt(2 / fan_in)), biases 0.

    x: (N, sizes[0]) -> logits: (N, sizes[-1]).
    """
    steps: list = []
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layer = Linear(a, b, rng=rng)
        layer.weight = Parameter((rng.standard_normal((b, a)) * (2 / a) ** 0.5).astype(np.float32))
        layer.bias = Parameter(np.zeros(b, np.float32))
        steps += [layer, ReLU()] if i < len(sizes) - 2 else [layer]
    return Sequential(*steps)


def f1(hidden: int = 512, layers: int = 5, *, rng: np.random.Generator) -> Sequential:
    """F1: 784 - (hidden, BatchNorm, ReLU) x layers - 10. (Keskar et al. 2017; Hoffer et al. 2017)

    x: (N, 784) -> logits: (N, 10).
    """
    steps: list = []
    width = 784
    for _ in range(layers):
        steps += [Linear(width, hidden, rng=rng), BatchNorm1d(hidden), ReLU()]
        width = hidden
    return Sequential(*steps, Linear(width, 10, rng=rng))
