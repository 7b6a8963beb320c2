"""Batch normalisation: every channel gets mean 0 and variance 1 over the batch, then a learned scale and shift.

    x: (N, C) or (N, C, H, W)   weight (gamma), bias (beta): (C,)
    xhat = (x - mean) / sqrt(var + eps)      y = gamma xhat + beta        mean, var over all axes but C

    With m values per channel, and sums over the batch:
    dL/dx = gamma / sqrt(var + eps) * (g - mean(g) - xhat mean(g xhat))
    dL/dgamma = sum(g xhat)      dL/dbeta = sum(g)

In evaluation the running statistics take the place of the batch's. (Ioffe and Szegedy 2015)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import ShapeError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


def _over(x):  # the axes a channel's statistics run over, and its shape for broadcasting
    return (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)


def _forward(x, weight, bias, *, eps):
    axes, shape = _over(x)
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + eps)
    xhat = centred * inverse
    return xhat * weight.reshape(shape) + bias.reshape(shape), (xhat, inverse)


def _backward(g, out, saved, needs, x, weight, bias, *, eps):
    xhat, inverse = saved
    axes, shape = _over(x)
    dbias, dweight = g.sum(axes), (g * xhat).sum(axes)
    m = x.size // x.shape[1]
    dx = None
    if needs[0]:
        dx = (g - dbias.reshape(shape) / m - xhat * (dweight.reshape(shape) / m)) * (weight.reshape(shape) * inverse)
    return dx, dweight, dbias


def _composed(x, weight, bias, *, eps):
    axes, shape = _over(x)
    centred = x - x.mean(axes, keepdim=True)
    xhat = centred / np.sqrt(np.square(centred).mean(axes, keepdim=True) + eps)
    return xhat * weight.reshape(shape) + bias.reshape(shape)


def _axes(u, shape, x, weight, bias, **kwargs):
    u.unite(x[1], weight[0])
    u.unite(x[1], bias[0])
    return x


batch_norm = Op(
    "batch_norm", "gamma (x - mean) / sqrt(var + eps) + beta", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes,
)  # fmt: skip


class _BatchNorm(Module):
    """running = (1 - momentum) running + momentum batch; the running variance is the unbiased one, as in PyTorch."""

    buffers = ("running_mean", "running_var")
    dims: tuple[int, ...]  # how many axes the input may have

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1):
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.eps, self.momentum = float(eps), float(momentum)  # np.float64 would make float64 of float32

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.dims or x.shape[1] != len(self.running_mean):
            raise ShapeError(f"{type(self).__name__} of {len(self.running_mean)} channels got shape {x.shape}")
        if not self.training:
            _, shape = _over(x)
            inverse = 1 / np.sqrt(self.running_var + self.eps)
            scale = self.weight * inverse
            return x * scale.reshape(shape) + (self.bias - self.running_mean * scale).reshape(shape)
        axes, _ = _over(x)
        m = x.numel() // x.shape[1]
        if m == 1:
            raise ShapeError(f"BatchNorm needs more than one value per channel to train; shape {x.shape} has one")
        keep = 1 - self.momentum
        self.running_mean = keep * self.running_mean + self.momentum * x.data.mean(axes)
        self.running_var = keep * self.running_var + self.momentum * x.data.var(axes, ddof=1)
        return batch_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return str(len(self.running_mean))


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of x: (N, C)."""

    dims = (2,)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x: (N, C, H, W)."""

    dims = (4,)
