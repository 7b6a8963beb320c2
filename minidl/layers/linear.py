"""Linear: y = x W^T + b, one matrix product.

x: (..., I)   weight: (O, I)   bias: (O,)   y: (..., O)

dL/dx = g W      dL/dW = g^T x      dL/db = sum of g over the batch
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import ShapeError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


@twin
def product(a, b, bias=None):
    """a b + bias.  a: (M, K), b: (K, N), bias: (N,) or None -> (M, N)."""
    y = a @ b
    if bias is not None:
        y += bias
    return y


def _composed(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


def _forward(x, weight, bias=None):
    if x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x has {x.shape[-1]} features (shape {x.shape}), the weight takes {weight.shape[1]} "
            f"(shape {weight.shape}); their last axes must agree"
        )
    return product(x.reshape(-1, x.shape[-1]), weight.T, bias).reshape(*x.shape[:-1], len(weight)), None


def _backward(g, out, saved, needs, x, weight, bias=None):
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return (
        product(g_rows, weight).reshape(x.shape) if needs[0] else None,
        product(g_rows.T, rows) if needs[1] else None,
        g_rows.sum(0) if bias is not None and needs[2] else None,
    )


def _axes(u, shape, x, weight, bias=None):
    u.reads(weight, 1, x, -1, fold=bias)
    if bias is not None:
        u.unite(weight[0], bias[0])
    return (*x[:-1], weight[0])


def _macs(shape, x, weight, bias=None):
    return int(np.prod(shape)) * weight[1]


linear = Op(
    "linear", "x W^T + b", forward=_forward, backward=_backward, composed=_composed, axes=_axes, macs=_macs
)  # fmt: skip


class Linear(Module):
    """y = x W^T + b with PyTorch's default initialisation, U(-1/sqrt(I), 1/sqrt(I)).

    x: (..., in_features) -> y: (..., out_features). Its weight has the shape of an Embedding's, so that the two can be
    tied: `linear.weight = embedding.weight` makes them one Parameter, stepped once with the sum of both gradients.
    """

    def __init__(self, in_features: int, out_features: int, *, rng: np.random.Generator, bias: bool = True):
        bound = in_features**-0.5
        self.weight = Parameter(rng.uniform(-bound, bound, (out_features, in_features)).astype(np.float32))
        self.bias = Parameter(rng.uniform(-bound, bound, out_features).astype(np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight) if self.bias is None else linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
