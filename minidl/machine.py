"""What decides the last bits of a result: NumPy's BLAS and its kernel, the threads, the versions, the form.

A matrix product adds its terms in an order that the BLAS library chooses by processor and by number of threads. Two
runs agree bit for bit only where all of this is equal.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os

import numpy as np

from minidl.backend import current_form


def blas() -> dict[str, str]:
    """NumPy's BLAS: name, version, kernel ("unknown" without threadpoolctl) and threads."""
    try:
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            if pool["user_api"] == "blas" and "numpy" in pool["filepath"].replace("-", "").lower():
                return _describe(pool)
        for pool in threadpool_info():
            if pool["user_api"] == "blas":
                return _describe(pool)
    except ImportError:
        pass
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload]
    return {"name": built["name"], "version": built["version"], "kernel": "unknown", "threads": "unknown"}


def _describe(pool: dict) -> dict[str, str]:
    kernel, version = pool.get("architecture") or "unknown", pool["version"] or "unknown"
    return {"name": pool["internal_api"], "version": version, "kernel": kernel, "threads": str(pool["num_threads"])}


@functools.cache
def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def conditions() -> dict[str, str]:
    """{what: value} of everything on which the last bits of a run depend, besides its seeds."""
    found = blas()
    threads = found["threads"] if found["threads"] != "unknown" else os.environ.get("OPENBLAS_NUM_THREADS", "unknown")
    return {
        "the BLAS kernel": f"{found['name']} {found['version']} {found['kernel']}",
        "the number of BLAS threads": threads,
        "NumPy": np.__version__,
        "Numba": version("numba") or "not installed",
        "the form of the kernels": current_form(),
    }
