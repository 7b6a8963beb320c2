"""The protocol: two programs on the same work, so that neither disturbs the other and a busy machine is noticed.

Each runs in a process of its own, with its threads decided in the environment before any library is loaded: libraries
whose threads wait by spinning make each other two to six times slower inside one process. They take turns in blocks:

    block         a pause for other processes' spinning threads to fall asleep; DISCARD steps and SETTLE seconds are
                  discarded; KEEP steps and SPAN seconds are kept
                  (of steps above SLOW seconds 1 and 3: threads spin for milliseconds, and that is lost in such a step)
    alone         BLOCKS blocks in a process while the other does not exist
    alternating   BLOCKS blocks of each in turn; the figure is the median of all steps kept

Where alone and alternating differ by more than AGREE, something else was running: then there is no ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from minidl.errors import MinidlError
from minidl.ternary.launch import THREAD_VARIABLES

THREADS = (*THREAD_VARIABLES, "VECLIB_MAXIMUM_THREADS")

PAUSE, SETTLE, SPAN, SLOW = 0.15, 0.02, 0.1, 0.1  # seconds
DISCARD, KEEP, BLOCKS = 3, 15, 5
AGREE = 0.1

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
    if steps(1, 0)[0] > SLOW:
        return steps(3, 0)
    steps(DISCARD - 1, SETTLE)
    return steps(KEEP, SPAN)


@dataclass(frozen=True)
class Measured:
    """Milliseconds of a step by turns and alone, and what the process said of itself (its version, form, peak)."""

    ms: float
    alone_ms: float
    about: dict

    @property
    def steady(self) -> bool:
        return abs(self.ms - self.alone_ms) <= AGREE * min(self.ms, self.alone_ms)


def compare(starts: list[Callable]) -> list[Measured]:
    """Measure programs alone and by turns. Each start() gives a runner: block() -> seconds, close() -> about itself."""
    alone = []
    for start in starts:
        runner = start()
        alone.append([s for _ in range(BLOCKS) for s in runner.block()])
        runner.close()
    runners = [start() for start in starts]
    turns: list[list[float]] = [[] for _ in runners]
    for _ in range(BLOCKS):
        for kept, runner in zip(turns, runners, strict=True):
            kept += runner.block()
    return [
        Measured(1e3 * median(kept), 1e3 * median(lonely), runner.close())
        for kept, lonely, runner in zip(turns, alone, runners, strict=True)
    ]


def environment(threads: int, *, pinned: bool = True) -> dict[str, str]:
    """The environment of a child: minidl where this one found it, its threads, and without
    `pinned` the BLAS kernel that suits the processor."""
    env = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(sys.path)}
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
