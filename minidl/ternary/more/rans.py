"""rANS: trits and their sums in hardly more bits than their entropy (Duda, arXiv:1311.2540, 2013).

A message is one large number x. To append a symbol s that occurs in f of M = 2^16 cases, in the slots b .. b + f - 1,

    x' = (x // f) M + b + x % f          so log2(x') = log2(x) + log2(M / f): the bits that s says, not a whole bit more

and x' gives it back: slot = x' % M names s, and x = f (x' // M) + slot - b. Reading undoes writing, last symbol first.
A symbol is a byte of `pack_base`, five trits: single trits of which 99.5 % are 0 would be many steps for few bits.

x is kept below 2^63 by writing its low 32 bits out whenever the next symbol would not fit, and reading them back when
it falls below 2^31. Several such x, the lanes, take the symbols by turns: one processor works on them at once.

    code:   lanes u8 | the commonest symbol u8 | 256 bits: which others occur | their f - 1, in 7 bits or 15 |
            x of each lane, u64 | the words that were written out, u32        (little-endian; no symbols: no bytes)

The commonest symbol takes what the others leave of M. The rest costs 100 to 500 bytes and about 6 for each lane: for
gradients of a few thousand numbers, base 3 is shorter.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import CommError, InputError
from minidl.ternary.pack import digits_per_byte, pack_base, sum_dtype, unpack_base

BITS, WORD = 16, 32
M, LOW = 1 << BITS, 1 << 31
"""Frequencies add up to M; a lane's number is in LOW .. 2^63 - 1, so one word is always enough to bring it back."""
LANES, LANE_BYTES = 16, 1024
"""At most so many lanes, one for each so many bytes."""
SYMBOLS = 256


def entropy_bits(p: float) -> float:
    """H(t) of a trit that is 1 or -1 with p / 2 each: the bits that no code can go below; 0 for p = 0."""
    shares = np.array([p / 2, p / 2, 1 - p])
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) + 0.0


# ------------------------------------------------------------------------------------------------- the table


@twin
def histogram(symbols: np.ndarray) -> np.ndarray:
    """How often each of 256 symbols occurs: (N,) uint8 -> (256,) int64."""
    return np.bincount(symbols, minlength=SYMBOLS)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Counts as integers that add up to M, at least 1 where a symbol occurs: (256,) int64 -> (256,) int64."""
    total = int(counts.sum())
    f = np.maximum((counts * M + total // 2) // total, counts > 0)
    f[counts.argmax()] += M - f.sum()  # at least M / 256, and the others are at most 255 too many
    return f


def _write_table(f: np.ndarray, commonest: int) -> np.ndarray:
    others = f.copy()
    others[commonest] = 0
    less = others[others > 0] - 1  # at most M / 2 - 1: 15 bits, of which the first byte has 7 and a mark
    two = np.stack([less >> 8 | 128, less & 255], axis=1).astype(np.uint8)
    kept = np.stack([less >= 128, less >= 0], axis=1)
    return np.concatenate([[commonest], np.packbits(others > 0, bitorder="little"), two[kept]]).astype(np.uint8)


def _read_table(code: np.ndarray, alphabet: int, sender: str) -> tuple[np.ndarray, int]:
    """(256,) int64 frequencies from the code's second byte on, and where the lanes begin."""
    commonest, at = int(code[1]), 2 + SYMBOLS // 8
    f = np.zeros(SYMBOLS, np.int64)
    occurs = np.flatnonzero(np.unpackbits(code[2:at], bitorder="little"))
    largest = max(commonest, int(occurs.max(initial=0)))
    if largest >= alphabet:
        raise CommError(f"{sender} is damaged: it has symbol {largest}, and there are only {alphabet}")
    rest = code[at : at + 2 * occurs.size].tolist() + [0] * (2 * occurs.size)
    read = 0
    for symbol in occurs:
        if rest[read] >= 128:
            f[symbol] = 1 + (rest[read] - 128 << 8 | rest[read + 1])
            read += 1
        else:
            f[symbol] = 1 + rest[read]
        read += 1
    left = M - int(f.sum())
    if left < 1 or f[commonest]:
        raise CommError(f"{sender} is damaged: its frequencies leave {left} of {M} to its commonest symbol")
    f[commonest] = left
    return f, at + read


