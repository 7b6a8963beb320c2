"""Start ranks: the one way in which minidl, its tests and its lessons run a script on several MPI processes.

    run = run_ranks(2, ["train.py", "--steps", "100"], timeout=60)
    run.results[0]["accuracy"]                       # what rank 0 gave to report_result({"accuracy": ...})

What a plain `mpirun python train.py` gets wrong, and this does not:
  * the mpirun must belong to mpi4py's MPI, or every rank believes to be alone: look beside this Python first;
  * a rank that raises leaves the others waiting for ever: `-m mpi4py` ends them all, with the traceback;
  * BLAS starts a thread for each core in each rank, ten times slower: one thread per rank, set before Python starts;
  * four ranks that compile the same Numba kernels take 16 s: one process compiles first, and fills the cache;
  * a time limit, Ctrl-C or SIGTERM must leave no process behind: the ranks are one process group, and end as one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CommError, InputError, MissingExtra

RESULTS = "MINIDL_RESULTS"
"""The environment variable that tells a rank in which directory to leave its results."""
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
BLAS_RESTS = {"OPENBLAS_THREAD_TIMEOUT": "16"}
"""BLAS's threads wait for 2^16 ticks of the clock for the next product, not for 2^26; see fast/linear.py."""
FAMILIES = (("Open MPI", "Open MPI"), ("Intel", "Intel"), ("MPICH", "HYDRA"))
"""How each MPI calls itself: in its library's version, and in what its `mpirun --version` prints."""
MPI_SETTINGS = {
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "10",  # MPICH: a rank that waits gives its core to one that works
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # Open MPI: the same
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # Open MPI in a container
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
"""What makes the MPIs fit for lessons on small machines. Each ignores the other's variables."""
GRACE = 2.0
"""Seconds between asking the ranks to end and ending them."""


@dataclass
class Run:
    """What came of a run: mpirun's exit status, what the ranks printed, what each of them reported, and how long."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    results: list[dict] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------ the right mpirun


@functools.cache
def find_mpirun() -> tuple[str, str]:
    """The mpirun that belongs to mpi4py's MPI, and that MPI's name. Raises MissingExtra with the line that installs it.

    Candidates are the mpirun beside this Python (the mpich wheel puts it there), then those on the PATH.
    """
    install = "pip install 'minidl[mpi]'"
    if importlib.util.find_spec("mpi4py") is None:
        raise MissingExtra(f"mpi4py is not installed, and several ranks need it: {install}")
    ask = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    library = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=_clean_environment())
    if library.returncode:
        reason = (library.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise MissingExtra(f"mpi4py finds no MPI library ({reason}): {install}")
    name, runner = next((f for f in FAMILIES if f[0] in library.stdout), ("MPI", ""))
    here = os.path.dirname(sys.executable)
    found = []
    for place in [here, *os.get_exec_path()]:
        mpirun = shutil.which("mpirun", path=place) or shutil.which("mpiexec", path=place)
        if mpirun and mpirun not in found:
            found.append(mpirun)
            version = subprocess.run([mpirun, "--version"], capture_output=True, text=True)
            if runner.lower() in (version.stdout + version.stderr).lower():
                return mpirun, name
    other = f"; {', '.join(found)} belongs to another MPI" if found else ""
    raise MissingExtra(f"mpi4py uses {name}, but there is no mpirun of {name}{other}: {install}")


def _clean_environment() -> dict[str, str]:
    """This environment; inside a rank without what its mpirun has put there, for our ranks are no ranks of that job."""
    if not {"PMI_RANK", "OMPI_COMM_WORLD_RANK"} & os.environ.keys():
        return dict(os.environ)
    foreign = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "MPI_LOCAL", "HYDI_", "HYDRA_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def rank_environment(threads: int = 1, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of each rank: `threads` threads for every library, this minidl to import, and `extra`."""
    env = BLAS_RESTS | _clean_environment() | dict.fromkeys(THREAD_VARIABLES, str(threads))
    package = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package, env.get("PYTHONPATH")]))
    return MPI_SETTINGS | env | (extra or {})


