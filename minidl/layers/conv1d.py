"""Conv1d: a convolution along one axis is a Conv2d over an image of height 1.

x: (N, C, L)   weight: (O, C/groups, K)   bias: (O,)   y: (N, O, Q)
y[n,o,q] = b[o] + sum_{c,k} weight[o,c,k] * x[n, c, q*stride + k*dilation - padding]
"""

from __future__ import annotations

import numpy as np

from minidl.errors import ShapeError
from minidl.layers.conv import conv2d
from minidl.layers.module import Module, Parameter
from minidl.tensor import Tensor


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1):
    """conv2d with one more axis of length 1 in x and in the weight."""
    if x.ndim != 3 or weight.ndim != 3:
        raise ShapeError(f"conv1d: x has shape {x.shape}, the weight {weight.shape}; they must be (N, C, L), (O, C, K)")
    args = (x.unsqueeze(2), weight.unsqueeze(2)) if bias is None else (x.unsqueeze(2), weight.unsqueeze(2), bias)
    return conv2d(*args, stride=(1, stride), padding=(0, padding), dilation=(1, dilation), groups=groups).squeeze(2)


class Conv1d(Module):
    """1-D convolution with PyTorch's default initialisation. x: (N, in_channels, L) -> y: (N, out_channels, Q)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, rng: np.random.Generator,
        stride=1, padding=0, dilation=1, groups=1, bias=True,
    ):  # fmt: skip
        if in_channels % groups or out_channels % groups:
            raise ShapeError(f"{in_channels} and {out_channels} channels do not divide into {groups} groups")
        bound = (in_channels // groups * kernel_size) ** -0.5
        shape = (out_channels, in_channels // groups, kernel_size)
        self.weight = Parameter(rng.uniform(-bound, bound, shape).astype(np.float32))
        self.bias = Parameter(rng.uniform(-bound, bound, out_channels).astype(np.float32)) if bias else None
        self.options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return conv1d(x, self.weight, self.bias, **self.options)

    def extra_repr(self) -> str:
        o, c, k = self.weight.shape
        changed = {k: v for k, v in self.options.items() if v != (0 if k == "padding" else 1)}
        return f"{c * self.options['groups']}, {o}, {k}" + "".join(f", {k}={v}" for k, v in changed.items())
