"""The command `minidl`: reproduce the talk's claims, measure, ask the doctor, start ranks. All is done elsewhere."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from minidl.errors import InputError, MinidlError

_THREADS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    import minidl

    top = argparse.ArgumentParser(
        prog="minidl", description="Sparse, ternary and smoothed deep learning, to run and read."
    )
    top.add_argument("--version", action="version", version=f"minidl {minidl.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("reproduce", help="measure the talk's claims and write a report")
    run.add_argument("names", nargs="*", metavar="CLAIM", help="which claims; default: the four headline claims")
    run.add_argument("--all", action="store_true", help="every claim there is")
    run.add_argument("--list", action="store_true", help="print the claims and how long they take, and end")
    mode = run.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_false", dest="full", help="about a minute for each claim (default)")
    mode.add_argument("--full", action="store_true", dest="full", help="minutes to hours for each claim")
    run.add_argument("--data", metavar="DIR", help="where data sets lie, before MINIDL_DATA and the cache")
    run.add_argument(
        "--out", metavar="DIR", default="minidl-report", help="where results go (default: ./minidl-report)"
    )
    run.add_argument("--json", metavar="FILE", help="a copy of report.json; - is standard output")
    run.add_argument("--seed", type=_at_least(0), default=0, metavar="N", help="default: 0")
    run.add_argument(
        "--threads", type=_at_least(1), default=1, metavar="N",
        help="BLAS and Numba threads, shared out among ranks (default: 1; on a busy machine more are slower)",
    )  # fmt: skip
    run.add_argument("--fresh", action="store_true", help="run again what is finished already")
    run.set_defaults(full=False)

    bench = commands.add_parser("bench", help="time minidl beside PyTorch, MyGrad, autograd and ONNX Runtime")
    bench.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks; default: all")
    bench.add_argument("--threads", type=_at_least(1), default=1, metavar="N", help="of both sides (default: 1)")
    bench.add_argument("--json", metavar="FILE", help="write the rows here; - is standard output")
    bench.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, one thread")

    commands.add_parser("doctor", help="what works on this machine, and what mends the rest")

    commands.add_parser("mpirun", help="start a script as several MPI processes, safely", add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 2 with one sentence for bad input, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["mpirun"]:  # it has a parser of its own, because everything after the script is the script's
            from minidl.ternary import launch

            return launch.mpirun_main(given[1:])
        options = parser().parse_args(given)
        if options.command == "doctor":
            from minidl import doctor

            return doctor.main()
        if options.command == "bench":
            return _bench(options)
        return _reproduce(options, started_here=argv is None)
    except MinidlError as error:
        print(f"minidl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _reproduce(options: argparse.Namespace, started_here: bool) -> int:
    if importlib.util.find_spec("minidl.claims") is None or importlib.util.find_spec("minidl.claims.run") is None:
        raise InputError("the folder minidl/claims is not here, so there is nothing to reproduce: install minidl again")
    if started_here and not options.list:
        _start_with_threads(options.threads)
    from minidl.claims import run

    if options.list:
        print(run.list_claims())
        return 0
    given = {name: value for name, value in vars(options).items() if name not in ("command", "list")}
    return run.reproduce(run.Options(**given))


def _bench(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("minidl.bench") is None:
        raise InputError("the folder minidl/bench is not here, so there is nothing to measure: install minidl again")
    from minidl import bench

    return bench.bench(options.names, options.threads, json_file=options.json, clock=options.clock)


def _start_with_threads(threads: int) -> None:
    """Start this very command again with the thread count in the environment, where it is not yet there, and with
    BLAS's threads told not to spin for long, unless somebody has told them something else.

    BLAS and Numba read it when they are loaded, so later is too late; and a number of threads that is decided before
    the first product gives the same bits every time. Windows cannot replace a process: threadpoolctl serves there.
    """
    from minidl.ternary.launch import BLAS_RESTS

    wanted = {**BLAS_RESTS, **os.environ, **dict.fromkeys(_THREADS, str(threads))}
    if os.name == "posix" and wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def _at_least(least: int):
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number
