"""Roofline: no layer is faster than its arithmetic at the peak rate, nor than its bytes at the memory's rate.

    seconds >= max(2 macs / peak, traffic / bandwidth)        the larger of the two is what bounds the layer

Both rates are measured on this machine, in a quarter of a second each: the peak by a large float32 matrix product with
as many threads as NumPy's BLAS has, the bandwidth by copying arrays that fit no cache. (Williams et al. 2009)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from minidl.machine import blas
from minidl.sparsity.cost import Cost


@dataclass(frozen=True)
class Machine:
    """peak: operations a second, two for a multiply-add; bandwidth: bytes a second; how: the BLAS and its threads."""

    peak: float
    bandwidth: float
    how: str = ""


@dataclass(frozen=True)
class Roofline:
    """rows: (layer, seconds, what bounds it: "arithmetic" or "memory"); `str` is a table in milliseconds."""

    rows: tuple[tuple[str, float, str], ...]
    machine: Machine

    seconds = property(lambda self: sum(seconds for _, seconds, _ in self.rows))

    def __str__(self):
        of = self.machine
        lines = [f"{name:20} {1e3 * seconds:10.4f} ms  {bound}" for name, seconds, bound in self.rows]
        rates = f"{of.peak / 1e9:.0f} GF/s, {of.bandwidth / 1e9:.1f} GB/s {of.how}".rstrip()
        return "\n".join([*lines, f"{'at least':20} {1e3 * self.seconds:10.4f} ms  at {rates}"])


def measured_machine(seconds: float = 0.25, size: int = 1024, megabytes: int = 64) -> Machine:
    """Measure both rates; the best of what fits into `seconds` each. size: of the product; megabytes: of the copy."""
    a = np.ones((size, size), np.float32)
    out, memory = np.empty_like(a), np.ones(megabytes * 131072)
    other = np.empty_like(memory)
    product = _best(lambda: np.matmul(a, a, out=out), seconds)
    copy = _best(lambda: np.copyto(other, memory), seconds)
    described = blas()
    how = f"({described['name']} {described['kernel']}, {described['threads']} threads)"
    return Machine(2 * size**3 / product, 2 * memory.nbytes / copy, how)


def _best(run, seconds: float) -> float:
    times: list[float] = []
    start = time.perf_counter()
    run()
    while not times or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)


def roofline(cost: Cost, machine: Machine | None = None) -> Roofline:
    """The least time that each layer of a Cost can take on a machine; on this one, measured now, if none is given."""
    machine = machine or measured_machine()
    rows = []
    for row in cost.layers:
        arithmetic, memory = 2 * row.macs / machine.peak, row.traffic / machine.bandwidth
        rows.append((row.layer, max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"))
    return Roofline(tuple(rows), machine)
