"""Cost: multiply-adds and weights, layer by layer, counted on the tape and not from a list of layer types.

A multiply-add is one product of a convolution or a matrix product; biases, activations, pooling and look-ups count 0.
A layer that runs at 35 time steps, or twice, costs as often as it runs; its weights count once.

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
    """One layer's multiply-adds, those kept when zero rows and columns are skipped, and its number of weights."""

    layer: str
    macs: int
    kept: int
    weights: int


@dataclass(frozen=True)
class Cost:
    """The layers in the order in which they run, and their totals. `str(cost)` is a table."""

    layers: tuple[LayerCost, ...]

    macs = property(lambda self: sum(row.macs for row in self.layers))
    kept = property(lambda self: sum(row.kept for row in self.layers))
    weights = property(lambda self: sum(row.weights for row in self.layers))

    def __getitem__(self, layer: str) -> LayerCost:
        return next(row for row in self.layers if row.layer == layer)

    def __str__(self):
        rows = [(r.layer, r.macs, r.kept, r.weights) for r in self.layers]
        lines = [f"{'layer':20} {'multiply-adds':>15} {'kept':>15} {'':>7} {'weights':>12}"]
        for name, macs, kept, weights in [*rows, ("total", self.macs, self.kept, self.weights)]:
            lines.append(f"{name:20} {macs:15,} {kept:15,} {kept / max(macs, 1):7.1%} {weights:12,}")
        return "\n".join(lines)


def cost(model, x) -> Cost:
    """The cost of model(x), for exactly this x: give one sample (or one word) for the cost of one.

    x: the model's argument, or a tuple of its arguments. A product without weights counts under "(no weights)".
    """
    net = Network(model, x)
    rows: dict[str, list[int]] = {}
    for node in net.tape:
        macs = _macs(node)
        owners = [net.name_of(a) for a in node.args if isinstance(a, Tensor)]
        layer = next((layer_of(name) for name in owners if name), "(no weights)")
        if macs:
            row = rows.setdefault(layer, [0, 0])
            row[0] += macs
            row[1] += round(macs * _kept(net, node))
    weights: dict[str, int] = {}
    for name, p in net.model.named_parameters():
        weights[layer_of(name)] = weights.get(layer_of(name), 0) + p.numel()
    names = dict.fromkeys([*rows, *weights])
    run = {name: tuple(rows.get(name, (0, 0))) for name in names}
    return Cost(tuple(LayerCost(n, macs, kept, weights.get(n, 0)) for n, (macs, kept) in run.items()))


def _macs(node) -> int:
    if isinstance(node.function, Op):
        shape = tuple(o.shape for o in node.out) if isinstance(node.out, tuple) else node.out.shape
        return node.function.macs(shape, *map(np.shape, node.values), **node.kwargs) if node.function.macs else 0
    return node.out.size * node.values[0].shape[-1] if node.function is np.matmul else 0


def _kept(net, node) -> float:
    """Which part of the node's products is left: over its weight matrices, (nonzero rows x nonzero columns) / all."""
    kept = total = 0
    for a, value in zip(node.args, node.values, strict=True):
        if isinstance(a, Tensor) and net.is_fixed(a) and value.ndim > 1:
            matrix = value.reshape(len(value), -1) != 0
            kept += int(matrix.any(1).sum()) * int(matrix.any(0).sum())
            total += matrix.size
    return kept / total if total else 1.0
