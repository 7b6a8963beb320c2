"""`minidl bench`: minidl's steps of training and inference beside those of what a user would pick instead.

    cases.py     the work, and which peer can do it            measure.py   the protocol
    *_steps.py   the work written for minidl and each peer     child.py     the process in which one of them runs
    growth.py    time and memory against size              wire.py      ternary gradients, beside a copy

A row, one for each case and peer: {name, threads, blas, form, ms, peer, peer_ms, ratio, peak_mib, peer_peak_mib, note}.
`ratio` is ms / peer_ms, or None where nothing was compared; then `note` says why. Memory is that of a whole process
with its libraries.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from minidl.bench import cases, measure
from minidl.errors import InputError, MinidlError

FIELDS = ("name", "threads", "blas", "form", "ms", "peer", "peer_ms", "ratio", "peak_mib", "peer_peak_mib", "note")
NAMES = (*cases.CASES, "cold-start", "growth", "wire")
COLD_START_MS = 5000  # the first LeNet step with nothing compiled


def row(**known) -> dict:
    """A row with every field; what is not known is None, a note is at least ""."""
    return {**dict.fromkeys(FIELDS), "note": "", **known}


def missing(peer: str) -> str | None:
    """The line that says how to install a peer, or None where it is installed."""
    if any(importlib.util.find_spec(package) is None for package in cases.PEERS[peer].packages):
        return f"{peer} is not installed, so it is left out: pip install {cases.PEERS[peer].install}"
    return None


def left_out(names: Sequence[str]) -> list[str]:
    """Such a line for each missing peer of these cases, once."""
    wanted = {peer for name in names for peer in cases.CASES.get(name, ())}
    return [line for peer in cases.PEERS if peer in wanted and (line := missing(peer))]


def compared(
    name: str, peer: str, threads: int, mine: measure.Measured, other: measure.Measured, tried: int = 1
) -> dict:
    """The row of two programs that were measured; without a ratio where either was disturbed in every try."""
    disturbed = [
        f"{who} took {m.alone_ms:.3g} ms alone and {m.ms:.3g} ms by turns"
        for who, m in (("minidl", mine), (peer, other))
        if not m.steady
    ]
    note = f"steady at try {tried} of at most {measure.TRIES}" if tried > 1 else ""
    if disturbed:
        note = f"no ratio after {tried} tries, something else was running: {'; '.join(disturbed)}"
    return row(
        name=name, threads=threads, blas=mine.about["blas"], form=mine.about["form"], ms=mine.ms,
        peer=f"{peer} {other.about['version']}", peer_ms=other.ms, ratio=None if disturbed else mine.ms / other.ms,
        peak_mib=mine.about["peak_mib"], peer_peak_mib=other.about["peak_mib"],
        note=note,
    )  # fmt: skip


def _case(name: str, threads: int, clock: str, env: dict[str, str]) -> Iterator[dict]:
    peers = [peer for peer in cases.CASES[name] if not missing(peer)]
    mine, *others = (functools.partial(measure.Child, name, who, clock, env=env) for who in ("minidl", *peers))
    if not peers:
        ms, said = measure.alone(mine)
        about = {key: said[key] for key in ("blas", "form", "peak_mib")}
        yield row(name=name, threads=threads, ms=ms, note="none of its peers is installed", **about)
        return
    for peer, found in zip(peers, measure.compare(mine, others), strict=True):
        yield compared(name, peer, threads, *found)


def _ask_once(what: str, env: dict[str, str]):
    """The answer of a child that is not compared with anything."""
    ran = subprocess.run([sys.executable, "-m", "minidl.bench.child", what], env=env, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise MinidlError(f"the process that measures {what} ended with status {ran.returncode}; see above")
    return json.loads(ran.stdout)


def _cold_start(threads: int, env: dict[str, str]) -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as folder:
        found = _ask_once("first-step", {**env, "NUMBA_CACHE_DIR": folder})
    ms, about = 1e3 * found["seconds"], {key: found[key] for key in ("blas", "form", "peak_mib")}
    verdict = "within" if ms <= COLD_START_MS else "above"
    note = f"LeNet's first step with nothing compiled; {verdict} the limit of {COLD_START_MS} ms"
    yield row(name="cold-start", threads=threads, ms=ms, note=note, **about)


def _growth(threads: int, env: dict[str, str]) -> Iterator[dict]:
    for found in _ask_once("growth", env):
        note = f"at size {found['size']:,}; time grows as n^{found['time']:.2f}, memory as n^{found['memory']:.2f}"
        about = {key: found[key] for key in ("name", "blas", "form", "ms", "peak_mib")}
        yield row(threads=threads, note=note, **about)


def _wire(threads: int, env: dict[str, str]) -> Iterator[dict]:
    for found in _ask_once("wire", env):
        note = f"{found['note']}; {found['size']:,} numbers, CPU time of one core"
        about = {key: found[key] for key in ("name", "blas", "form", "ms", "peak_mib")}
        yield row(
            threads=1, peer="copy (np.copyto)", peer_ms=found["copy_ms"], ratio=found["ms"] / found["copy_ms"],
            note=note, **about,
        )  # fmt: skip


def rows(names: Sequence[str], threads: int, clock: str = "wall") -> Iterator[dict]:
    """The rows of some names, as they are measured; with BLAS as it is pinned too, where the environment pins it."""
    for name in names:
        for pinned in (False, True) if any(pin in os.environ for pin in measure.PINS) else (False,):
            env = measure.environment(threads, pinned=pinned)
            if name == "cold-start":
                yield from _cold_start(threads, env)
            elif name == "growth":
                yield from _growth(threads, env)
            elif name == "wire":
                yield from _wire(threads, env)
            else:
                yield from _case(name, threads, clock, env)


HEAD = f"{'name':13}{'threads':>8}  {'BLAS':12}{'form':6}{'ms':>10}  {'peer':22}{'ms':>10}{'ratio':>7}"
HEAD += f"{'MiB':>7}{'peer':>7}"


def line(found: dict) -> str:
    """One row as a line of the table, its note below it."""

    def number(key, width, digits):
        value = found[key]
        return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"

    text = f"{found['name']:13}{found['threads']:8}  {found['blas']:12}{found['form']:6}{number('ms', 10, 3)}  "
    text += f"{found['peer'] or '-':22}{number('peer_ms', 10, 3)}{number('ratio', 7, 2)}"
    text += number("peak_mib", 7, 0) + number("peer_peak_mib", 7, 0)
    return text + (f"\n    {found['note']}" if found["note"] else "")


def bench(names: Sequence[str], threads: int, *, json_file: str | None = None, clock: str = "wall") -> int:
    """Measure, print the table, write the rows to json_file ("-" is standard output), and return 0."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputError(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if clock == "cpu" and threads > 1:
        raise InputError(f"CPU time says nothing about {threads} threads, which also wait in it: use --threads 1")
    from minidl.doctor import processor

    out = sys.stderr if json_file == "-" else sys.stdout
    print(f"{processor()}; {threads} thread{'s' * (threads > 1)}; {clock} time of a step", file=out)
    without = left_out(names or NAMES)
    print(*without, HEAD, sep="\n", file=out, flush=True)
    found = []
    for one in rows(names or NAMES, threads, clock):
        found.append(one)
        print(line(one), file=out, flush=True)
    text = json.dumps({"processor": processor(), "clock": clock, "left_out": without, "rows": found}, indent=2) + "\n"
    if json_file == "-":
        print(text, end="")
    elif json_file:
        Path(json_file).write_text(text, "utf-8")
    return 0