# ------------------------------------------------------------------------------------------------ running


def run_ranks(
    n: int,
    argv: list[str],
    *,
    timeout: float | None,
    threads: int = 1,
    env: dict[str, str] | None = None,
    capture: bool = True,
    check: bool = True,
    warm_up: list[str] | None = None,
    progress=None,
) -> Run:
    """Run `python -m mpi4py *argv` on n ranks of this machine and wait for the end.

    timeout:  seconds after which all ranks are ended and CommError is raised; None waits for ever
    threads:  BLAS and Numba threads of each rank;  env: further environment variables
    capture:  keep what the ranks print (else it goes to this process's own output)
    check:    raise CommError, with the last lines of the error output, if the run fails
    warm_up:  argv of one process to run first, without MPI, so that ranks find their Numba kernels compiled;
              None compiles those of minidl.ternary
    progress: function(int) that is told what a rank last said with report_progress
    """
    if n < 1:
        raise InputError(f"{n} ranks: at least 1 is needed")
    mpirun, family = find_mpirun()
    name = f"{' '.join(argv[:2] if argv[0] == '-m' else argv[:1])} on {n} ranks"
    ranks_env = rank_environment(threads, env)
    _compile_first(tuple(warm_up or ["-m", "minidl.ternary.launch"]), tuple(sorted(ranks_env.items())))
    flags = ["--oversubscribe"] if family == "Open MPI" else []
    command = [mpirun, *flags, "-n", str(n), sys.executable, "-m", "mpi4py", *argv]
    with tempfile.TemporaryDirectory(prefix="minidl-ranks-") as folder:
        ranks_env[RESULTS] = folder
        start = time.monotonic()
        returncode, out, err = _wait(name, command, ranks_env, timeout, capture, folder, progress)
        run = Run(returncode, out, err, time.monotonic() - start, _collect(Path(folder), n))
    if check and returncode:
        tail = "\n".join(run.stderr.strip().splitlines()[-12:])
        raise CommError(f"{name} ended with exit status {returncode}" + (f":\n{tail}" if tail else ""))
    return run


def _wait(name, command, env, timeout, capture, folder, progress) -> tuple[int, str, str]:
    """Start the command as a process group of its own, wait for it, and leave nothing of it behind."""
    files = [open(Path(folder) / name, "w+b") if capture else None for name in ("stdout", "stderr")]
    deadline = None if timeout is None else time.monotonic() + timeout
    with _sigterm_as_exception():
        stdin = subprocess.DEVNULL if capture else None
        job = subprocess.Popen(
            command, env=env, stdin=stdin, stdout=files[0], stderr=files[1], start_new_session=hasattr(os, "killpg")
        )
        try:
            while True:
                try:
                    job.wait(0.05 if deadline is None else max(0.0, min(0.05, deadline - time.monotonic())))
                    break
                except subprocess.TimeoutExpired:
                    _pass_on_progress(Path(folder), progress)
                    if deadline is not None and time.monotonic() >= deadline:
                        raise CommError(
                            f"{name} did not end within its {timeout:g} s and was stopped: a rank may be waiting for "
                            "a call that another never makes; or give it more time"
                        ) from None
        finally:
            _end(job)
            texts = []
            for file in files:
                if file is None:
                    texts.append("")
                else:
                    file.seek(0)
                    texts.append(file.read().decode(errors="replace"))
                    file.close()
    return job.returncode, texts[0], texts[1]


def _end(job: subprocess.Popen) -> None:
    """Ask the job's process group to end, and after a while make it. Nothing to do if it has ended by itself."""
    if job.poll() is not None:
        return
    send = (lambda number: os.killpg(job.pid, number)) if hasattr(os, "killpg") else lambda number: job.terminate()
    send(signal.SIGTERM)
    try:
        job.wait(GRACE)
    except subprocess.TimeoutExpired:
        send(getattr(signal, "SIGKILL", signal.SIGTERM))
        job.wait()


