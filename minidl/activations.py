"""Activations: the functions between layers, each through functions of the table, so twice differentiable.

Each is elementwise, x of any shape -> y of the same shape and dtype, except softmax and log_softmax (along one dim).
"""

from __future__ import annotations

import math

import numpy as np

from minidl import rules
from minidl.errors import InputError
from minidl.tensor import Tensor

relu, sigmoid = rules.relu, rules.sigmoid


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return x.tanh()


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope x; the derivative at 0 is the slope, as in PyTorch."""
    return x.where(x > 0, x * negative_slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return x.where(x > 0, np.expm1(x.clip(max=0.0)) * alpha)  # clipped: exp of a large x would overflow


def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta: a smooth relu."""
    return (x * beta).logaddexp(0.0) / beta


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish."""
    return x * rules.sigmoid(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the probability that a standard normal number is below x.

    x (1 + erf(x / sqrt 2)) / 2, or with approximate="tanh"  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """
    if approximate == "none":
        return x * 0.5 * (rules.erf(x * math.sqrt(0.5)) + 1)
    if approximate == "tanh":
        return x * 0.5 * (np.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)
    raise InputError(f"gelu: approximate is {approximate!r}; it is 'none' or 'tanh'")


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """x - logsumexp(x) along dim."""
    return x.log_softmax(dim)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along dim."""
    return x.softmax(dim)
