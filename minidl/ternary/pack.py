"""Trits as bytes: what really travels. Two codes for a message, one for sums, and the envelope of a message.

    2 bits    four contiguous quarters: byte j = a1[j] + 4 a2[j] + 16 a3[j] + 64 a4[j], a = t + 1       2   bits a trit
    base 3    five neighbours:          byte j = sum over k of 3^k (t[5j + k] + 1)                      1.6 bits a trit
    fields    word j = sum over k of (t[kW + j] + 1) 2^(k bits),  bits = ceil(log2(2n + 1))             n = 2: 3.05

The first is TernGrad's published layout; log2(3) = 1.58 bits is the limit without an entropy coder. Fields are for
Allreduce: n ranks' words are added as plain integers, and as no field can pass 2n, none carries into its neighbour.
A rank that stands for several workers has sums of their trits, -own .. own: base 3 becomes base 2 own + 1.

A message is 32 bytes of header (little-endian) and the code:

    magic "TERN" | version u16 | scheme u16 | ranks u32 | step u32 | count u64 | scale f32 | CRC32 of all the rest u32
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minidl.backend import twin
from minidl.errors import CommError, InputError
from minidl.ternary.ternarise import ternarise

# ------------------------------------------------------------------------------------------------- 2 bits a trit


@twin
def pack_2bit(trits: np.ndarray, rule: str = "exact") -> np.ndarray:
    """(D,) int8 trits -> (ceil(D / 4),) uint8. Padding is code 0, and ignored when read.

    rule="published": the original's padding, codes 0, 1, 2, 3; it adds four of them also where 4 divides D.
    """
    quarter = trits.size // 4 + 1 if rule == "published" else -(-trits.size // 4)
    a = np.zeros(4 * quarter, np.uint8)
    a[: trits.size] = trits + 1
    if rule == "published":
        a[trits.size :] = np.arange(a.size - trits.size)
    a1, a2, a3, a4 = a.reshape(4, quarter)
    return a1 | a2 << 2 | a3 << 4 | a4 << 6


@twin
def unpack_2bit(code: np.ndarray, count: int) -> np.ndarray:
    """The first `count` trits, int8, of a code that `check_digits` has passed."""
    a = np.concatenate([code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6])
    return a[:count].astype(np.int8) - np.int8(1)


# ------------------------------------------------------------------------- 1.6 bits a trit: bytes in base 2 own + 1


def digits_per_byte(own: int) -> int:
    """The most digits of base 2 own + 1 whose combinations a byte can number: 5 of base 3, one from base 17 on."""
    digits = 1
    while (2 * own + 1) ** (digits + 1) <= 256:
        digits += 1
    return digits


def _weights(own: int) -> np.ndarray:
    return ((2 * own + 1) ** np.arange(digits_per_byte(own))).astype(np.uint8)


@twin
def pack_base(sums: np.ndarray, own: int = 1) -> np.ndarray:
    """(D,) sums of `own` trits, at most 127 -> (ceil(D / digits),) uint8, at most 242 in base 3. Padding is sum 0."""
    weights = _weights(own)
    digits = np.full(weights.size * -(-sums.size // weights.size), own, np.uint8)
    digits[: sums.size] = sums.astype(np.int16) + own
    return (digits.reshape(-1, weights.size) * weights).sum(axis=1, dtype=np.uint8)


@twin
def unpack_base(code: np.ndarray, count: int, own: int = 1) -> np.ndarray:
    """The first `count` sums, int8, of a code that `check_digits` has passed."""
    digits = code[:, None] // _weights(own) % np.uint8(2 * own + 1)
    return (digits.reshape(-1)[:count].astype(np.int16) - own).astype(np.int8)


@twin
def ternarise_pack(g, s, key, own, block: int, first: int = 0) -> np.ndarray:
    """A gradient as (ceil(D / 5),) uint8 in base 3: its trits, as `ternarise` draws them, are never stored."""
    return pack_base(ternarise(g, s, key, own, block, first))


# ------------------------------------------------------------------------------------------------- fields for sums


def field_bits(workers: int) -> int:
    """ceil(log2(2 workers + 1)): the bits that hold a sum of `workers` numbers in 0..2."""
    return (2 * workers).bit_length()


def field_words(count: int, workers: int) -> int:
    """How many uint64 words carry `count` trits for a sum over `workers`: floor(64 / bits) fields in each."""
    return -(-count // (64 // field_bits(workers)))


def sum_dtype(workers: int):
    """The smallest signed integer that holds -workers .. workers."""
    return np.int8 if workers <= 127 else np.int16 if workers <= 32767 else np.int32


@twin
def pack_fields(sums: np.ndarray, workers: int, own: int = 1) -> np.ndarray:
    """(D,) sums of this rank's `own` trits -> (W,) uint64: field k of word j holds sum kW + j, biased to 0..2 own.

    The words of all ranks, whose `own` add up to `workers`, may be summed with MPI.SUM.
    """
    bits, words = field_bits(workers), field_words(sums.size, workers)
    a = np.zeros((64 // bits, words), np.uint64)
    a.reshape(-1)[: sums.size] = sums.astype(np.int64) + own
    out = np.zeros(words, np.uint64)
    for k, digits in enumerate(a):
        out |= digits << np.uint64(bits * k)
    return out


@twin
def unpack_fields(total: np.ndarray, count: int, workers: int) -> np.ndarray:
    """The sums over all `workers` of `count` trits, in -workers .. workers; int8 up to 127, then int16, int32."""
    bits, dtype = field_bits(workers), sum_dtype(workers)
    mask = np.uint64(2**bits - 1)
    fields = [(total >> np.uint64(bits * k) & mask).astype(dtype) for k in range(64 // bits)]
    return np.concatenate(fields)[:count] - dtype(workers)


# ------------------------------------------------------------------------------------------------- the envelope

HEADER = struct.Struct("<4sHHIIQfI")
MAGIC, VERSION = b"TERN", 1


class Scheme(NamedTuple):
    """One code: its number in the header, and how it is packed, unpacked and measured."""

    number: int
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, int], np.ndarray]
    size: Callable[[int], int | None]  # bytes for so many sums; None if that depends on the sums
    wrong: Callable[[np.ndarray], np.ndarray]  # which bytes of a code no sums give


def _base(own: int) -> Scheme:
    digits = digits_per_byte(own)
    size, wrong = lambda count: -(-count // digits), lambda code: code >= (2 * own + 1) ** digits
    return Scheme(2 * own, partial(pack_base, own=own), partial(unpack_base, own=own), size, wrong)


SCHEMES = {
    "2bit": Scheme(1, pack_2bit, unpack_2bit, lambda count: -(-count // 4), lambda code: code & code >> 1 & 0x55 != 0)
} | {f"base{2 * own + 1}": _base(own) for own in range(1, 128)}
"""By name: "2bit", "base3", and for sums of `own` trits "base5", "base7", ... "base255"."""


@twin
def unpack_add(code: np.ndarray, sums: np.ndarray, scheme: str = "base3") -> None:
    """sums += what the code says, in place, of a code that `check_digits` has passed. sums: (D,) signed integers."""
    sums += scheme_of(scheme).unpack(code, sums.size)


class Message(NamedTuple):
    """What a message said, once its envelope was found in order."""

    trits: np.ndarray  # (count,) int8
    scale: np.float32
    step: int
    ranks: int


def message_bytes(count: int, scheme: str = "base3") -> int:
    """32 + ceil(count / 4) in 2 bits, 32 + ceil(count / 5) in base 3."""
    return HEADER.size + (scheme_of(scheme).size(count) or 0)


def scheme_of(name: str) -> Scheme:
    """The scheme of this name; InputError lists the names there are."""
    if name not in SCHEMES:
        raise InputError(f"scheme {name!r} is not one of 2bit, base3, base5, ... base255")
    return SCHEMES[name]


def pack_message(trits: np.ndarray, scale: float, *, step: int, ranks: int, scheme: str = "base3") -> np.ndarray:
    """One rank's trits (or sums) and scale as (32 + code,) uint8, ready for Allgather."""
    code = scheme_of(scheme).pack(trits)
    fields = MAGIC, VERSION, scheme_of(scheme).number, ranks, step, trits.size, scale
    crc = zlib.crc32(code.data, zlib.crc32(HEADER.pack(*fields, 0)[:-4]))
    return np.concatenate([np.frombuffer(HEADER.pack(*fields, crc), np.uint8), code])


