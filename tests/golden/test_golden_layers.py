"""minidl's layers, optimizers and schedules against stored PyTorch values, in float64 to 1e-12."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_cases import CLIP, RATES, sgd_inputs
from golden_layers import CASES, FLOAT32, LONG, OPTIMIZERS, SCHEDULES, SECOND

from minidl import Tensor, backend, optim
from minidl.layers import Parameter

GOLDEN = np.load(Path(__file__).with_name("golden_layers.npz"))


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
        compare(f"{name} float32", CASES[name], 3e-6)


@pytest.mark.parametrize("resumed", [False, True], ids=["at once", "resumed after two steps"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_equal_pytorch_step_for_step(name, resumed):
    golden, (weights, gradients) = stored(f"optimizer {name}"), sgd_inputs()
    kind, options, second = OPTIMIZERS[name]
    params = [Parameter(w) for w in weights]
    groups = [{"params": [params[0]]}, {"params": [params[1]], **second}]
    optimizer = getattr(optim, kind)(groups, lr=RATES[0], **options)
    for step, (rate, grads) in enumerate(zip(RATES, gradients, strict=True)):
        if resumed and step == 2:
            saved = optimizer.state_dict()
            optimizer = getattr(optim, kind)([{"params": [p]} for p in params], lr=123.0)
            optimizer.load_state_dict(saved)
        for k, group in enumerate(optimizer.groups):
            group["lr"] = rate * SECOND**k
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        before = [p.data for p in params]
        copies = [w.copy() for w in before]
        optimizer.step()
        for k, p in enumerate(params):
            close(p.data, golden[f"step{step}/{k}"], 1e-12)
            np.testing.assert_array_equal(before[k], copies[k])  # replaced, not written into


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_pytorch(name):
    _, schedule = SCHEDULES[name]
    np.testing.assert_allclose([schedule(t) for t in range(LONG)], stored(f"schedule {name}")["rates"], atol=1e-15)


@pytest.mark.parametrize("limit", CLIP)
def test_clip_grad_value_equals_pytorch(limit):
    params = [Parameter(w) for w in sgd_inputs()[0]]
    for p in params:
        p.grad = 2 * p.data
    optim.clip_grad_value(params, limit)
    for k, p in enumerate(params):
        close(p.grad, stored(f"clip_grad_value {limit}")[str(k)], 0)


def test_every_stored_case_is_compared():
    here = {*CASES, *(f"{n} float32" for n in FLOAT32), *(f"optimizer {n}" for n in OPTIMIZERS)}
    here |= {f"schedule {n}" for n in SCHEDULES} | {f"clip_grad_value {limit}" for limit in CLIP} | {"version"}
    assert {key.split("/")[0] for key in GOLDEN.files} == here
