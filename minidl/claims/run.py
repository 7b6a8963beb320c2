"""Run claims one after the other; keep what is finished; write the report. `minidl reproduce` is this file.

A finished claim is saved at once, atomically, as OUT/claims/NAME.json, and reused by the next run if everything that
decides its numbers is the same: claim, mode, data, seed, threads, BLAS kernel, and the package's source text. So after
Ctrl-C, a full disk or a power cut the same command goes on where it stopped; within a claim, behind the last part that
it kept in OUT/claims/NAME.parts/ (see `Context.kept`).

Exit status: 0 everything asked was measured, whatever came out (a claim whose optional package is missing is
'not run'); 1 a claim is broken; 2 bad input; 130 Ctrl-C.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minidl import claims
from minidl.claims import report
from minidl.claims.claim import Claim, Context, load, plain, why_broken
from minidl.doctor import blas_kernel, environment
from minidl.errors import DataError, InputError, MissingExtra


@dataclass
class Options:
    """What `minidl reproduce` was asked: the fields are its options."""

    names: Sequence[str] = ()
    all: bool = False
    full: bool = False
    data: str | None = None
    out: str = "minidl-report"
    json: str | None = None
    seed: int = 0
    threads: int = 1
    fresh: bool = False


@dataclass
class Finished:
    """A claim that has been run (or could not be): everything the report shows of it, ready for JSON."""

    key: dict[str, Any]
    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    figures: list[dict[str, str]] = field(default_factory=list)
    broken: str | None = None
    reused: bool = False

    @property
    def name(self) -> str:
        return self.key["claim"]


def list_claims() -> str:
    """The claims with their chapter and expected durations, as `--list` prints them."""
    found, failed = claims.discover()
    lines = [f"{'claim':22}{'chapter':9}{'--quick':>9}{'--full':>9}   what it shows"]
    for claim in found.values():
        quick, full = (f"{claim.seconds[mode]:.0f} s" for mode in ("quick", "full"))
        lines.append(f"{claim.name:22}{claim.chapter!s:9}{quick:>9}{full:>9}   {claim.title}")
    lines += [f"{name:22}cannot be loaded here: {error}" for name, error in failed.items()]
    return "\n".join(lines)


def reproduce(options: Options) -> int:
    """Run the claims that were asked for, and return the exit status."""
    found, failed = claims.discover()
    names = _chosen(options, found, failed)
    out = _writable(Path(options.out))
    if options.json not in (None, "-"):
        _writable(Path(options.json).absolute().parent)
    screen = sys.stderr if options.json == "-" else sys.stdout
    finished: list[Finished] = []
    status = 0
    with ExitStack() as stack:
        _limit_threads(options.threads, stack)
        _ctrl_c_stops_at_once(stack)
        try:
            for number, name in enumerate(names, 1):
                claim = found.get(name) or _unloadable(name, failed[name])
                print(f"[{number} of {len(names)}] {name}: {claim.title}", file=screen, flush=True)
                one = _saved(claim, options, out) or _run(claim, options, out)
                finished.append(one)
                print(report.text(one), file=screen, flush=True)
                _keep(one, finished, options, out)
        except KeyboardInterrupt:
            status = 130
    if status == 130:
        print(
            f"Interrupted. {len(finished)} finished claims, and the finished parts of others, are kept in {out}: "
            "the same command goes on.",
            file=screen,
        )
    elif any(one.broken for one in finished):
        status = 1
    if options.json == "-":
        print(report.rows_json(finished))
    elif finished:
        print(f"{out / 'report.html'} and report.json hold {sum(len(one.rows) for one in finished)} rows.", file=screen)
    return status


def _chosen(options: Options, found: dict[str, Claim], failed: dict[str, Exception]) -> list[str]:
    everything = [*found, *failed]
    names = everything if options.all else list(dict.fromkeys(options.names)) or list(claims.HEADLINE)
    unknown = [name for name in names if name not in everything]
    if unknown:
        raise InputError(f"no claim is called {', '.join(unknown)}; there are: {', '.join(everything) or 'none'}")
    return names


def _unloadable(name: str, error: Exception) -> Claim:
    """A claim in the place of one whose file could not be imported: running it raises what the import raised."""

    def run(ctx: Context) -> None:
        raise error

    return Claim(name, chapter="?", title="its file could not be loaded", seconds={"quick": 0, "full": 0}, run=run)


def _run(claim: Claim, options: Options, out: Path) -> Finished:
    """Run one claim. Only bad data and Ctrl-C come out of here as errors; anything else breaks this claim alone."""
    ctx = Context(claim, options.full, options.seed, options.threads, options.data, blas_kernel())
    ctx.parts, ctx.key = _parts(claim.name, out), _key(claim, options)
    if options.fresh:
        shutil.rmtree(ctx.parts, ignore_errors=True)
    broken = None
    try:
        claim.run(ctx)
    except DataError:
        raise
    except Exception as error:
        missing = _missing_package(error)
        if missing:
            ctx.not_run("the whole claim" if not ctx.rows else "the rest of the claim", missing)
        else:
            trace = out / "claims" / f"{claim.name}.error.txt"
            report.write(trace, traceback.format_exc())
            broken = f"{type(error).__name__}: {error} (the traceback is in {trace})"
            ctx.not_run("the rest of the claim", broken)
    rows = ctx.finish()
    broken = broken or why_broken(rows)
    if broken:  # no row of a broken claim may be read as a success
        rows = [{**row, "outcome": "not shown"} if row["outcome"] == "supported" else row for row in rows]
    figures = [{**one, "png": base64.b64encode(one["png"]).decode()} for one in ctx.figures]
    key = {**_key(claim, options), "data": plain(ctx.datasets)}
    return Finished(key, claim.title, rows, ctx.notes, figures, broken)


def _parts(name: str, out: Path) -> Path:
    return out / "claims" / f"{name}.parts"


def _missing_package(error: Exception) -> str | None:
    """Why a claim could not run here, if the reason is an optional package that is not installed."""
    if isinstance(error, MissingExtra):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "minidl":
        return f"the package {error.name.partition('.')[0]} is not installed: pip install 'minidl[all]'"
    return None


def _key(claim: Claim, options: Options) -> dict[str, Any]:
    """What decides a claim's numbers, but for its data, which are known when it has asked for them."""
    return {
        "claim": claim.name,
        "mode": "full" if options.full else "quick",
        "seed": options.seed,
        "threads": options.threads,
        "blas": blas_kernel(),
        "version": source_version(),
    }


