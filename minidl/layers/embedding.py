"""Embedding: row i of a table stands for word i.

    weight: (V, E)   ids: (...) integers   y: (..., E);  y[...] = weight[ids[...]]
    dL/dweight[v] = sum of g over all places where ids == v
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


@twin
def add_rows(g, ids, rows):
    """out[v] = sum of the rows of g whose id is v.  g: (M, E), ids: (M,) -> out: (rows, E)."""
    out = np.zeros((rows, g.shape[1]), g.dtype)
    np.add.at(out, ids, g)
    return out


def _forward(weight, ids):
    return weight[ids], None


def _backward(g, out, saved, needs, weight, ids):
    return add_rows(g.reshape(-1, g.shape[-1]), ids.ravel(), len(weight)), None


def _composed(weight, ids):
    return weight[ids]


def _axes(u, shape, weight, ids):
    u.pin(weight[0])  # every word may be asked for
    return (*(u.pinned(n) for n in shape[:-1]), weight[1])


embedding = Op(
    "embedding", "weight[ids]", forward=_forward, backward=_backward, composed=_composed, axes=_axes
)  # fmt: skip


class Embedding(Module):
    """A table of V rows of E numbers, N(0, 1) at first as in PyTorch. ids: (...) -> y: (..., E)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rng: np.random.Generator):
        self.weight = Parameter(rng.standard_normal((num_embeddings, embedding_dim), dtype=np.float32))

    def forward(self, ids) -> Tensor:
        ids = np.asarray(ids)
        if ids.size and not (0 <= ids.min() and ids.max() < self.weight.shape[0]):
            raise InputError(
                f"embedding: ids run from {ids.min()} to {ids.max()}, the table has {self.weight.shape[0]} rows"
            )
        return embedding(self.weight, ids)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"
