"""Layers without weights: functions as Modules, for use inside Sequential.

    LeakyReLU(0.2)(x)  is  leaky_relu(x, 0.2)

The loss functions become Modules in the same way (losses.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from minidl import activations as A
from minidl.layers.module import Module
from minidl.tensor import Tensor


class Function(Module):
    """A function as a Module: y = function(x, *options), the options given once, when the Module is made."""

    function: Callable[..., Tensor]
    tensors = 1

    def __init__(self, *args, **options):
        inspect.signature(self.function).bind(*[None] * self.tensors, *args, **options)  # refuses what it does not know
        self.args, self.options = args, options

    def forward(self, *tensors) -> Tensor:
        return self.function(*tensors, *self.args, **self.options)

    def extra_repr(self) -> str:
        return ", ".join([*map(str, self.args), *(f"{k}={v}" for k, v in self.options.items())])


def as_module(name: str, function: Callable, tensors: int = 1) -> type[Function]:
    """The class `name` of Modules that call a function of so many tensors: as_module("GELU", gelu)("tanh")(x)."""
    return type(name, (Function,), dict(function=staticmethod(function), tensors=tensors, __doc__=function.__doc__))


ReLU, Sigmoid, Tanh = map(as_module, ("ReLU", "Sigmoid", "Tanh"), (A.relu, A.sigmoid, A.tanh))
GELU, SiLU, ELU = map(as_module, ("GELU", "SiLU", "ELU"), (A.gelu, A.silu, A.elu))
LeakyReLU, Softplus = map(as_module, ("LeakyReLU", "Softplus"), (A.leaky_relu, A.softplus))
Softmax, LogSoftmax = map(as_module, ("Softmax", "LogSoftmax"), (A.softmax, A.log_softmax))
Flatten = as_module("Flatten", lambda x, start_dim=1, end_dim=-1: x.flatten(start_dim, end_dim))
