"""Memory of arrays that died, for arrays that are born.

A step makes the same large arrays as the step before. The C library gives their memory back to the system and gets it
again page by page, each filled with zeros first: a sixth of a training step of ResNet-20. Here an array's memory goes,
when the last view of it dies, to a list from which the next array of that size is made.
"""

from __future__ import annotations

import numpy as np

LEAST = 1 << 18  # bytes from which it is worth the microseconds
MOST = 1 << 30  # bytes that may lie idle: no more than a process held at its peak

_idle: dict[int, list[np.ndarray]] = {}  # size -> arrays of bytes; its operations are atomic, so no lock is needed
_bytes = 0  # about how many lie idle: two threads may miscount, which costs speed, never more


class _Lease:
    """Owns the memory of one array; dies with the last view."""

    __slots__ = ("raw", "__array_interface__")

    def __init__(self, raw: np.ndarray, shape, dtype: np.dtype):
        self.raw = raw
        address = raw.ctypes.data
        start = address + -address % 64  # whole cache lines: loads and stores across them take longer
        self.__array_interface__ = {"data": (start, False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self):
        global _bytes
        if _idle is None:  # the interpreter is shutting down
            return
        size = self.raw.size
        if _bytes + size > MOST:
            _idle.clear()
            _bytes = 0
        _idle.setdefault(size, []).append(self.raw)
        _bytes += size


def empty(shape, dtype) -> np.ndarray:
    """np.empty, from memory that was used before where there is some of this size."""
    global _bytes
    shape, dtype = tuple(map(int, shape)), np.dtype(dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size < LEAST:
        return np.empty(shape, dtype)
    size += 64
    try:
        raw = _idle[size].pop()
        _bytes -= size
    except (KeyError, IndexError):
        raw = np.empty(size, np.uint8)
    return np.asarray(_Lease(raw, shape, dtype))
