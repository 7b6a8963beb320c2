"""guard: find out who wrote into an array that backward still needs.

A graph keeps the arrays it was recorded with. Replacing `p.data` is harmless; writing into it (`p.data -= ...` between
forward and backward, a batch buffer that is filled again too early) makes the gradient wrong without a word.

    with guard():
        loss = model(x)          # every recorded array gets a checksum
    loss.backward()              # GraphError: argument 1 of multiply ... was written into

Two cheaper designs were left aside. Making saved arrays read-only, as MyGrad does, gives Numba another type for each of
them (every kernel would be compiled again for every combination), and a bare "assignment destination is read-only" in
place of a reason. Comparing a few elements on every call misses a write into one row. So nothing is watched, and
nothing costs time, outside the block; inside, each array is read once when recorded and once in backward.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager

import numpy as np

from minidl.errors import GraphError
from minidl.tensor import Node, _trace


@contextmanager
def guard():
    """Inside the block, whatever is recorded for a backward pass is checked when that comes to it.

    backward raises GraphError and names the array. (With trace(), guard is the inner one.)
    """
    token = _trace.set(_Watched(_trace.get()))
    try:
        yield
    finally:
        _trace.reset(token)


class _Watched(list):
    """A trace that keeps no nodes, but gives each a hook; the hook holds the arrays, not the node: no cycle."""

    def __init__(self, outer: list | None):
        super().__init__()
        self.outer = outer

    def append(self, node: Node) -> None:
        if self.outer is not None:
            self.outer.append(node)
        if node.needs:
            name, seen = node.name, [(what, array, _checksum(array)) for what, array in _arrays(node)]
            count = len(node.out) if isinstance(node.out, tuple) else 1
            node.hooks = [(i, lambda g: _check(name, seen)) for i in range(count)]


def _arrays(node: Node):
    """(what it is, the array) for everything that a node keeps for backward."""
    for i, value in enumerate(node.values):
        if isinstance(value, np.ndarray):
            yield f"argument {i} of {node.name} ({node.formula}), shape {value.shape},", value
    for kept, what in ((node.out, "the result of"), (node.saved, "what its forward saved for")):
        for value in kept if isinstance(kept, tuple) else (kept,):
            if isinstance(value, np.ndarray):
                yield f"{what} {node.name} ({node.formula}), shape {value.shape},", value


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0


def _check(name: str, seen) -> None:
    for what, array, checksum in seen:
        if _checksum(array) != checksum:
            raise GraphError(
                f"backward through {name}: {what} was written into after it was recorded, and the gradient needs what "
                "it held; write into a copy, or replace p.data instead of writing into it"
            )
