"""What runs in a process of its own: python -m minidl.bench.child CASE PEER CLOCK, or one of the words in ALONE.

It answers each line of its standard input with one line of JSON: "block" with the seconds of a block of steps, "about"
with its version, BLAS kernel, form, and the most memory it has held.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time

from minidl.bench import cases, growth, measure, wire

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def serve(name: str, peer: str, clock: str) -> None:
    """Build a case and answer questions about it until there are no more."""
    step = cases.build(name, peer)
    for line in sys.stdin:
        if line.strip() == "block":
            print(json.dumps(measure.block(step, CLOCKS[clock])), flush=True)
        else:
            print(json.dumps(about(peer)), flush=True)


def about(peer: str) -> dict:
    """The package and its version, the form of minidl's kernels, NumPy's BLAS kernel, and peak memory in MiB."""
    from minidl import backend, doctor

    package = cases.PEERS[peer].packages[0] if peer in cases.PEERS else None
    return {
        "version": importlib.metadata.version(package) if package else "",
        "form": "numba" if any(form == "numba" for _, form in backend.calls) else "numpy",
        "blas": doctor.blas()["kernel"],
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float | None:
    """The most memory that this process has held, libraries included; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def first_step() -> None:
    """The seconds of LeNet's first step, with whatever has to be loaded and compiled for it."""
    step = cases.build("lenet", "minidl")
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, **about("minidl")}))


def grow() -> None:
    print(json.dumps([{**row, **about("minidl")} for row in growth.measure()]))


def wires() -> None:
    print(json.dumps([{**row, **about("minidl")} for row in wire.measure()]))


ALONE = {"first-step": first_step, "growth": grow, "wire": wires}

if __name__ == "__main__":
    ALONE[sys.argv[1]]() if sys.argv[1] in ALONE else serve(*sys.argv[1:])