def source_version() -> str:
    """The package's version and a digest of its source text: whoever edits a file gets new results, not kept ones."""
    import minidl

    text = hashlib.sha256()
    root = Path(claims.__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        text.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return f"{getattr(minidl, '__version__', '0')}+{text.hexdigest()[:12]}"


def _saved(claim: Claim, options: Options, out: Path) -> Finished | None:
    """The kept result of an earlier run, if it would come out the same now; else None."""
    path = out / "claims" / f"{claim.name}.json"
    if options.fresh or not path.is_file():
        return None
    try:
        one = Finished(**json.loads(path.read_text("utf-8")))
        data = one.key.pop("data")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # written by another version: run the claim again
    if one.key != _key(claim, options):
        return None
    for kind, kept in data.items():
        now = load(kind, options.data)
        if [now.name, now.sha256] != kept:
            return None
    one.key["data"], one.reused = data, True
    return one


def _keep(one: Finished, finished: list[Finished], options: Options, out: Path) -> None:
    """Save a claim that was measured, and the report of everything so far. On a full disk the rows go to the screen."""
    try:
        if not (one.reused or one.broken or any(row["outcome"] == "not run" for row in one.rows)):
            report.write(out / "claims" / f"{one.name}.json", json.dumps(asdict(one), allow_nan=False))
            shutil.rmtree(_parts(one.name, out), ignore_errors=True)
        report.write(out / "report.html", report.html(finished, environment(options.threads)))
        rows = report.rows_json(finished)
        report.write(out / "report.json", rows)
        if options.json not in (None, "-"):
            report.write(Path(options.json), rows)
    except OSError as error:
        print(report.rows_json(finished))
        raise InputError(
            f"the results cannot be written to {error.filename or out}: {error.strerror or error}. All rows so far "
            f"stand on standard output; claims saved before are still in {out}. Make room or give another --out."
        ) from error


def _writable(folder: Path) -> Path:
    """The folder, made if need be; InputError before any work is done if nothing can be written there."""
    try:
        report.write(folder / ".minidl-can-write", "yes")
        (folder / ".minidl-can-write").unlink()
    except OSError as error:
        raise InputError(f"nothing can be written to {folder}: {error.strerror or error}; give another") from error
    return folder


def _ctrl_c_stops_at_once(stack: ExitStack) -> None:
    """Ctrl-C raises KeyboardInterrupt wherever a claim is.

    `fit` would answer Python's own handler by ending the training early, and a claim would take what it then has for
    finished. A handler that is not Python's own it leaves alone.
    """

    def stop(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGINT, stop)
        stack.callback(signal.signal, signal.SIGINT, before)


def _limit_threads(threads: int, stack: ExitStack) -> None:
    """Hold BLAS and Numba to this many threads, for a process in which they were loaded before it was decided."""
    try:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
    except ImportError:
        pass  # then the environment variables that the command line sets decide alone
    try:
        import numba
    except ImportError:
        return
    before = numba.get_num_threads()
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, most))
    stack.callback(numba.set_num_threads, before)
