"""The protocol: two programs on the same work, so that neither disturbs the other and a busy machine is noticed.

Each runs in a process of its own, with its threads decided in the environment before any library is loaded: libraries
whose threads wait by spinning (OpenBLAS's for 100 ms after their last work, OpenMP's for 10) make each other two to six
times slower inside one process. They take turns in blocks:

    block         a pause; DISCARD steps and SETTLE seconds are discarded; KEEP steps and SPAN seconds are kept
                  (of steps above SLOW seconds 1 and 3, above VERY_SLOW 1 and 1: caches warm up and threads wake in
                  milliseconds, and that is lost in such a step); then the process rests until its own threads have
                  stopped spinning, so that the next block, of whichever program, finds the cores free
    alone         BLOCKS blocks in a process while the other does not exist
    alternating   BLOCKS blocks of each in turn; the figure is the median of all steps kept

Where alone and alternating differ by more than AGREE for either, something else was running, or a process got its
memory or threads laid out badly: then the pair is measured again in new processes, up to TRIES times; if no try passes
there is no ratio. A try passes or not by how each program agrees with itself, never by the ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from minidl.errors import MinidlError
from minidl.ternary.launch import BLAS_RESTS, THREAD_VARIABLES

THREADS = (*THREAD_VARIABLES, "VECLIB_MAXIMUM_THREADS")

PAUSE, SETTLE, SPAN, SLOW, VERY_SLOW = 0.15, 0.05, 0.2, 0.1, 1.0  # seconds
DISCARD, KEEP, BLOCKS, TRIES = 3, 15, 7, 3
AGREE = 0.1
REST, IDLE, LONGEST_REST = 0.05, 0.02, 2.0  # seconds; threads sleep when they use less than IDLE of a core; seconds

PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that make OpenBLAS run another kernel than the one it would choose."""


def block(step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The seconds of the steps kept in one block."""

    def steps(least: int, seconds: float) -> list[float]:
        kept: list[float] = []
        while len(kept) < least or sum(kept) < seconds:
            start = clock()
            step()
            kept.append(clock() - start)
        return kept

    time.sleep(PAUSE)
    first = steps(1, 0)[0]
    if first > SLOW:
        kept = steps(1 if first > VERY_SLOW else 3, 0)
    else:
        steps(DISCARD - 1, SETTLE)
        kept = steps(KEEP, SPAN)
    rest()
    return kept


def rest() -> None:
    """Wait until no thread of this process is busy: OpenMP's and BLAS's spin for a while after their last work."""
    for _ in range(round(LONGEST_REST / REST)):
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before <= IDLE * REST:
            return


@dataclass(frozen=True)
class Measured:
    """Milliseconds of a step by turns and alone, and what the process said of itself (its version, form, peak)."""

    ms: float
    alone_ms: float
    about: dict

    @property
    def steady(self) -> bool:
        return abs(self.ms - self.alone_ms) <= AGREE * min(self.ms, self.alone_ms)


def alone(start: Callable) -> tuple[float, dict]:
    """(milliseconds of a step, what the process said of itself). start() gives a runner: block(), close()."""
    runner = start()
    kept = [s for _ in range(BLOCKS) for s in runner.block()]
    return 1e3 * median(kept), runner.close()


def by_turns(starts: Sequence[Callable]) -> list[tuple[float, dict]]:
    """The same of programs that are all alive, and work one after the other."""
    runners = [start() for start in starts]
    kept: list[list[float]] = [[] for _ in runners]
    for _ in range(BLOCKS):
        for seconds, runner in zip(kept, runners, strict=True):
            seconds += runner.block()
    return [(1e3 * median(seconds), runner.close()) for seconds, runner in zip(kept, runners, strict=True)]


def compare(mine: Callable, others: Sequence[Callable]) -> Iterator[tuple[Measured, Measured, int]]:
    """One program beside each of some others, pair by pair: (mine, other, how many tries it took).

    Mine is measured alone once, and again with every new try.
    """
    mine_alone = alone(mine)[0]
    for other in others:
        for tried in range(1, TRIES + 1):
            mine_alone = alone(mine)[0] if tried > 1 else mine_alone
            other_alone = alone(other)[0]
            (ms, about), (other_ms, other_about) = by_turns((mine, other))
            pair = Measured(ms, mine_alone, about), Measured(other_ms, other_alone, other_about)
            if all(m.steady for m in pair):
                break
        yield *pair, tried


def environment(threads: int, *, pinned: bool = True) -> dict[str, str]:
    """The environment of a child: minidl where this one found it, its threads, and without
    `pinned` the BLAS kernel that suits the processor."""
    env = {**BLAS_RESTS, **os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in () if pinned else PINS:
        env.pop(name, None)
    return env


class Child:
    """A process that runs minidl.bench.child and answers each line with one line of JSON."""

    def __init__(self, *arguments: str, env: dict[str, str]):
        command = [sys.executable, "-m", "minidl.bench.child", *arguments]
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, question: str):
        """The answer to "block" or "about"."""
        try:
            print(question, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            raise MinidlError(f"the process that was measured ended with status {self.process.returncode}; see above")
        return json.loads(line)

    def block(self) -> list[float]:
        return self.ask("block")

    def close(self) -> dict:
        about = self.ask("about")
        self.process.stdin.close()  # type: ignore[union-attr]  # the end of its questions
        self.process.wait()
        return about
