"""Cost: multiply-adds, weights and activations, layer by layer, counted on the tape and not from a list of layer types.

A multiply-add is one product of a convolution or a matrix product; biases, BatchNorm, activations, pooling and look-ups
count 0 there: `other` counts the numbers that they compute, under the layer that ran before them. A layer that runs at
35 time steps, or twice, costs as often as it runs; its weights count once.

`kept` counts what is left when rows and columns of weights that are entirely 0 are skipped (for a convolution a column
is one (c, k, l) position over all filters): with 5 of 20 filters that are not 0, 25 % of LeNet's conv1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidl.sparsity.units import Network, layer_of
from minidl.tensor import Op, Tensor


@dataclass(frozen=True)
class LayerCost:
    """One layer: multiply-adds, those kept when zero rows and columns are skipped, and its number of weights.

    other: numbers computed by everything that is no product; activations: all numbers that are written; traffic: bytes
    that are read and written if every operation fetches its arguments and stores its result once.
    """

    layer: str
    macs: int
    kept: int
    weights: int
    other: int = 0
    activations: int = 0
    traffic: int = 0


def _total(name: str) -> property:
    return property(lambda self: sum(getattr(row, name) for row in self.layers))


@dataclass(frozen=True)
class Cost:
    """The layers in the order in which they run, and their totals. `str(cost)` is a table."""

    layers: tuple[LayerCost, ...]

    macs, kept, weights = _total("macs"), _total("kept"), _total("weights")
    other, activations, traffic = _total("other"), _total("activations"), _total("traffic")

    def __getitem__(self, layer: str) -> LayerCost:
        return next(row for row in self.layers if row.layer == layer)

    def __str__(self):
        lines = [f"{'layer':20} {'multiply-adds':>15} {'kept':>23} {'weights':>12} {'activations':>12} {'other':>12}"]
        for r in (*self.layers, self):
            name = "total" if r is self else r.layer
            part = f"{r.kept / r.macs:7.1%}" if r.macs else " " * 7
            lines.append(
                f"{name:20} {r.macs:15,} {r.kept:15,} {part} {r.weights:12,} {r.activations:12,} {r.other:12,}"
            )
        return "\n".join(lines)


def cost(model, x) -> Cost:
    """The cost of model(x), for exactly this x: give one sample (or one word) for the cost of one.

    x: the model's argument, or a tuple of its arguments. A product without weights counts under "(no weights)".
    """
    net = Network(model, x)
    rows: dict[str, np.ndarray] = {}
    tape = [node for node in net.tape if not all(map(net.is_fixed, node.args))]
    owners = [next((layer_of(name) for name in map(net.name_of, node.args) if name), None) for node in tape]
    layer = next(filter(None, owners), "(no weights)")
    for node, named in zip(tape, owners, strict=True):
        macs, layer = _macs(node), named or layer
        row = rows.setdefault(layer if named or not macs else "(no weights)", np.zeros(5, np.int64))
        row += (macs, round(macs * _kept(net, node)) if macs else 0, *_numbers(net, node, macs))
    weights: dict[str, int] = {}
    for name, p in net.model.named_parameters():
        weights[layer_of(name)] = weights.get(layer_of(name), 0) + p.numel()
    found = []
    for name in dict.fromkeys([*rows, *weights]):
        macs, kept, *others = map(int, rows.get(name, np.zeros(5, np.int64)))
        if macs or any(others) or name in weights:
            found.append(LayerCost(name, macs, kept, weights.get(name, 0), *others))
    return Cost(tuple(found))


def _numbers(net, node, macs: int) -> tuple[int, int, int]:
    """(numbers computed otherwise than by products, numbers written, bytes moved); a view computes and moves none."""
    outs = node.out if isinstance(node.out, tuple) else (node.out,)
    arrays = [a for a in node.values if isinstance(a, np.ndarray)]
    if any(np.may_share_memory(out, a) for out in outs for a in arrays):
        return 0, 0, 0
    size = sum(out.size for out in outs)
    added = any(net.is_fixed(a) and np.ndim(v) == 1 for a, v in zip(node.args, node.values, strict=True))
    return size if added or not macs else 0, size, sum(a.nbytes for a in (*arrays, *outs))


def _macs(node) -> int:
    if isinstance(node.function, Op):
        shape = tuple(o.shape for o in node.out) if isinstance(node.out, tuple) else node.out.shape
        return node.function.macs(shape, *map(np.shape, node.values), **node.kwargs) if node.function.macs else 0
    return node.out.size * node.values[0].shape[-1] if node.function is np.matmul else 0


def _kept(net, node) -> float:
    """Which part of the node's products is left: over its weight matrices, (nonzero rows x nonzero columns) / all."""
    kept = total = 0
    for a, value in zip(node.args, node.values, strict=True):
        if isinstance(a, Tensor) and net.is_fixed(a) and value.ndim > 1 and value.dtype.kind == "f":
            matrix = value.reshape(len(value), -1) != 0
            kept += int(matrix.any(1).sum()) * int(matrix.any(0).sum())
            total += matrix.size
    return kept / total if total else 1.0
