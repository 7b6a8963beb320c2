"""Numba twins of minidl/ternary/more/sums.py: a tile of words at a time, a digit of all of them at once."""

from __future__ import annotations

import math
import sys

import numpy as np

from minidl.fast.pack import INTEGERS, TILE, _contiguous
from minidl.fast.ternarise import exact_jit
from minidl.ternary.more.sums import digits_per_word
from minidl.ternary.pack import sum_dtype


@exact_jit
def _pack_radix(sums, workers, digits, out):
    for j in range(out.size):
        word = np.uint64(0)
        for k in range(digits - 1, -1, -1):
            i = k * out.size + j
            digit = np.int64(sums[i]) + workers if i < sums.size else 0
            word = word * np.uint64(2 * workers + 1) + np.uint64(digit)
        out[j] = word


def pack_radix(sums, workers):
    if not _contiguous(sums, *INTEGERS) or sys.byteorder == "big":
        return NotImplemented
    digits = digits_per_word(workers)
    out = np.empty(-(-sums.size // digits), np.uint64)
    _pack_radix(sums, workers, digits, out)
    return out.view(np.uint8)


@exact_jit
def _unpack_radix(words, workers, digits, out):
    """One division of 64 bits cuts a word in two; floats then divide the halves, below 2^52, without a mistake."""
    few = digits // 2
    half, base, inverse = np.uint64(2 * workers + 1) ** np.uint64(few), 2.0 * workers + 1, 1 / (2.0 * workers + 1)
    low, high = np.empty(TILE), np.empty(TILE)
    for start in range(0, words.size, TILE):
        word = words[start : start + TILE]
        for j in range(word.size):
            above = word[j] // half
            high[j], low[j] = above, word[j] - above * half
        for k in range(digits):
            rest, first = low if k < few else high, k * words.size + start
            part = out[first : first + word.size]
            for j in range(part.size):
                down = math.floor((rest[j] + 0.5) * inverse)
                part[j] = np.int32(rest[j] - down * base - workers)
                rest[j] = down


def unpack_radix(code, count, workers):
    digits = digits_per_word(workers)
    if not _contiguous(code, np.uint8) or sys.byteorder == "big" or (2 * workers + 1) ** (digits - digits // 2) > 2**52:
        return NotImplemented
    words = np.ascontiguousarray(code).view(np.uint64) if code.ctypes.data % 8 == 0 else code.copy().view(np.uint64)
    out = np.empty(min(count, digits * words.size), sum_dtype(workers))
    _unpack_radix(words, workers, digits, out)
    return out
