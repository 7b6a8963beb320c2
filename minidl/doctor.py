"""`minidl doctor`: what works on this machine, what does not, and the one line that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from minidl.errors import MinidlError
from minidl.machine import blas
from minidl.machine import version as _version

Finding = tuple[str, str, str]
"""("ok" | "note" | "fails", what was found, the remedy or "")."""

EXTRAS = {
    "jit": ("numba", "scipy", "threadpoolctl"),
    "mpi": ("mpi4py",),
    "plot": ("matplotlib",),
    "data": ("pooch", "safetensors", "tqdm", "mlxtend"),
    "notebooks": ("jupyterlab", "jupytext", "nbclient"),
}

# OpenBLAS's kernels by the vector instructions they need; a higher number is the faster family.
_LEVEL = {"Sandybridge": 1, "Bulldozer": 1, "Piledriver": 1, "Steamroller": 1}
_LEVEL |= {"Haswell": 2, "Zen": 2, "Excavator": 2}
_LEVEL |= {"SkylakeX": 3, "Cooperlake": 3, "Sapphirerapids": 3, "SapphireRapids": 3}
_NEEDS = (
    (3, "AVX-512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    (2, "AVX2", {"avx2", "fma"}),
    (1, "AVX", {"avx"}),
)


def blas_kernel() -> str:
    """One line that names the kernel: results agree bit for bit only between equal ones."""
    found = blas()
    return f"{found['name']} {found['version']} {found['kernel']}"


def environment(threads: int) -> dict[str, str]:
    """What a report says of the machine and the software it was measured with."""
    import minidl

    return {
        "minidl": getattr(minidl, "__version__", "unknown"),
        "Python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()})",
        "NumPy": np.__version__,
        "Numba": _version("numba") or "not installed: every kernel ran in its NumPy form",
        "mpi4py": _version("mpi4py") or "not installed",
        "BLAS kernel": blas_kernel(),
        "threads": str(threads),
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """The first value of a field of Linux's /proc/cpuinfo; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def check_core() -> Iterator[Finding]:
    """Python, NumPy, and one gradient."""
    new_enough = sys.version_info >= (3, 11)
    yield "ok" if new_enough else "fails", f"Python {platform.python_version()}", "install Python 3.11 or newer"
    yield (
        "ok" if int(np.__version__.split(".")[0]) >= 2 else "fails",
        f"NumPy {np.__version__}",
        "pip install 'numpy>=2.0'",
    )
    from minidl.tensor import Tensor

    x = Tensor([3.0], requires_grad=True)
    (x * x).sum().backward()
    right = x.grad is not None and float(np.asarray(x.grad)[0]) == 6.0
    yield "ok" if right else "fails", "the gradient of x*x at 3 is 6", "pip install --force-reinstall minidl"


def check_blas() -> Iterator[Finding]:
    """The kernel and the threads of NumPy's matrix products, and whether the processor has a faster kernel."""
    found = blas()
    yield "ok", f"BLAS {found['name']} {found['version']}, kernel {found['kernel']}, {found['threads']} threads", ""
    if found["kernel"] == "unknown":
        yield "note", "threadpoolctl is missing, so the kernel is not known", "pip install 'minidl[jit]'"
    several = found["name"] == "openblas" and found["threads"] not in ("1", "unknown")
    if several and "OPENBLAS_THREAD_TIMEOUT" not in os.environ:
        why = "spin for 30 ms after each product, so layers do without them"
        yield "note", f"BLAS's threads {why}", "OPENBLAS_THREAD_TIMEOUT=16 python ... (the command minidl sets it)"
    faster = faster_kernel(found["kernel"], set(_cpuinfo("flags").split()))
    if faster:
        forced = os.environ.get("OPENBLAS_CORETYPE")
        why = f"OPENBLAS_CORETYPE={forced} forces it" if forced else "this NumPy was built without a newer kernel"
        remedy = "env -u OPENBLAS_CORETYPE minidl ..." if forced else "pip install --upgrade numpy"
        yield "note", f"BLAS runs its {found['kernel']} kernel although the processor has {faster}: {why}", remedy


def faster_kernel(kernel: str, flags: set[str]) -> str | None:
    """The instructions that the processor has and OpenBLAS's kernel does not use, or None."""
    if kernel == "unknown" or not flags:
        return None
    for level, name, needed in _NEEDS:
        if needed <= flags:
            return name if _LEVEL.get(kernel, 0) < level else None
    return None