def unpack_message(message, *, step: int, ranks: int, scheme: str = "base3", sender: str = "the message") -> Message:
    """Open a message and unpack it, or raise CommError that says what is wrong with it and who sent it."""
    code, count, scale = open_message(message, step=step, ranks=ranks, scheme=scheme, sender=sender)
    return Message(scheme_of(scheme).unpack(code, count), scale, step, ranks)


def open_message(
    message, *, step: int, ranks: int, scheme: str = "base3", sender: str = "the message"
) -> tuple[np.ndarray, int, np.float32]:
    """The code of a message, how many trits it holds, and their scale; CommError as from `unpack_message`."""
    message = np.frombuffer(message, np.uint8)
    if message.size < HEADER.size:
        raise CommError(f"{sender} is too short: {message.size} bytes, and the header alone has {HEADER.size}")
    magic, version, number, its_ranks, its_step, count, scale, crc = HEADER.unpack(message[: HEADER.size].tobytes())
    if magic != MAGIC:
        raise CommError(f"{sender} begins with {magic!r}, not with {MAGIC!r}: it is not a ternary gradient")
    if version != VERSION:
        raise CommError(f"{sender} has version {version} of the format; this minidl reads version {VERSION}")
    names = {code.number: name for name, code in SCHEMES.items()}
    if names.get(number) != scheme:
        raise CommError(f"{sender} is in scheme {names.get(number, number)}, but {scheme} was expected")
    promised = message_bytes(count, scheme)
    if message.size != promised and scheme_of(scheme).size(count) is not None:
        raise CommError(f"{sender} has {message.size} bytes where its header promises {promised} ({count} trits)")
    computed = zlib.crc32(message[HEADER.size :].data, zlib.crc32(message[: HEADER.size - 4].data))
    if computed != crc:
        raise CommError(f"{sender} is damaged: its checksum is {computed:08x}, and it was sent with {crc:08x}")
    if its_step != step:
        raise CommError(f"{sender} is of step {its_step}, but this rank is at step {step}")
    if its_ranks != ranks:
        raise CommError(f"{sender} is for {its_ranks} ranks, but there are {ranks}")
    code = message[HEADER.size :]
    check_digits(code, scheme, sender)
    return code, count, np.float32(scale)


def check_digits(code: np.ndarray, scheme: str, sender: str = "the message") -> None:
    """Refuse bytes that no trits give: the 2-bit code 3, and 243 or more in base 3. Free, beside the checksum."""
    wrong = scheme_of(scheme).wrong(code)
    if wrong.any():
        at = int(wrong.argmax())
        raise CommError(f"{sender} has byte {code[at]} at {at}, which is no trits in scheme {scheme}")
