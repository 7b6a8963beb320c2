"""Write golden.npz anew with PyTorch:  python tests/golden/write_golden.py

For every case: in0, in1, ... | out0, ... | p0, ... (random projections) | grad0, ... of sum(p * out). The values were
written by PyTorch 2.13 on a CPU; the version is stored beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from golden_cases import CASES, CLIP, FLOAT32, RATES, SGD, sgd_inputs


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


def run_sgd(options) -> dict[str, np.ndarray]:
    weights, gradients = sgd_inputs()
    params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = torch.optim.SGD(params, lr=RATES[0], **options)
    stored = {}
    for step, (rate, grads) in enumerate(zip(RATES, gradients, strict=True)):
        optimizer.param_groups[0]["lr"] = rate
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        stored |= {f"step{step}/{k}": p.detach().numpy().copy() for k, p in enumerate(params)}
    return stored


def run_clip(limit) -> dict[str, np.ndarray]:
    params = [torch.nn.Parameter(torch.tensor(w)) for w in sgd_inputs()[0]]
    for p in params:
        p.grad = 2 * p.detach().clone()
    norm = torch.nn.utils.clip_grad_norm_(params, limit)
    return {"norm": norm.numpy()} | {str(k): p.grad.numpy() for k, p in enumerate(params)}


def main() -> None:
    results = {name: run(case, np.float64) for name, case in CASES.items()}
    results |= {f"{name} float32": run(CASES[name], np.float32) for name in FLOAT32}
    results |= {f"sgd {name}": run_sgd(options) for name, options in SGD.items()}
    results |= {f"clip_grad_norm {limit}": run_clip(limit) for limit in CLIP}
    flat = {f"{name}/{key}": array for name, stored in results.items() for key, array in stored.items()}
    flat["version"] = np.array(torch.__version__.split("+")[0])
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, **flat)
    print(f"{path}: {len(results)} cases, {len(flat)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
