"""Layers without weights: ReLU, Tanh, Sigmoid and Flatten, for use inside Sequential."""

from __future__ import annotations

from minidl import rules
from minidl.layers.module import Module
from minidl.tensor import Tensor


class ReLU(Module):
    """y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return rules.relu(x)


class Tanh(Module):
    """y = tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return rules.sigmoid(x)


class Flatten(Module):
    """x: (N, C, H, W) -> y: (N, C H W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)
