"""Trits as bytes: what really travels. Two codes for a message, one for sums, and the envelope of a message.

    2 bits    four contiguous quarters: byte j = a1[j] + 4 a2[j] + 16 a3[j] + 64 a4[j], a = t + 1       2   bits a trit
    base 3    five neighbours:          byte j = sum over k of 3^k (t[5j + k] + 1)                      1.6 bits a trit
    fields    word j = sum over k of (t[kW + j] + 1) 2^(k bits),  bits = ceil(log2(2n + 1))             n = 2: 3.05

The first is TernGrad's published layout; log2(3) = 1.58 bits is the limit without an entropy coder. Fields are for
Allreduce: n ranks' words are added as plain integers, and as no field can pass 2n, none carries into its neighbour.

A message is 32 bytes of header (little-endian) and the code:

    magic "TERN" | version u16 | scheme u16 | ranks u32 | step u32 | count u64 | scale f32 | CRC32 of all the rest u32
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidl.backend import twin
from minidl.errors import CommError, InputError

# ------------------------------------------------------------------------------------------------- 2 bits a trit


@twin
def pack_2bit(trits: np.ndarray) -> np.ndarray:
    """(D,) int8 trits -> (ceil(D / 4),) uint8. Padding is code 0, and ignored when read."""
    quarter = -(-trits.size // 4)
    a = np.zeros(4 * quarter, np.uint8)
    a[: trits.size] = trits + 1
    a1, a2, a3, a4 = a.reshape(4, quarter)
    return a1 | a2 << 2 | a3 << 4 | a4 << 6


@twin
def unpack_2bit(code: np.ndarray, count: int) -> np.ndarray:
    """The first `count` trits, int8, of codes that `check_digits` has passed."""
    a = np.concatenate([code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6])
    return a[:count].astype(np.int8) - np.int8(1)


# ------------------------------------------------------------------------------------------------- 1.6 bits a trit

POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)


@twin
def pack_base3(trits: np.ndarray) -> np.ndarray:
    """(D,) int8 trits -> (ceil(D / 5),) uint8, each at most 242. Padding is trit 0."""
    digits = np.ones(5 * -(-trits.size // 5), np.uint8)
    digits[: trits.size] = trits + 1
    return (digits.reshape(-1, 5) * POWERS_OF_3).sum(axis=1, dtype=np.uint8)


@twin
def unpack_base3(code: np.ndarray, count: int) -> np.ndarray:
    """The first `count` trits, int8, of codes that `check_digits` has passed."""
    digits = code[:, None] // POWERS_OF_3 % 3
    return digits.reshape(-1)[:count].astype(np.int8) - np.int8(1)


# ------------------------------------------------------------------------------------------------- fields for sums


def field_bits(ranks: int) -> int:
    """ceil(log2(2 ranks + 1)): the bits that hold a sum of `ranks` numbers in 0..2."""
    return (2 * ranks).bit_length()


def field_words(count: int, ranks: int) -> int:
    """How many uint64 words carry `count` trits for a sum over `ranks`: floor(64 / bits) fields in each."""
    return -(-count // (64 // field_bits(ranks)))


def sum_dtype(ranks: int):
    """The smallest signed integer that holds -ranks .. ranks."""
    return np.int8 if ranks <= 127 else np.int16 if ranks <= 32767 else np.int32


@twin
def pack_fields(trits: np.ndarray, ranks: int) -> np.ndarray:
    """(D,) int8 trits -> (W,) uint64: field k of word j holds trit kW + j, biased to 0..2. Sum them with MPI.SUM."""
    bits, words = field_bits(ranks), field_words(trits.size, ranks)
    a = np.zeros((64 // bits, words), np.uint64)
    a.reshape(-1)[: trits.size] = trits + 1
    out = np.zeros(words, np.uint64)
    for k, digits in enumerate(a):
        out |= digits << np.uint64(bits * k)
    return out


@twin
def unpack_fields(total: np.ndarray, count: int, ranks: int) -> np.ndarray:
    """The sums over `ranks` of `count` trits, in -ranks .. ranks; int8 up to 127 ranks, then int16, int32."""
    bits, dtype = field_bits(ranks), sum_dtype(ranks)
    mask = np.uint64(2**bits - 1)
    fields = [(total >> np.uint64(bits * k) & mask).astype(dtype) for k in range(64 // bits)]
    return np.concatenate(fields)[:count] - dtype(ranks)


# ------------------------------------------------------------------------------------------------- the envelope

HEADER = struct.Struct("<4sHHIIQfI")
MAGIC, VERSION = b"TERN", 1


class Scheme(NamedTuple):
    """One code: how many trits it puts in a byte, and the two functions that pack and unpack them."""

    number: int  # in the header
    per_byte: int  # trits in a byte
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, int], np.ndarray]


SCHEMES = {"2bit": Scheme(1, 4, pack_2bit, unpack_2bit), "base3": Scheme(2, 5, pack_base3, unpack_base3)}


class Message(NamedTuple):
    """What a message said, once its envelope was found in order."""

    trits: np.ndarray  # (count,) int8
    scale: np.float32
    step: int
    ranks: int


def message_bytes(count: int, scheme: str = "base3") -> int:
    """32 + ceil(count / 4) in 2 bits, 32 + ceil(count / 5) in base 3."""
    return HEADER.size + -(-count // scheme_of(scheme).per_byte)


def scheme_of(name: str) -> Scheme:
    """The scheme of this name; InputError lists the names there are."""
    if name not in SCHEMES:
        raise InputError(f"scheme {name!r} is not one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def pack_message(trits: np.ndarray, scale: float, *, step: int, ranks: int, scheme: str = "base3") -> np.ndarray:
    """One worker's trits and scale as (32 + code,) uint8, ready for Allgather."""
    code = scheme_of(scheme).pack(trits)
    fields = MAGIC, VERSION, scheme_of(scheme).number, ranks, step, trits.size, scale
    crc = zlib.crc32(code.data, zlib.crc32(HEADER.pack(*fields, 0)[:-4]))
    return np.concatenate([np.frombuffer(HEADER.pack(*fields, crc), np.uint8), code])


def unpack_message(message, *, step: int, ranks: int, scheme: str = "base3", sender: str = "the message") -> Message:
    """Open a message, or raise CommError that says what is wrong with it and who sent it."""
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
    if message.size != promised:
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
    return Message(scheme_of(scheme).unpack(code, count), np.float32(scale), its_step, its_ranks)


def check_digits(code: np.ndarray, scheme: str, sender: str = "the message") -> None:
    """Refuse bytes that no trits give: the 2-bit code 3, and 243 or more in base 3. Free, beside the checksum."""
    wrong = (code & code >> 1 & 0x55 != 0) if scheme == "2bit" else code >= 243
    if wrong.any():
        at = int(wrong.argmax())
        raise CommError(f"{sender} has byte {code[at]} at {at}, which is no trits in scheme {scheme}")
