"""Embedding: row i of a table stands for word i.

weight: (V, E)   ids: (...) integers   y: (..., E);  y[...] = weight[ids[...]]
dL/dweight[v] = sum of g over all places where ids == v
"""

from __future__ import annotations

import numpy as np

from minidl.arguments import by_position
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


_sort = by_position("embedding", _forward)


def _arrays(args, given):
    weight, ids = _sort(args, given)
    if weight.dtype.kind in "iu":  # PyTorch's order
        weight, ids = ids, weight
    return weight, ids.data if isinstance(ids, Tensor) else ids


embedding = Op(
    "embedding", "weight[ids]", forward=_forward, backward=_backward, composed=_composed, axes=_axes, arrays=_arrays
)  # fmt: skip


class Embedding(Module):
    """A table of V rows of E numbers, N(0, 1) at first as in PyTorch. ids: (...) -> y: (..., E).

    padding_idx: an id whose row is 0 at first and receives no gradient.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, rng):
        self.weight = Parameter(rng.standard_normal((num_embeddings, embedding_dim), dtype=np.float32))
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise InputError(f"padding_idx {padding_idx} is no row of a table of {num_embeddings}")
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, ids) -> Tensor:
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise InputError(f"embedding: ids are {ids.dtype}; they must be integers, the places of rows in a table")
        if ids.size and not (0 <= ids.min() and ids.max() < self.weight.shape[0]):
            raise InputError(
                f"embedding: ids run from {ids.min()} to {ids.max()}, the table has {self.weight.shape[0]} rows"
            )
        y = embedding(self.weight, ids)
        return y if self.padding_idx is None else np.where((ids == self.padding_idx)[..., None], y.detach(), y)

    def extra_repr(self) -> str:
        padding = f", padding_idx={self.padding_idx}" if self.padding_idx is not None else ""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}{padding}"
