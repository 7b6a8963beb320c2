"""Function: a plain function of Tensors as a model, so that whatever asks the tape takes it: groups, compact, cost.

def f(p, x):
    return np.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"]

model = Function(f, {"w1": w1, "b1": b1, "w2": w2})
small, proof = compact(model, x)
small.params["w1"].shape                # the smaller weights, for the same f
"""

from __future__ import annotations

from collections.abc import Callable

from minidl.errors import InputError
from minidl.layers import Module
from minidl.layers.module import Parameter
from minidl.tensor import Tensor


class Function(Module):
    """model(*args) = f(params, *args).

    f: reads its weights from the dict and its sizes from their shapes (a copy of the dict has to do as well). params:
    {name: Tensor or array}; Tensors that require a gradient stay the same objects, arrays become Parameters. A name's
    part before the last dot counts as its layer.
    """

    def __init__(self, f: Callable, params: dict):
        self.f = f
        self.params = {name: p if isinstance(p, Tensor) else Parameter(p) for name, p in params.items()}
        still = [name for name, p in self.params.items() if not p.requires_grad or p.node is not None]
        if still:
            raise InputError(f"{', '.join(still)}: a weight is an array, or a leaf Tensor with requires_grad=True")

    def forward(self, *args):
        return self.f(self.params, *args)

    def _named(self, prefix):
        return ((prefix + name, p) for name, p in self.params.items())

    def state_dict(self, prefix: str = ""):
        return {name: p.data for name, p in self._named(prefix)}

    def _load(self, state, prefix):
        for name, p in self._named(prefix):
            p.data = state[name].astype(p.dtype)
