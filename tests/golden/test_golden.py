"""minidl against stored PyTorch values: outputs and all gradients, in float64 to 1e-12, and a few in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_cases import CASES, CLIP, FLOAT32, RATES, SGD, sgd_inputs

from minidl import Tensor, backend, optim
from minidl.layers import Parameter

GOLDEN = np.load(Path(__file__).with_name("golden.npz"))


def stored(name: str) -> dict[str, np.ndarray]:
    return {key[len(name) + 1 :]: GOLDEN[key] for key in GOLDEN.files if key.startswith(name + "/")}


def close(mine, theirs, tolerance) -> None:
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype
    assert np.max(np.abs(mine - theirs), initial=0) <= tolerance * max(1, np.max(np.abs(theirs), initial=0))


def compare(name: str, case, tolerance: float) -> None:
    golden = stored(name)
    inputs = [golden[f"in{i}"] for i in range(len(case.inputs))]
    arguments = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in inputs]
    outs = case.minidl(*arguments)
    outs = outs if isinstance(outs, tuple) else (outs,)
    for i, out in enumerate(outs):
        close(out.data if isinstance(out, Tensor) else out, golden[f"out{i}"], tolerance)
    recorded = [(out, golden[f"p{i}"]) for i, out in enumerate(outs) if isinstance(out, Tensor)]
    sum((out * p).sum() for out, p in recorded).backward()
    for i, argument in enumerate(arguments):
        if f"grad{i}" in golden:
            close(argument.grad, golden[f"grad{i}"], tolerance)


@pytest.mark.parametrize("form", ["numpy", "composed", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_equals_pytorch(name, form):
    with backend.form(form):
        compare(name, CASES[name], 1e-12)


@pytest.mark.parametrize("form", ["numpy", "composed", "auto"])
@pytest.mark.parametrize("name", FLOAT32)
def test_equals_pytorch_in_float32(name, form):
    with backend.form(form):
        compare(f"{name} float32", CASES[name], 2e-6)


@pytest.mark.parametrize("name", SGD)
def test_sgd_equals_pytorch_step_for_step(name):
    golden, (weights, gradients) = stored(f"sgd {name}"), sgd_inputs()
    params = [Parameter(w) for w in weights]
    optimizer = optim.SGD(params, lr=RATES[0], **SGD[name])
    for step, (rate, grads) in enumerate(zip(RATES, gradients, strict=True)):
        optimizer.lr = rate
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        for k, p in enumerate(params):
            close(p.data, golden[f"step{step}/{k}"], 1e-12)


@pytest.mark.parametrize("limit", CLIP)
def test_clip_grad_norm_equals_pytorch(limit):
    golden = stored(f"clip_grad_norm {limit}")
    params = [Parameter(w) for w in sgd_inputs()[0]]
    for p in params:
        p.grad = 2 * p.data
    close(np.array(optim.clip_grad_norm(params, limit)), golden["norm"], 1e-12)
    for k, p in enumerate(params):
        close(p.grad, golden[str(k)], 2e-6)  # PyTorch divides by norm + 1e-6


def test_every_stored_case_is_compared():
    here = {*CASES, *(f"{n} float32" for n in FLOAT32), *(f"sgd {n}" for n in SGD)}
    here |= {f"clip_grad_norm {limit}" for limit in CLIP} | {"version"}
    assert {key.split("/")[0] for key in GOLDEN.files} == here
