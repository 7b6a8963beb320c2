"""Numba twins of minidl/ternary/pack.py: one pass over the trits, in cache-sized tiles where a word takes many."""

from __future__ import annotations

import numpy as np

from minidl.fast.ternarise import FLOATS, exact_jit, trits_of_block
from minidl.ternary.pack import digits_per_byte, field_bits, field_words, sum_dtype

TILE = 1024


INTEGERS = (np.int8, np.int16, np.int32)


def _contiguous(array, *dtypes):
    return array.dtype in dtypes and array.ndim == 1 and array.flags.c_contiguous


@exact_jit
def _pack_2bit(trits, out):
    quarter = out.size
    for k in range(4):
        part = trits[k * quarter : (k + 1) * quarter]
        for j in range(part.size):
            out[j] |= np.uint8(part[j] + 1) << np.uint8(2 * k)


def pack_2bit(trits, rule="exact"):
    if not _contiguous(trits, np.int8) or rule != "exact":
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


@exact_jit
def _ternarise_pack(g, s, key, own, block, first, out):
    trits = np.empty(5 * TILE, np.int8)  # stays in the fastest cache
    for start in range(0, g.size, trits.size):
        end = min(start + trits.size, g.size)
        trits[end - start :] = 0
        at = start
        while at < end:
            b = at // block
            stop = min(end, (b + 1) * block)
            trits_of_block(g[at:stop], s[b], own[b], first + at, key, trits[at - start : stop - start])
            at = stop
        _pack_base3(trits, out[start // 5 : start // 5 + TILE])


def ternarise_pack(g, s, key, own, block, first=0):
    if g.dtype not in FLOATS or not g.flags.c_contiguous or not s.dtype == own.dtype == np.float32:
        return NotImplemented
    out = np.empty(-(-g.size // 5), np.uint8)
    with np.errstate(over="ignore"):  # for plain Python: the hash is meant to run over
        _ternarise_pack(g, s, key, own, block, first, out)
    return out


@exact_jit
def _pack_base(sums, own, digits, out):
    for j in range(out.size):
        byte = 0
        for k in range(digits - 1, -1, -1):
            byte = byte * (2 * own + 1) + np.int64(sums[digits * j + k]) + own
        out[j] = byte


def pack_base(sums, own=1):
    if not _contiguous(sums, np.int8):
        return NotImplemented
    digits = digits_per_byte(own)
    whole = sums.size // digits * digits
    out = np.empty(-(-sums.size // digits), np.uint8)
    if own == 1:
        _pack_base3(sums[:whole], out[: whole // digits])
    else:
        _pack_base(sums[:whole], own, digits, out[: whole // digits])
    if whole < sums.size:
        last = np.zeros(digits, np.int8)
        last[: sums.size - whole] = sums[whole:]
        _pack_base(last, own, digits, out[-1:])
    return out


@exact_jit
def _unpack_base3(code, out):
    for j in range(code.size):
        x = np.uint32(code[j])
        for k in range(5):
            third = (x * np.uint32(171)) >> np.uint32(9)  # x // 3 for x < 256
            out[5 * j + k] = np.int8(x - np.uint32(3) * third) - np.int8(1)
            x = third


@exact_jit
def _unpack_base(code, own, digits, out):
    base = np.uint32(2 * own + 1)
    for j in range(code.size):
        x = np.uint32(code[j])
        for k in range(digits):
            out[digits * j + k] = np.int64(x % base) - own
            x //= base


def unpack_base(code, count, own=1):
    if not _contiguous(code, np.uint8):
        return NotImplemented
    digits = digits_per_byte(own)
    out = np.empty(digits * code.size, np.int8)
    if own == 1:
        _unpack_base3(code, out)
    else:
        _unpack_base(code, own, digits, out)
    return out[:count]


@exact_jit
def _add_2bit(code, sums):
    for k in range(4):
        part = sums[k * code.size : (k + 1) * code.size]
        for j in range(part.size):
            part[j] += np.int8(code[j] >> np.uint8(2 * k) & np.uint8(3)) - np.int8(1)


@exact_jit
def _add_base3(code, sums):
    for j in range(code.size):
        x = np.uint32(code[j])
        for k in range(5):
            third = (x * np.uint32(171)) >> np.uint32(9)
            sums[5 * j + k] += np.int8(x - np.uint32(3) * third) - np.int8(1)
            x = third


def unpack_add(code, sums, scheme="base3"):
    if not (_contiguous(code, np.uint8) and _contiguous(sums, *INTEGERS)) or scheme not in ("2bit", "base3"):
        return NotImplemented
    if scheme == "2bit":
        _add_2bit(code, sums)
        return None
    whole = sums.size // 5
    _add_base3(code[:whole], sums[: 5 * whole])
    if 5 * whole < sums.size:
        last = np.zeros(5, sums.dtype)
        _add_base3(code[whole:], last)
        sums[5 * whole :] += last[: sums.size - 5 * whole]
    return None


@exact_jit
def _pack_fields(sums, bits, own, out):
    for start in range(0, out.size, TILE):
        word = out[start : start + TILE]
        for k in range(64 // bits):
            first = k * out.size + start
            part = sums[first : first + word.size]
            for j in range(part.size):
                word[j] |= np.uint64(np.int64(part[j]) + own) << np.uint64(bits * k)


def pack_fields(sums, workers, own=1):
    if not _contiguous(sums, *INTEGERS):
        return NotImplemented
    out = np.zeros(field_words(sums.size, workers), np.uint64)
    _pack_fields(sums, field_bits(workers), own, out)
    return out


@exact_jit
def _unpack_fields(total, bits, workers, out):
    mask = np.uint64((1 << bits) - 1)
    for start in range(0, total.size, TILE):
        word = total[start : start + TILE]
        for k in range(64 // bits):
            first = k * total.size + start
            part = out[first : first + word.size]
            for j in range(part.size):
                part[j] = np.int64(word[j] >> np.uint64(bits * k) & mask) - workers


def unpack_fields(total, count, workers):
    if not _contiguous(total, np.uint64):
        return NotImplemented
    out = np.empty(count, sum_dtype(workers))
    _unpack_fields(total, field_bits(workers), workers, out)
    return out
