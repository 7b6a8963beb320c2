"""Start ranks: the one way in which minidl, its tests and its lessons run a script on several MPI processes.

    run = run_ranks(2, ["train.py", "--steps", "100"], timeout=60)
    run.results[0]["accuracy"]                       # what rank 0 gave to report_result({"accuracy": ...})

What a plain `mpirun python train.py` gets wrong, and this does not:
  * the mpirun must belong to mpi4py's MPI, or every rank believes to be alone: look beside this Python first;
  * a rank that raises leaves the others waiting for ever: `-m mpi4py` ends them all, with the traceback;
  * a rank that is stopped, or skips a call, does the same: heartbeats tell which one, and its last step;
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
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CommError, InputError, MissingExtra
from minidl.ternary import heartbeat
from minidl.ternary.comm import simulated
from minidl.ternary.heartbeat import BEAT, HEART, Listener, my_rank

RESULTS = "MINIDL_RESULTS"
"""The environment variable that tells a rank in which directory to leave its results."""
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
BLAS_RESTS = {"OPENBLAS_THREAD_TIMEOUT": "16"}
"""BLAS's threads wait for 2^16 ticks of the clock for the next product, not for 2^26; see fast/linear.py."""
FAMILIES = {"Open MPI": "open mpi", "Intel": "intel", "MPICH": "hydra"}
"""How each MPI calls itself: in its library's version, and in what its `mpirun --version` prints (small letters)."""
MPI_SETTINGS = {
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "10",  # MPICH: a rank that waits gives its core to one that works
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # Open MPI: the same
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # Open MPI in a container
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
"""What makes the MPIs fit for lessons on small machines. Each ignores the other's variables."""
SIMULATE = (
    "import sys; from minidl.ternary import sim_comm as s; s.run_script(sys.argv[2], sys.argv[3:], int(sys.argv[1]))"
)
"""The process that simulates ranks: one of its own, for its libraries too shall have the threads that ranks have."""
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
    failure: str | None = None  # the sentence that names the rank that ended the run, and its last step


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
    name = next((f for f in FAMILIES if f in library.stdout), "MPI")
    here = os.path.dirname(sys.executable)
    found = []
    for place in [here, *os.get_exec_path()]:
        mpirun = shutil.which("mpirun", path=place) or shutil.which("mpiexec", path=place)
        if mpirun and mpirun not in found:
            found.append(mpirun)
            if belongs_to(mpirun, name):
                return mpirun, name
    other = f"; {', '.join(found)} belongs to another MPI" if found else ""
    raise MissingExtra(f"mpi4py uses {name}, but there is no mpirun of {name}{other}: {install}")


def belongs_to(mpirun: str, family: str) -> bool:
    """Does this mpirun, by what it says of itself, start programs of that MPI?"""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True)
    return FAMILIES.get(family, "") in (version.stdout + version.stderr).lower()


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
    stall: float | None = None,
    threads: int = 1,
    hostfile: str | None = None,
    simulate: bool = False,
    env: dict[str, str] | None = None,
    capture: bool = True,
    check: bool = True,
    warm_up: list[str] | None = None,
    progress=None,
) -> Run:
    """Run `python -m mpi4py *argv` on n ranks, with heartbeats, and wait for the end.

    timeout:  seconds after which all ranks are ended, a failure; None waits for ever
    stall:    the same after so many seconds without a sign of life of a rank, or in which no rank has moved on in its
              code; counted from the first step on
    hostfile: a file of machines, see host_flags; else all ranks run here. Results of ranks elsewhere do not come back
    simulate: one process runs the script on n simulated ranks, without MPI and heartbeats: see sim_comm
    threads:  BLAS and Numba threads of each rank;  env: further environment variables
    capture:  keep what the ranks print (else it goes to this process's own output)
    check:    raise CommError, with the rank, its last step and the end of the error output, if the run fails
    warm_up:  argv of one process to run first, without MPI, so that ranks find their Numba kernels compiled;
              None compiles those of minidl.ternary
    progress: function(int) that is told what a rank last said with report_progress
    """
    if n < 1:
        raise InputError(f"{n} ranks: at least 1 is needed")
    if stall is not None and stall < 4 * BEAT:
        raise InputError(
            f"stall {stall:g} s: ranks tell every {BEAT:g} s that they live; allow at least {4 * BEAT:g} s"
        )
    name = f"{' '.join(argv[:2] if argv[0] == '-m' else argv[:1])} on {n} ranks"
    ranks_env = rank_environment(threads, env)
    _compile_first(tuple(warm_up or ["-m", "minidl.ternary.launch"]), tuple(sorted(ranks_env.items())))
    if simulate:
        command, stall = [sys.executable, "-c", SIMULATE, str(n), *argv], None
    else:
        mpirun, family = find_mpirun()
        flags = ["--oversubscribe"] if family == "Open MPI" else []
        flags += host_flags(family, hostfile) if hostfile else []
        command = [mpirun, *flags, "-n", str(n), sys.executable, "-m", "minidl.ternary.heartbeat", *argv]
    with tempfile.TemporaryDirectory(prefix="minidl-ranks-") as folder:
        if hostfile is None:
            ranks_env[RESULTS] = folder
        start = time.monotonic()
        run = _wait(command, ranks_env, timeout, stall, capture, folder, progress, Listener(hostfile is not None))
        run.seconds, run.results = time.monotonic() - start, _collect(Path(folder), n)
    if check and (run.returncode or run.failure):
        said = run.stderr.strip().splitlines()
        first = next((k for k, line in enumerate(said) if line.startswith("Traceback")), max(0, len(said) - 12))
        what = run.failure or f"exit status {run.returncode}"
        raise CommError("\n".join([f"{name}: {what}", *said[first : first + 30]]))  # below it come many words of mpirun
    return run


