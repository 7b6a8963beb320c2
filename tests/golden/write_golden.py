"""Write golden.npz and golden_layers.npz anew with PyTorch:  python tests/golden/write_golden.py [cases] [layers]

For every case: in0, in1, ... | out0, ... | p0, ... (random projections) | grad0, ... of sum(p * out). The values were
written by PyTorch 2.13 on a CPU; the version is stored beside them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import golden_cases
import golden_layers
import numpy as np
import torch
from golden_cases import CLIP, RATES, SGD, sgd_inputs
from golden_layers import LONG, OPTIMIZERS, SCHEDULES, SECOND


def run(case, dtype) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in case.inputs]
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    outs = case.torch(torch, *tensors)
    outs = outs if isinstance(outs, tuple) else (outs,)
    projections = [rng.standard_normal(tuple(o.shape)).astype(dtype) for o in outs]
    sum((o * torch.tensor(p)).sum() for o, p in zip(outs, projections, strict=True) if o.requires_grad).backward()
    stored = {f"in{i}": a for i, a in enumerate(arrays)}
    stored |= {f"out{i}": o.detach().numpy() for i, o in enumerate(outs)}
    stored |= {f"p{i}": p for i, p in enumerate(projections)}
    stored |= {f"grad{i}": t.grad.numpy() for i, t in enumerate(tensors) if t.grad is not None}
    return stored


def run_optimizer(kind, options, second=None) -> dict[str, np.ndarray]:
    """Five steps; with `second`, the second parameter is in a group with these options and a rate of its own."""
    weights, gradients = sgd_inputs()
    params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    groups = params if second is None else [{"params": [params[0]]}, {"params": [params[1]], **second}]
    optimizer = getattr(torch.optim, kind)(groups, lr=RATES[0], **options)
    stored = {}
    for step, (rate, grads) in enumerate(zip(RATES, gradients, strict=True)):
        for k, group in enumerate(optimizer.param_groups):
            group["lr"] = rate * SECOND**k
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        stored |= {f"step{step}/{k}": p.detach().numpy().copy() for k, p in enumerate(params)}
    return stored


def run_clip(clip, limit) -> dict[str, np.ndarray]:
    params = [torch.nn.Parameter(torch.tensor(w)) for w in sgd_inputs()[0]]
    for p in params:
        p.grad = 2 * p.detach().clone()
    norm = clip(params, limit)
    return ({} if norm is None else {"norm": norm.numpy()}) | {str(k): p.grad.numpy() for k, p in enumerate(params)}


def run_schedule(make) -> dict[str, np.ndarray]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    rates, scheduler = [], make(torch.optim.lr_scheduler, optimizer)
    for _ in range(LONG):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return {"rates": np.array(rates)}


def of_cases() -> dict[str, dict]:
    results = {name: run(case, np.float64) for name, case in golden_cases.CASES.items()}
    results |= {f"{name} float32": run(golden_cases.CASES[name], np.float32) for name in golden_cases.FLOAT32}
    results |= {f"sgd {name}": run_optimizer("SGD", options) for name, options in SGD.items()}
    clip = torch.nn.utils.clip_grad_norm_
    return results | {f"clip_grad_norm {limit}": run_clip(clip, limit) for limit in CLIP}


def of_layers() -> dict[str, dict]:
    results = {name: run(case, np.float64) for name, case in golden_layers.CASES.items()}
    results |= {f"{name} float32": run(golden_layers.CASES[name], np.float32) for name in golden_layers.FLOAT32}
    results |= {f"optimizer {name}": run_optimizer(*how) for name, how in OPTIMIZERS.items()}
    results |= {f"schedule {name}": run_schedule(make) for name, (make, _) in SCHEDULES.items()}
    clip = torch.nn.utils.clip_grad_value_
    return results | {f"clip_grad_value {limit}": run_clip(clip, limit) for limit in CLIP}


def write(name: str, results: dict[str, dict]) -> None:
    flat = {f"{name}/{key}": array for name, stored in results.items() for key, array in stored.items()}
    flat["version"] = np.array(torch.__version__.split("+")[0])
    path = Path(__file__).with_name(name)
    np.savez_compressed(path, **flat)
    print(f"{path}: {len(results)} cases, {len(flat)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # PyTorch's own words about its schedules
    for what in sys.argv[1:] or ("cases", "layers"):
        if what == "cases":
            write("golden.npz", of_cases())
        else:
            write("golden_layers.npz", of_layers())
