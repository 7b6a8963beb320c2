"""Where did the NaN come from? Repeat the step under trace() and look at every array in the order it was made.

A NaN or an infinity spreads to everything behind it, so that the loss says nothing of its origin. The first array that
is not finite, forwards and then backwards, names the layer.
"""

from __future__ import annotations

import numpy as np

from minidl.tensor import Tensor, _key, _vjps, topological, trace


def finite(array) -> bool:
    """Whether every value is a number: no NaN, no infinity."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return True
    # One pass over the memory in BLAS: a NaN or infinity anywhere is in the sum. A large finite array may overflow it.
    return bool(np.isfinite(np.vdot(array, array)) or np.isfinite(array).all())


def first_not_finite(model, x, y, loss) -> str:
    """A sentence that names what became not finite first in loss(model(x), y) and its gradients.

    Give it the batch, and the Generators in the state of before the step. The buffers of the model are put back.
    """
    for name, p in model.named_parameters():
        if not finite(p.data):
            return f"the weight {name} was already not finite: the update before made it so"
    if not finite(x):
        return "the batch itself holds a value that is not finite"
    buffers = [(module, name, getattr(module, name)) for module in model.modules() for name in module.buffers]
    try:
        with np.errstate(all="ignore"):
            return _first(model, x, y, loss)
    finally:
        for module, name, array in buffers:
            setattr(module, name, array)


def _first(model, x, y, loss) -> str:
    with trace() as tape:
        value = loss(model(Tensor(x) if x.dtype.kind == "f" else x), y)
    names = {id(p): name for name, p in model.named_parameters()}
    places, before = {}, "before the first layer"
    for node in tape:
        own = [names[id(a)] for a in node.args if id(a) in names]
        if own:
            layer = own[0].rpartition(".")[0]
            what = f"layer {layer!r}" if layer else f"the layer of {own[0]}"  # a layer without a name: the model itself
            places[id(node)], before = f"in {what}", f"after {what}"
        else:
            places[id(node)] = before
        if not all(map(finite, node.out if isinstance(node.out, tuple) else (node.out,))):
            return f"the first value that is not finite is the output of {node.name} {places[id(node)]}"
    pending = {_key(value): np.ones_like(value.data)}
    for node in reversed(topological(value)):  # the walk of `backpropagate`
        several = isinstance(node.out, tuple)
        g = tuple(pending.get((id(node), i)) for i in range(len(node.out) if several else 1))
        if all(part is None for part in g):
            continue
        for arg, part in _vjps(node, g if several else g[0], False):
            key = _key(arg)
            pending[key] = pending[key] + part if key in pending else part
            if not finite(pending[key]):
                what = names.get(id(arg), "its argument")
                return f"the first gradient that is not finite is that of {what}, by {node.name} {places[id(node)]}"
    return "repeated, the step was finite: something outside the model draws or changes values"