def host_flags(family: str, hostfile: str) -> list[str]:
    """What tells mpirun the machines in a file: one a line, `name`, `name:4` or `name slots=4`; # starts a comment."""
    hosts = []
    for number, line in enumerate(Path(hostfile).read_text().splitlines(), 1):
        if text := line.partition("#")[0].strip():
            match = re.fullmatch(r"([\w.-]+)(?:(?::|\s+slots\s*=\s*)(\d+))?", text)
            if match is None:
                raise InputError(f"{hostfile}, line {number}: {text!r} is not `name`, `name:4` or `name slots=4`")
            hosts.append(f"{match[1]}:{match[2] or 1}")
    if not hosts:
        raise InputError(f"{hostfile} names no machine")
    if family != "Open MPI":  # MPICH's and Intel's Hydra passes every environment variable on by itself
        return ["-hosts", ",".join(hosts)]
    passed = [*THREAD_VARIABLES, *BLAS_RESTS, *MPI_SETTINGS, "PYTHONPATH", HEART]
    return ["--host", ",".join(hosts), *(word for name in passed for word in ("-x", name))]


def _wait(command, env, timeout, stall, capture, folder, progress, listener) -> Run:
    """Start the command as a process group of its own, wait for it, and leave nothing of it behind."""
    paths = [Path(folder) / name if capture else None for name in ("stdout", "stderr")]
    out, err = (None if path is None else path.open("wb") for path in paths)
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    well, failure = time.monotonic(), None
    with _sigterm_as_exception():
        job = subprocess.Popen(
            command, env=env | {HEART: listener.address}, stdin=subprocess.DEVNULL if capture else None,
            stdout=out, stderr=err, start_new_session=hasattr(os, "killpg"),
        )  # fmt: skip
        try:
            while job.poll() is None and failure is None:
                with suppress(subprocess.TimeoutExpired):
                    job.wait(max(0.0, min(0.05, deadline - time.monotonic())))
                if progress is not None and (done := [v.progress for v in listener.voices if v.progress is not None]):
                    progress(max(done))
                now, verdict = time.monotonic(), listener.verdict(stall)
                well = now if verdict is None else well
                if now - well > GRACE:  # mpirun had time to end the others by itself
                    failure = verdict
                elif now >= deadline:
                    what = f"no end within its {timeout:g} s: a rank may wait for a call that another never makes"
                    failure = f"{what}; or give it more time. {listener.whereabouts()}"
        finally:
            _end(job)
            listener.close()
            for file in filter(None, (out, err)):
                file.close()
    texts = ["" if path is None else path.read_bytes().decode("utf-8", "replace") for path in paths]
    return Run(job.returncode, texts[0], texts[1], 0.0, failure=failure or listener.verdict(None, job.returncode))


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
    from minidl.ternary import allreduce, pack, ternarise

    for dtype in (np.float32, np.float64):
        trits = ternarise.Ternariser().trits(np.linspace(-1, 1, 99).astype(dtype))
    allreduce.mean_of(trits, np.ones(1, np.float32), 2)
    pack.unpack_fields(pack.pack_fields(trits, 2), trits.size, 2)
    pack.unpack_2bit(pack.pack_2bit(trits), trits.size)
    pack.unpack_base(pack.pack_base(trits), trits.size)
    pack.unpack_add(pack.pack_base(trits), trits)


