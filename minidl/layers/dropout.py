"""Dropout: in training, every element is 0 with probability p and divided by 1 - p otherwise, so its mean stays.

In a sequence x: (T, B, F) plain dropout draws anew at every time step; *variational* dropout draws one mask for the
whole sequence, so that a feature is there or missing from beginning to end. (Srivastava et al. 2014; Gal and
Ghahramani 2016)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError, ShapeError
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
        mask = self.rng.random(self.mask_shape(x), dtype=np.float32) >= self.p
        return x * (mask / (1 - self.p)).astype(x.dtype)

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return x.shape

    def extra_repr(self) -> str:
        return f"p={self.p}"


class VariationalDropout(Dropout):
    """Dropout with one mask (B, F) for all time steps. x: (T, B, F) -> y: (T, B, F)."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        if x.ndim != 3:
            raise ShapeError(f"VariationalDropout takes a sequence (T, B, F); got shape {x.shape}")
        return (1, *x.shape[1:])
