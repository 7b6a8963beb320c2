"""Clipping: bound the gradients between backward and step.

    value          g_i = min(max(g_i, -limit), limit)                    every element by itself
    norm, each     g = g limit / ||g||  where ||g|| > limit              every parameter by itself
    norm, global   the same with ||g|| = sqrt(sum of g^2 over all parameters), which keeps the direction of the step

The gradients are replaced, never written into. (Pascanu, Mikolov and Bengio 2013)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError


def _with_gradient(params, limit) -> list:
    if not limit >= 0:
        raise InputError(f"a gradient is clipped to a limit of at least 0; got {limit}")
    return [p for p in params if p.grad is not None]


def _norm(p) -> float:
    g = np.asarray(p.grad)
    with np.errstate(over="ignore"):
        square = np.vdot(g, g)
    if not np.isfinite(square):  # in float32 the square of 2e19 is too large, the norm is not
        square = np.vdot(wide := g.astype(np.float64), wide)
    return float(np.sqrt(square))


def clip_grad_value(params, limit: float) -> None:
    """Bound every element of every gradient to [-limit, limit]; NaN passes."""
    for p in _with_gradient(params, limit):
        p.grad = np.asarray(np.clip(p.grad, -float(limit), float(limit)))


def clip_grad_norm_each(params, limit: float) -> list[float]:
    """Scale each gradient so that its own L2 norm is at most `limit`; returns the norms before."""
    members = _with_gradient(params, limit)
    norms = [_norm(p) for p in members]
    for p, norm in zip(members, norms, strict=True):
        if norm > limit:
            p.grad = np.asarray(p.grad * (float(limit) / norm))
    return norms


def clip_grad_norm(params, limit: float) -> float:
    """Scale all gradients so that their joint L2 norm is at most `limit`; returns the norm before.

    ||g|| = sqrt(sum of g^2 over all parameters);  g = g limit / ||g|| where ||g|| > limit.
    """
    members = _with_gradient(params, limit)
    norm = float(np.sqrt(sum(_norm(p) ** 2 for p in members)))
    if norm > limit:
        for p in members:
            p.grad = np.asarray(p.grad * (float(limit) / norm))
    return norm