# ------------------------------------------------------------------------------------------------- the coder


@twin
def encode_words(symbols: np.ndarray, f: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The lanes' numbers, (lanes,) uint64, and the words written out, (W,) uint32, in the order of reading.

    symbols: (N,) uint8, N >= 1; f: (256,) uint64, the frequencies. Symbol i belongs to lane i % lanes.
    """
    begin = np.cumsum(f) - f
    x = np.full(lanes, LOW, np.uint64)
    written = []
    for start in range((symbols.size - 1) // lanes * lanes, -1, -lanes):
        s = symbols[start : start + lanes]
        here, fs = x[: s.size], f[s]
        full = here >= fs << np.uint64(63 - BITS)
        written.append(here[full].astype(np.uint32))  # the low 32 bits
        here[full] >>= np.uint64(WORD)
        here[:] = here // fs * np.uint64(M) + here % fs + begin[s]
    return x, np.concatenate(written[::-1])


@twin
def decode_words(x: np.ndarray, words: np.ndarray, f: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """The symbols, (count,) uint8, and how many words they wanted; x becomes what the lanes' numbers were at first.

    Beyond the words that are there, it reads zeros.
    """
    begin = np.cumsum(f) - f
    symbol_of = np.repeat(np.arange(SYMBOLS, dtype=np.uint8), f.astype(np.int64))
    words = np.concatenate([words, np.zeros(x.size, np.uint32)]).astype(np.uint64)
    out, at = np.empty(count, np.uint8), 0
    for start in range(0, count, x.size):
        here = x[: min(x.size, count - start)]
        slot = here & np.uint64(M - 1)
        s = out[start : start + x.size] = symbol_of[slot]
        here[:] = f[s] * (here >> np.uint64(BITS)) + slot - begin[s]
        empty = np.flatnonzero(here < LOW)
        read = words[at : at + empty.size] if at + empty.size <= words.size else np.zeros(empty.size, np.uint64)
        here[empty] = here[empty] << np.uint64(WORD) | read
        at += empty.size
    return out, at


def encode(symbols: np.ndarray) -> np.ndarray:
    """(N,) uint8 of any values -> (B,) uint8, B near the entropy of their histogram; no bytes for no symbols."""
    if symbols.size == 0:
        return np.empty(0, np.uint8)
    counts = histogram(symbols)
    f = frequencies(counts)
    size = float((counts * np.log2(M / np.maximum(f, 1))).sum()) / 8
    lanes = min(max(int(size / LANE_BYTES), 1), LANES)
    x, words = encode_words(symbols, f.astype(np.uint64), lanes)
    parts = x.astype("<u8").view(np.uint8), words.astype("<u4").view(np.uint8)
    return np.concatenate([np.array([lanes], np.uint8), _write_table(f, int(counts.argmax())), *parts])


def decode(code: np.ndarray, count: int, alphabet: int = SYMBOLS, sender: str = "the message") -> np.ndarray:
    """The `count` symbols that `encode` was given, all below `alphabet`: (B,) uint8 -> (count,) uint8.

    Raises CommError for what no symbols give. The last check is nearly a checksum and costs nothing: having undone
    every symbol, each lane must be where it began, and every word used.
    """
    code = np.frombuffer(code, np.uint8)
    if count == 0 and code.size == 0:
        return np.empty(0, np.uint8)
    shortest = 2 + SYMBOLS // 8 + 8
    if count == 0 or code.size < shortest:
        raise CommError(f"{sender} has {code.size} bytes, but {count} symbols take {shortest if count else 0} or more")
    lanes = int(code[0])
    f, at = _read_table(code, alphabet, sender)
    words_at = at + 8 * lanes
    if not 1 <= lanes <= LANES or words_at > code.size or (code.size - words_at) % 4:
        raise CommError(f"{sender} is damaged: {lanes} lanes and their words do not fit into {code.size} bytes")
    x = code[at:words_at].copy().view("<u8").astype(np.uint64)
    words = code[words_at:].copy().view("<u4").astype(np.uint32, copy=False)
    symbols, wanted = decode_words(x, words, f.astype(np.uint64), count)
    if wanted != words.size:
        raise CommError(f"{sender} is damaged: its {count} symbols want {wanted} words, and it has {words.size}")
    if (x != LOW).any():
        lane = int((x != LOW).argmax())
        raise CommError(f"{sender} is damaged: lane {lane} ended at {int(x[lane])}, and every lane begins at {LOW}")
    return symbols


# ------------------------------------------------------------------------------------------------- trits and sums


def pack_trits(trits: np.ndarray) -> np.ndarray:
    """(D,) int8 trits -> (B,) uint8, 8 B / D near H(t): 1.22 bits where 32 % are not 0, 0.05 where 0.5 % are not."""
    return pack_sums(trits, 1)


def unpack_trits(code: np.ndarray, count: int, sender: str = "the message") -> np.ndarray:
    """The `count` trits of such a code, (count,) int8; CommError, naming the sender, where it is damaged."""
    return unpack_sums(code, count, 1, sender)


def pack_sums(sums: np.ndarray, workers: int) -> np.ndarray:
    """(D,) sums of the trits of so many workers, -workers .. workers, as (B,) uint8.

    Up to 127 workers a symbol is a byte of `pack_base`. Beyond, it is the upper part of sum - least, and the lower
    bits, which are as good as uniform, are symbols of their own:   least i32 | how many bits u32 | B of upper u64.
    """
    if workers <= 127:
        return encode(pack_base(sums, workers))
    least, most = (int(sums.min()), int(sums.max())) if sums.size else (0, 0)
    low = max((most - least).bit_length() - 8, 0)
    if low > 8:
        raise InputError(f"sums from {least} to {most} are {most - least + 1} values, and rANS takes at most 65536")
    rest = sums.astype(np.int64) - least
    upper = encode((rest >> low).astype(np.uint8))
    lower = encode((rest & (1 << low) - 1).astype(np.uint8)) if low else np.empty(0, np.uint8)
    head = np.array([least, low], "<i4").view(np.uint8), np.array([upper.size], "<u8").view(np.uint8)
    return np.concatenate([*head, upper, lower])


def unpack_sums(code: np.ndarray, count: int, workers: int, sender: str = "the message") -> np.ndarray:
    """The `count` sums: int8 up to 127 workers, then int16, int32; CommError, naming the sender, where damaged."""
    code = np.frombuffer(code, np.uint8)
    if workers <= 127:
        digits = digits_per_byte(workers)
        return unpack_base(decode(code, -(-count // digits), (2 * workers + 1) ** digits, sender), count, workers)
    if code.size < 16:
        raise CommError(f"{sender} is too short: {code.size} bytes, and the header of its sums alone has 16")
    least, low = code[:8].copy().view("<i4").tolist()
    upper_size = int(code[8:16].copy().view("<u8")[0])
    if not 0 <= low <= 8 or upper_size > code.size - 16 or (not low and upper_size != code.size - 16):
        raise CommError(f"{sender} is damaged: {low} low bits and {upper_size} bytes above them in {code.size} bytes")
    sums = decode(code[16 : 16 + upper_size], count, sender=sender).astype(np.int64) << low
    if low:
        sums += decode(code[16 + upper_size :], count, 1 << low, sender)
    sums += least
    if count and max(-int(sums.min()), int(sums.max())) > workers:
        raise CommError(f"{sender} is damaged: sums from {sums.min()} to {sums.max()} of only {workers} workers")
    return sums.astype(sum_dtype(workers))