# ------------------------------------------------------------------------------------------------ results by file


def report_result(result: dict) -> None:
    """Called in a rank: hand a dict of plain values and arrays to the process that called run_ranks.

    Without run_ranks (a script started by hand with mpirun) it does nothing, so a script may always call it.
    """
    folder, rank = os.environ.get(RESULTS), my_rank()
    if simulated.get() is not None:
        rank = simulated.get().Get_rank()
        simulated.get().report(result)
    if folder is None:
        return
    arrays: dict[str, Any] = {key: value for key, value in result.items() if isinstance(value, np.ndarray)}
    rest = {key: value for key, value in result.items() if key not in arrays}
    np.savez(Path(folder) / f"rank-{rank}.npz", **arrays)
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(rest))


def report_progress(done: int) -> None:
    """Called in a rank: say how many steps are done. Like report_result, silent without run_ranks."""
    if heartbeat.heart is not None:
        heartbeat.heart.tell(progress=done)


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
    """`minidl mpirun -n N [OPTIONS] SCRIPT [ARGUMENTS]`: run a script on N ranks, as run_ranks does.

    The ranks' output is this process's output; the exit status is mpirun's own. One sentence says what ended them.
    """
    parser = arguments("minidl mpirun")
    parser.add_argument("--hostfile", metavar="FILE", help="machines to run on, one a line: NAME or NAME:RANKS")
    parser.add_argument("script", help="a Python script; its own arguments follow it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = vars(parser.parse_args(args))
    argv = [given.pop("script"), *given.pop("arguments")]
    if not Path(argv[0]).is_file():
        raise InputError(f"there is no script {argv[0]} in {Path.cwd()}")
    run = run_ranks(given.pop("n"), argv, **given, capture=False, check=False)
    if run.failure:
        print(f"minidl: {run.failure}", file=sys.stderr)
    return run.returncode if run.returncode > 0 else int(run.failure is not None)


def arguments(prog: str) -> argparse.ArgumentParser:
    """The options of `minidl mpirun` and of %%mpirun; but for n, they are named as those of run_ranks."""
    parser = argparse.ArgumentParser(prog=prog, description="Run Python code on N MPI ranks.")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many ranks")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="BLAS and Numba threads per rank (1)")
    parser.add_argument("--timeout", type=float, metavar="S", help="end all ranks after S seconds (no limit)")
    parser.add_argument(
        "--stall", type=float, default=120, metavar="S", help="or if none moves on for S seconds (120; inf: never)"
    )
    parser.add_argument("--simulate", action="store_true", help="in one process, without MPI: the same bits")
    return parser


if __name__ == "__main__":
    warm_up()
