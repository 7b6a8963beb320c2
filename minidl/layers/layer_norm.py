"""Layer normalisation: every row gets mean 0 and variance 1 by itself, then a learned scale and shift.

    x: (..., D)   weight (gamma), bias (beta): (D,)      D may stand for several last axes
    xhat = (x - mean) / sqrt(var + eps)      y = gamma xhat + beta        mean, var over D

    With G = g gamma and means over D:
    dL/dx = 1 / sqrt(var + eps) * (G - mean(G) - xhat mean(G xhat))
    dL/dgamma = sum over the rows of g xhat      dL/dbeta = sum over the rows of g

No statistics of a batch, so training and evaluation are the same. (Ba, Kiros and Hinton 2016)
"""

from __future__ import annotations

import numpy as np

from minidl.arguments import by_position
from minidl.backend import twin
from minidl.errors import ShapeError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


@twin
def normalise_rows(x, weight, bias, eps):
    """(y, mean, 1 / sqrt(var + eps)).  x: (M, D), weight, bias: (D,) -> (M, D), (M, 1), (M, 1)."""
    mean = x.mean(1, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.square(centred).mean(1, keepdims=True) + eps)
    return centred * inverse * weight + bias, mean, inverse


@twin
def normalise_rows_backward(g, x, weight, mean, inverse):
    """(dL/dx, dL/dgamma, dL/dbeta).  g, x: (M, D), weight: (D,), mean, inverse: (M, 1)."""
    xhat = (x - mean) * inverse
    scaled = g * weight
    dx = (scaled - scaled.mean(1, keepdims=True) - xhat * (scaled * xhat).mean(1, keepdims=True)) * inverse
    return dx, (g * xhat).sum(0), g.sum(0)


def _rows(x, weight):
    if x.shape[x.ndim - weight.ndim :] != weight.shape or not weight.size:
        raise ShapeError(
            f"layer_norm: x has shape {x.shape}, the weight {weight.shape}; the last axes of x must be the weight's"
        )
    return x.reshape(x.size // weight.size, weight.size)


def _forward(x, weight, bias, *, eps=1e-5):
    y, *saved = normalise_rows(_rows(x, weight), weight.ravel(), bias.ravel(), eps)
    return y.reshape(x.shape), saved


def _backward(g, out, saved, needs, x, weight, bias, *, eps=1e-5):
    rows, flat = (g.reshape(x.size // weight.size, weight.size), _rows(x, weight)), weight.ravel()
    dx, dweight, dbias = normalise_rows_backward(*rows, flat, *saved)
    return dx.reshape(x.shape), dweight.reshape(weight.shape), dbias.reshape(weight.shape)


def _composed(x, weight, bias, *, eps=1e-5):
    axes = tuple(range(x.ndim - weight.ndim, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred / np.sqrt(np.square(centred).mean(axes, keepdim=True) + eps) * weight + bias


def _axes(u, shape, x, weight, bias, **kwargs):
    for ids in (*x[len(x) - len(weight) :], *weight, *bias):
        u.pin(ids)  # one number less would change the mean of all the others
    return x


_sort = by_position("layer_norm", _forward)


def _arrays(args, given):
    """Ours, (x, weight, bias, eps=...), or PyTorch's, (x, normalized_shape, weight=None, bias=None, eps=...)."""
    if len(args) > 1 and isinstance(args[1], (int, tuple, list)):
        given["normalized_shape"], args = args[1], (args[0], *args[2:])
    if (shape := given.pop("normalized_shape", None)) is None:
        return _sort(args, given)
    x, weight, bias, *eps = (*args, None, None)[: max(3, len(args))]
    weight, bias = given.pop("weight", weight), given.pop("bias", bias)
    weight = np.ones(shape, x.dtype) if weight is None else weight
    if weight.shape != np.empty(shape).shape:
        raise ShapeError(f"layer_norm: normalized_shape is {shape}, the weight has shape {weight.shape}; they differ")
    return _sort((x, weight, np.zeros(shape, x.dtype) if bias is None else bias, *eps), given)


layer_norm = Op(
    "layer_norm", "gamma (x - mean) / sqrt(var + eps) + beta, row by row", forward=_forward, backward=_backward,
    composed=_composed, axes=_axes, arrays=_arrays,
)  # fmt: skip


class LayerNorm(Module):
    """Layer normalisation over the last axes. x: (..., *normalized_shape) -> y of the same shape."""

    def __init__(self, normalized_shape, eps: float = 1e-5, elementwise_affine: bool = True):
        self.shape = (normalized_shape,) if np.ndim(normalized_shape) == 0 else tuple(normalized_shape)
        self.weight = Parameter(np.ones(self.shape, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.shape, np.float32)) if elementwise_affine else None
        self.eps = float(eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return layer_norm(x, self.shape, eps=self.eps)
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.shape)) + ", elementwise_affine=False" * (self.weight is None)
