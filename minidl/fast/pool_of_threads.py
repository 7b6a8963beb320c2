"""Threads for kernels that release the interpreter lock: each takes one part of a range.

Numba's own parallel loops take 4 s to compile, and under its simplest threading layer two Python threads must not enter
them at once (a communication or prefetch thread might). These threads are Python's own.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from numba import get_num_threads

WORTH = 2_000_000  # multiply-adds below which starting a second thread costs more than it saves

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:  # a forked child has none of its parent's threads
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def in_parts(count: int, run, work: int) -> int:
    """Call run(k, first, last) for parts of range(count), one for each thread; return how many parts there were.

    The number of threads is Numba's (NUMBA_NUM_THREADS). work: multiply-adds in all; little work stays in one part.
    """
    global _pool
    parts = max(1, min(get_num_threads(), count, work // WORTH))
    bounds = [count * k // parts for k in range(parts + 1)]
    if parts > 1 and _pool is None:
        _pool = ThreadPoolExecutor(get_num_threads(), "minidl-kernel")
    others = [_pool.submit(run, k, bounds[k], bounds[k + 1]) for k in range(1, parts)] if _pool else []
    run(0, bounds[0], bounds[1])
    for other in others:
        other.result()
    return parts
