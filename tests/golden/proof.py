"""Proof: the decorator that turns a function's specification into a whole property test.

A specification is a call and its arrays: `(np.multiply, normal(2, 3), normal(3))`. From it follow, for every function
alike, these properties:

    derivative         random-projection gradcheck in float64, first and second order
    inputs unchanged   neither the call nor a derivative writes into what it was given or into what the graph keeps
    dtype kept         float32 in: float32 out, and float32 gradients
    memory order       arrays that are not contiguous give the same

and for functions that work element by element:

    broadcasting       f(x, y) is f of the broadcast copies; its gradient is theirs, summed over the copies

    @proved({np.exp: [(np.exp, normal(3))], ...})
    def test_rules(prove): prove()

Empty axes and axes of size 1 are cases among the others; test_proof.py demands them. So it does stored PyTorch values.
"""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor
from minidl.gradcheck import gradcheck
from minidl.guard import guard


def floats(arrays):
    return [a for a in arrays if a.dtype.kind == "f"]


def run(call, arrays):
    """(results, gradients of a fixed weighted sum of them)."""
    tensors = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    outs = call(*tensors)
    outs = outs if isinstance(outs, tuple) else (outs,)
    total = sum((o * np.cos(np.arange(o.numel())).reshape(o.shape).astype(o.dtype)).sum() for o in outs)
    if total.requires_grad:
        total.backward()
    grads = [np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors if isinstance(t, Tensor)]
    return [o.data for o in outs], grads


def derivative(call, *arrays):
    gradcheck(call, *arrays, rng=np.random.default_rng(1), order=2)


def inputs_unchanged(call, *arrays):
    before = [a.copy() for a in arrays]
    with guard():
        run(call, arrays)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def dtype_kept(call, *arrays):
    outs, grads = run(call, [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays])
    assert {o.dtype for o in outs} | {g.dtype for g in grads} == {np.dtype(np.float32)}


def memory_order(call, *arrays):
    spread = [np.stack([a, a], axis=-1)[..., 0] for a in arrays]  # every second number in memory
    for ours, theirs in zip(run(call, spread), run(call, arrays), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def broadcasting(call, *arrays):
    shapes = [(2, 1, 3), (4, 1), ()][: len(arrays)]
    small = [np.resize(a, shape) for a, shape in zip(arrays, shapes, strict=True)]
    wide = [a.copy() for a in np.broadcast_arrays(*small)]
    (mine, grads), (theirs, full) = run(call, small), run(call, wide)
    np.testing.assert_array_equal(mine[0], theirs[0])
    for a, g, w in zip(small, grads, full, strict=True):
        extra = w.ndim - a.ndim
        axes = (*range(extra), *(k + extra for k, n in enumerate(a.shape) if n == 1))
        np.testing.assert_allclose(g, w.sum(axis=axes, keepdims=True).reshape(a.shape), rtol=1e-12, atol=1e-14)


PROPERTIES = (derivative, inputs_unchanged, dtype_kept, memory_order)


def elementwise(function) -> bool:
    """Does it take several arrays and combine them element by element?"""
    return isinstance(function, np.ufunc) and function.nin == 2 and function.signature is None


def proved(cases):
    """Parametrise a test over every property of every case: {function or name: [(call, *arrays), ...]}."""
    params = []
    for function, calls in cases.items():
        name = function if isinstance(function, str) else function.__name__
        for i, (call, *arrays) in enumerate(calls):
            for prove in PROPERTIES + (broadcasting,) * (elementwise(function) and i == 0):
                params.append(
                    pytest.param(lambda p=prove, c=call, a=arrays: p(c, *a), id=f"{name} {i} {prove.__name__}")
                )
    return pytest.mark.parametrize("prove", params)
