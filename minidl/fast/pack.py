"""Numba twins of minidl/ternary/pack.py: one pass over the trits, in cache-sized tiles where a word takes many."""

from __future__ import annotations

import numpy as np

from minidl.fast.ternarise import exact_jit
from minidl.ternary.pack import field_bits, field_words, sum_dtype

TILE = 1024


def _contiguous(array, dtype):
    return array.dtype == dtype and array.ndim == 1 and array.flags.c_contiguous


@exact_jit
def _pack_2bit(trits, out):
    quarter = out.size
    for k in range(4):
        part = trits[k * quarter : (k + 1) * quarter]
        for j in range(part.size):
            out[j] |= np.uint8(part[j] + 1) << np.uint8(2 * k)


def pack_2bit(trits):
    if not _contiguous(trits, np.int8):
        return NotImplemented
    out = np.zeros(-(-trits.size // 4), np.uint8)
    _pack_2bit(trits, out)
    return out


@exact_jit
def _unpack_2bit(code, out):
    for k in range(4):
        part = out[k * code.size : (k + 1) * code.size]
        for j in range(part.size):
            part[j] = np.int8(code[j] >> np.uint8(2 * k) & np.uint8(3)) - np.int8(1)


def unpack_2bit(code, count):
    if not _contiguous(code, np.uint8):
        return NotImplemented
    out = np.empty(count, np.int8)
    _unpack_2bit(code, out)
    return out


@exact_jit
def _pack_base3(t, out):
    for j in range(out.size):
        i = 5 * j
        low = np.int64(t[i]) + 3 * np.int64(t[i + 1]) + 9 * np.int64(t[i + 2])  # plain Python would stay in int8
        out[j] = 121 + low + 27 * np.int64(t[i + 3]) + 81 * np.int64(t[i + 4])


def pack_base3(trits):
    if not _contiguous(trits, np.int8):
        return NotImplemented
    whole = trits.size // 5 * 5
    out = np.empty(-(-trits.size // 5), np.uint8)
    _pack_base3(trits[:whole], out[: whole // 5])
    if whole < trits.size:
        last = np.zeros(5, np.int8)
        last[: trits.size - whole] = trits[whole:]
        _pack_base3(last, out[-1:])
    return out


@exact_jit
def _unpack_base3(code, out):
    for j in range(code.size):
        x = np.uint32(code[j])
        for k in range(5):
            third = (x * np.uint32(171)) >> np.uint32(9)  # x // 3 for x < 256
            out[5 * j + k] = np.int8(x - np.uint32(3) * third) - np.int8(1)
            x = third


def unpack_base3(code, count):
    if not _contiguous(code, np.uint8):
        return NotImplemented
    out = np.empty(5 * code.size, np.int8)
    _unpack_base3(code, out)
    return out[:count]


@exact_jit
def _pack_fields(trits, bits, out):
    for start in range(0, out.size, TILE):
        word = out[start : start + TILE]
        for k in range(64 // bits):
            first = k * out.size + start
            part = trits[first : first + word.size]
            for j in range(part.size):
                word[j] |= np.uint64(np.uint8(part[j] + 1)) << np.uint64(bits * k)


def pack_fields(trits, ranks):
    if not _contiguous(trits, np.int8):
        return NotImplemented
    out = np.zeros(field_words(trits.size, ranks), np.uint64)
    _pack_fields(trits, field_bits(ranks), out)
    return out


@exact_jit
def _unpack_fields(total, bits, ranks, out):
    mask = np.uint64((1 << bits) - 1)
    for start in range(0, total.size, TILE):
        word = total[start : start + TILE]
        for k in range(64 // bits):
            first = k * total.size + start
            part = out[first : first + word.size]
            for j in range(part.size):
                part[j] = np.int64(word[j] >> np.uint64(bits * k) & mask) - ranks


def unpack_fields(total, count, ranks):
    if not _contiguous(total, np.uint64):
        return NotImplemented
    out = np.empty(count, sum_dtype(ranks))
    _unpack_fields(total, field_bits(ranks), ranks, out)
    return out
