"""Threads for kernels that release the interpreter lock: each takes one part of a range.

Numba's own parallel loops take 4 s to compile, and under its simplest threading layer two Python threads must not enter
them at once (a communication or prefetch thread might). These threads are Python's own. BLAS gets one thread meanwhile:
its products here are small, and its threads would compete with these for the cores.
"""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from numba import get_num_threads

WORTH = 2_000_000  # multiply-adds below which starting a second thread costs more than it saves

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_inside = 0  # how many callers hold BLAS to one thread; ranks simulated in threads may do so at once
_before: list = []


def _forget() -> None:  # a forked child has none of its parent's threads
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@functools.cache
def _blas() -> list:
    """NumPy's BLAS, as threadpoolctl sees it; nothing without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return ThreadpoolController().select(user_api="blas").lib_controllers


@contextmanager
def _one_blas_thread():
    """The first to enter takes BLAS's threads away, the last to leave gives them back."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = [(library, library.get_num_threads()) for library in _blas()]
            for library, _ in _before:
                library.set_num_threads(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            for library, count in _before if not _inside else ():
                library.set_num_threads(count)


def in_parts(count: int, run, work: int, *, blas: bool = False) -> int:
    """Call run(k, first, last) for parts of range(count), one for each thread; return how many parts there were.

    The number of threads is Numba's (NUMBA_NUM_THREADS). work: multiply-adds in all; little work stays in one part.
    blas: whether run multiplies matrices; it stays in one part where BLAS's threads cannot be held back. Even one part
    gets one BLAS thread then: a second would spin for 30 ms after it and take half a core from the parts that follow.
    """
    global _pool
    threads = get_num_threads()
    parts = max(1, min(threads, count, work // WORTH))
    if parts == 1 or (blas and not _blas()):
        with _one_blas_thread() if blas and threads > 1 else nullcontext():
            run(0, 0, count)
        return 1
    bounds = [count * k // parts for k in range(parts + 1)]
    if _pool is None:
        _pool = ThreadPoolExecutor(get_num_threads(), "minidl-kernel")
    with _one_blas_thread():
        others = [_pool.submit(run, k, bounds[k], bounds[k + 1]) for k in range(1, parts)]
        try:
            run(0, bounds[0], bounds[1])
        finally:  # nobody writes into the result after this
            errors = [other.exception() for other in others]
    for error in filter(None, errors):
        raise error
    return parts
