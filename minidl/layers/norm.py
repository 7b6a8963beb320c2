"""Batch normalisation: every channel gets mean 0 and variance 1 over the batch, then a learned scale and shift.

    x: (N, C), (N, C, L) or (N, C, H, W)   weight (gamma), bias (beta): (C,)
    xhat = (x - mean) / sqrt(var + eps)      y = gamma xhat + beta        mean, var over all axes but C

    With m values per channel, and sums over the batch:
    dL/dx = gamma / sqrt(var + eps) * (g - mean(g) - xhat mean(g xhat))
    dL/dgamma = sum(g xhat)      dL/dbeta = sum(g)

In evaluation the running statistics take the place of the batch's. (Ioffe and Szegedy 2015)

*Ghost batches*: statistics over parts of, say, 128 rows keep the noise of a small batch while the step sees a large
one; each part moves the running statistics as a batch of its own would. (Hoffer, Hubara and Soudry 2017)
"""

from __future__ import annotations

import numpy as np

from minidl import rules
from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


def _over(x):  # the axes a channel's statistics run over, and its shape for broadcasting
    return (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)


@twin
def channel_statistics(x):
    """(mean, biased variance) of every channel.  x: (N, C, ...) -> (C,), (C,)."""
    axes, shape = _over(x)
    mean = x.mean(axes)
    return mean, np.square(x - mean.reshape(shape)).mean(axes)


@twin
def normalise(x, mean, inverse, weight, bias):
    """gamma (x - mean) inverse + beta.  x: (N, C, ...), the others: (C,) -> y: (N, C, ...)."""
    _, shape = _over(x)
    return (x - mean.reshape(shape)) * (inverse * weight).reshape(shape) + bias.reshape(shape)


@twin
def normalise_backward(g, x, mean, inverse, weight):
    """(dL/dx, dL/dgamma, dL/dbeta), mean and inverse being functions of x.  g, x: (N, C, ...), the others: (C,)."""
    axes, shape = _over(x)
    xhat = (x - mean.reshape(shape)) * inverse.reshape(shape)
    dbias, dweight = g.sum(axes), (g * xhat).sum(axes)
    m = x.size // x.shape[1]
    dx = (g - dbias.reshape(shape) / m - xhat * (dweight.reshape(shape) / m)) * (weight * inverse).reshape(shape)
    return dx, dweight, dbias


def _forward(x, weight, bias, *statistics, eps):
    """statistics: mean and biased variance of x where somebody has them already, so that they are not taken twice."""
    mean, variance = statistics or channel_statistics(x)
    inverse = 1 / np.sqrt(variance + eps)
    return normalise(x, mean, inverse, weight, bias), (mean, inverse)


def _backward(g, out, saved, needs, x, weight, bias, *statistics, eps):
    return normalise_backward(g, x, *saved, weight)


def _composed(x, weight, bias, *statistics, eps):
    axes, shape = _over(x)
    centred = x - x.mean(axes, keepdim=True)
    xhat = centred / np.sqrt(np.square(centred).mean(axes, keepdim=True) + eps)
    return xhat * weight.reshape(shape) + bias.reshape(shape)


def _axes(u, shape, x, *per_channel, **kwargs):
    for ids in per_channel:
        u.unite(x[1], ids[0])
    return x


batch_norm = Op(
    "batch_norm", "gamma (x - mean) / sqrt(var + eps) + beta", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes,
)  # fmt: skip


class _BatchNorm(Module):
    """running = (1 - momentum) running + momentum batch; the running variance is the unbiased one, as in PyTorch."""

    buffers = ("running_mean", "running_var")
    dims: tuple[int, ...]  # how many axes the input may have

    def __init__(self, num_features: int, eps=1e-5, momentum=0.1, affine: bool = True, *, ghost: int | None = None):
        if ghost is not None and ghost < 1:
            raise InputError(f"a ghost batch of {ghost} rows: it must be at least 1, or None for the whole batch")
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.eps, self.momentum = float(eps), float(momentum)  # np.float64 would make float64 of float32
        self.ghost = ghost

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.dims or x.shape[1] != len(self.running_mean):
            raise ShapeError(f"{type(self).__name__} of {len(self.running_mean)} channels got shape {x.shape}")
        if not self.training:
            _, shape = _over(x)
            inverse = 1 / np.sqrt(self.running_var + self.eps)
            scale = inverse if self.weight is None else self.weight * inverse
            shift = -self.running_mean * scale if self.bias is None else self.bias - self.running_mean * scale
            return x * scale.reshape(shape) + shift.reshape(shape)
        if self.ghost is None or len(x) <= self.ghost:
            return self._train(x)
        return rules.concatenate(*(self._train(part) for part in x.split(self.ghost)))

    def _train(self, x: Tensor) -> Tensor:
        m = x.numel() // x.shape[1]
        if m < 2:
            raise ShapeError(f"BatchNorm needs more than one value per channel to train; shape {x.shape} has {m}")
        mean, variance = channel_statistics(x.data)
        keep = 1 - self.momentum
        self.running_mean = keep * self.running_mean + self.momentum * mean
        self.running_var = keep * self.running_var + self.momentum * (m / (m - 1)) * variance
        weight = np.ones_like(mean) if self.weight is None else self.weight
        bias = np.zeros_like(mean) if self.bias is None else self.bias
        return batch_norm(x, weight, bias, mean, variance, eps=self.eps)

    def extra_repr(self) -> str:
        affine = ", affine=False" * (self.weight is None)
        return str(len(self.running_mean)) + affine + (f", ghost={self.ghost}" if self.ghost else "")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of x: (N, C) or (N, C, L)."""

    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x: (N, C, H, W)."""

    dims = (4,)