@contextmanager
def _sigterm_as_exception():
    """Let SIGTERM (from `timeout`, a scheduler, a closing terminal) run our clean-up, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@functools.cache
def _compile_first(argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    """Run one process that compiles the Numba kernels the ranks will use; once in a process for each argv."""
    if importlib.util.find_spec("numba") is not None:
        job = subprocess.run([sys.executable, *argv], env=dict(env), capture_output=True, text=True)
        if job.returncode:
            raise CommError(f"the warm-up {' '.join(argv)} failed:\n{job.stderr.strip()}")


def warm_up() -> None:
    """Run every kernel of minidl.ternary once, on float32 and float64."""
    from minidl.ternary import pack, ternarise

    for dtype in (np.float32, np.float64):
        trits = ternarise.Ternariser().trits(np.linspace(-1, 1, 99).astype(dtype))
    pack.unpack_fields(pack.pack_fields(trits, 2), trits.size, 2)
    pack.unpack_2bit(pack.pack_2bit(trits), trits.size)
    pack.unpack_base(pack.pack_base(trits), trits.size)


# ------------------------------------------------------------------------------------------------ results by file


def report_result(result: dict) -> None:
    """Called in a rank: hand a dict of plain values and arrays to the process that called run_ranks.

    Without run_ranks (a script started by hand with mpirun) it does nothing, so a script may always call it.
    """
    folder = os.environ.get(RESULTS)
    if folder is None:
        return
    arrays: dict[str, Any] = {key: value for key, value in result.items() if isinstance(value, np.ndarray)}
    rest = {key: value for key, value in result.items() if key not in arrays}
    np.savez(Path(folder) / f"rank-{my_rank()}.npz", **arrays)
    (Path(folder) / f"rank-{my_rank()}.json").write_text(json.dumps(rest))


def report_progress(done: int) -> None:
    """Called in one rank: say how many steps are done. Like report_result, silent without run_ranks."""
    folder = os.environ.get(RESULTS)
    if folder is not None:
        (Path(folder) / "progress.new").write_text(str(done))
        os.replace(Path(folder) / "progress.new", Path(folder) / "progress")


def my_rank() -> int:
    """This process's rank as mpirun gave it, known without initialising MPI."""
    return int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", 0)))


def _pass_on_progress(folder: Path, progress) -> None:
    if progress is not None and (folder / "progress").exists():
        progress(int((folder / "progress").read_text()))


def _collect(folder: Path, n: int) -> list[dict]:
    """What the ranks reported, by rank; a rank that reported nothing gives an empty dict."""
    results = []
    for rank in range(n):
        path = folder / f"rank-{rank}.json"
        result: dict[str, Any] = {}
        if path.exists():
            result |= json.loads(path.read_text())
            with np.load(path.with_suffix(".npz")) as arrays:
                result |= {key: arrays[key] for key in arrays.files}
        results.append(result)
    return results


# ------------------------------------------------------------------------------------------------ minidl mpirun


def mpirun_main(args: list[str]) -> int:
    """`minidl mpirun -n N [--threads T] [--timeout S] SCRIPT [ARGUMENTS]`: run a script on N ranks, as run_ranks does.

    The ranks' output is this process's output; the exit status is mpirun's own.
    """
    parser = argparse.ArgumentParser(prog="minidl mpirun", description="Run a Python script on N MPI ranks.")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many ranks")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="BLAS and Numba threads per rank (1)")
    parser.add_argument("--timeout", type=float, metavar="S", help="end all ranks after S seconds (no limit)")
    parser.add_argument("script", help="a Python script; its own arguments follow it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    if not Path(given.script).is_file():
        raise InputError(f"there is no script {given.script} in {Path.cwd()}")
    argv = [given.script, *given.arguments]
    return run_ranks(given.n, argv, timeout=given.timeout, threads=given.threads, capture=False, check=False).returncode


if __name__ == "__main__":
    warm_up()
