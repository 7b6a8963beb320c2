"""Dropout: in training, every element is 0 with probability p and divided by 1 - p otherwise, so its mean stays."""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.layers.module import Module
from minidl.tensor import Tensor


class Dropout(Module):
    """y = x * mask / (1 - p), mask ~ Bernoulli(1 - p) per element, drawn from the Generator that was passed in."""

    def __init__(self, p: float, *, rng: np.random.Generator):
        if not 0 <= p < 1:
            raise InputError(f"dropout probability {p} must be at least 0 and below 1")
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        mask = self.rng.random(x.shape, dtype=np.float32) >= self.p
        return x * (mask / (1 - self.p)).astype(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"
