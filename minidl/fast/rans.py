"""Numba twins of minidl/ternary/more/rans.py: the same words. Lanes are independent, so a processor overlaps them."""

from __future__ import annotations

import numpy as np

from minidl.fast.ternarise import exact_jit
from minidl.ternary.more.rans import BITS, LOW, SYMBOLS, WORD, M


@exact_jit
def _histogram(symbols, counts):
    """Four counters for each symbol: one that occurs many times in a row would wait for its own last increment."""
    whole = symbols.size // 4 * 4
    for i in range(0, whole, 4):
        for k in range(4):
            counts[k, symbols[i + k]] += 1
    for i in range(whole, symbols.size):
        counts[0, symbols[i]] += 1


def histogram(symbols):
    if symbols.dtype != np.uint8:
        return NotImplemented
    counts = np.zeros((4, SYMBOLS), np.int64)
    _histogram(symbols, counts)
    return counts.sum(axis=0)


@exact_jit
def _encode_words(symbols, f, begin, x, words):
    at, lane = words.size, (symbols.size - 1) % x.size
    for i in range(symbols.size - 1, -1, -1):
        s, here = symbols[i], x[lane]
        fs = f[s]
        if here >= fs << np.uint64(63 - BITS):
            at -= 1
            words[at] = here & np.uint64(0xFFFFFFFF)
            here >>= np.uint64(WORD)
        quotient = here // fs
        x[lane] = (quotient << np.uint64(BITS)) + (here - quotient * fs) + begin[s]
        lane = lane - 1 if lane > 0 else x.size - 1
    return at


def encode_words(symbols, f, lanes):
    if not (symbols.dtype == np.uint8 and f.dtype == np.uint64):
        return NotImplemented
    x = np.full(lanes, LOW, np.uint64)
    words = np.empty(symbols.size, np.uint32)  # more than enough; what is not written never becomes memory
    at = _encode_words(symbols, f, np.cumsum(f) - f, x, words)
    return x, words[at:]


@exact_jit
def _decode_words(x, words, f, begin, symbol_of, out):
    at, lane = 0, 0
    for i in range(out.size):
        here = x[lane]
        slot = here & np.uint64(M - 1)
        s = symbol_of[slot]
        out[i] = s
        here = f[s] * (here >> np.uint64(BITS)) + slot - begin[s]
        if here < np.uint64(LOW):
            here <<= np.uint64(WORD)
            if at < words.size:
                here |= np.uint64(words[at])
            at += 1
        x[lane] = here
        lane = lane + 1 if lane + 1 < x.size else 0
    return at


def decode_words(x, words, f, count):
    if not (x.dtype == f.dtype == np.uint64 and words.dtype == np.uint32):
        return NotImplemented
    symbol_of = np.repeat(np.arange(SYMBOLS, dtype=np.uint8), f.astype(np.int64))
    out = np.empty(count, np.uint8)
    at = _decode_words(x, words, f, np.cumsum(f) - f, symbol_of, out)
    return out, int(at)
