"""How every kernel in this folder is compiled."""

from __future__ import annotations

from numba import njit

# Sums may be reordered and fused, so that loops vectorise; NaN and infinity stay what they are (never `fastmath=True`).
FLAGS = {"reassoc", "contract", "arcp", "nsz", "afn"}


def jit(function):
    """Compile a serial kernel that releases the interpreter lock, cached on disk where that can be written to."""
    try:
        return njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(nogil=True, fastmath=FLAGS, error_model="numpy")(function)