def check_numba() -> Iterator[Finding]:
    """Numba, and a folder where it can keep what it has compiled."""
    if _version("numba") is None:
        yield "note", "Numba is not installed: every kernel runs in its NumPy form, slower", "pip install 'minidl[jit]'"
        return
    try:
        numba = importlib.import_module("numba")
    except ImportError as error:
        yield "fails", f"Numba is installed but cannot be imported: {error}", "pip install --upgrade numba numpy"
        return
    yield "ok", f"Numba {numba.__version__}", ""
    folder = Path(numba.config.CACHE_DIR or Path(__file__).parent / "fast")
    if _can_write(folder):
        yield "ok", f"compiled kernels are kept below {folder}", ""
    else:
        yield (
            "note",
            f"nothing can be kept in {folder}: kernels may be compiled anew",
            "export NUMBA_CACHE_DIR=~/.numba",
        )


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


_COUNT_RANKS = """
from mpi4py import MPI
from minidl.ternary.launch import report_result
report_result({"seen": MPI.COMM_WORLD.allreduce(1)})
"""


def check_mpi() -> Iterator[Finding]:
    """Two real ranks that see each other, started the way every claim and lesson starts them."""
    if _version("mpi4py") is None:
        what = "mpi4py is not installed: ranks are only simulated (--simulate), and terngrad-lenet is not run"
        yield "note", what, "pip install 'minidl[mpi]'"
        return
    from minidl.ternary import launch

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "count_ranks.py"
        script.write_text(_COUNT_RANKS)
        try:
            seen = [result.get("seen") for result in launch.run_ranks(2, [str(script)], timeout=60).results]
        except MinidlError as error:
            yield "fails", str(error), "pip install --force-reinstall 'minidl[mpi]'"
            return
    if seen == [2, 2]:
        yield "ok", f"mpi4py {_version('mpi4py')}, and an mpirun that matches it: 2 ranks see each other", ""
        (mpirun, family), typed = launch.find_mpirun(), shutil.which("mpirun")
        if typed and not launch.belongs_to(typed, family):
            what = f"a plain `mpirun` is {typed} in this shell, which is not of {family}, as mpi4py is"
            yield "note", what, f"minidl mpirun -n 2 SCRIPT, or {mpirun} -n 2 python -m mpi4py SCRIPT"
    else:
        remedy = "pip install --force-reinstall 'minidl[mpi]' in an environment with no other MPI"
        yield "fails", f"of 2 ranks each sees {seen}, not 2: mpirun and mpi4py belong to different MPIs", remedy


def check_data() -> Iterator[Finding]:
    """Which data sets lie on this machine; nothing is downloaded."""
    from minidl.data import fetch, images, text

    for name, files in (("mnist", images.MNIST), ("fashion-mnist", images.FASHION_MNIST), ("ptb", text.PTB)):
        try:
            found = fetch.find(files, allow_download=False)
        except MinidlError as error:
            yield "fails", str(error), "replace the file or move it away"
            continue
        if found:
            yield "ok", f"{name} is here, its content is as published", ""
        else:
            what = f"{name} is not here: it is downloaded when needed, else a set inside a package is used"
            yield "note", what, f"to use your own copy, put it into DIR/{name} and set MINIDL_DATA=DIR"


def check_extras() -> Iterator[Finding]:
    """The optional packages, by extra."""
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if _version(package) is None]
        if missing:
            yield "note", f"extra {extra}: {', '.join(missing)} not installed", f"pip install 'minidl[{extra}]'"
        else:
            yield "ok", f"extra {extra}: {', '.join(packages)}", ""


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "core": check_core,
    "BLAS": check_blas,
    "Numba": check_numba,
    "MPI": check_mpi,
    "data": check_data,
    "extras": check_extras,
}


def main() -> int:
    """Print every finding; the exit status is 0 if the core works, 1 if not."""
    core_works = True
    for name, check in CHECKS.items():
        try:
            for state, found, remedy in check():
                print(f"{state:6}{found}", flush=True)
                if state != "ok" and remedy:
                    print(f"      remedy: {remedy}", flush=True)
                core_works &= not (name == "core" and state == "fails")
        except Exception as error:  # a doctor that falls ill itself helps nobody
            print(f"fails {name}: {type(error).__name__}: {error}", flush=True)
            print("      remedy: pip install --force-reinstall 'minidl[all]'", flush=True)
            core_works &= name != "core"
    print("The core works." if core_works else "The core does not work.")
    return 0 if core_works else 1
