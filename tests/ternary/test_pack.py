"""Bytes on the wire: published vectors, every boundary, sums in fields, and messages that must be refused by name."""

import numpy as np
import pytest

from minidl import backend
from minidl.errors import CommError, InputError
from minidl.ternary import pack
from minidl.ternary.allreduce import mean_of

needs_numba = pytest.mark.skipif(not backend._fast_module("pack"), reason="Numba or minidl/fast is not there")
FORMS = ["numpy", pytest.param("numba", marks=needs_numba)]
DIGITS = {"2bit": 4, "base3": 5, "base5": 3, "base13": 2, "base255": 1}
SCHEMES = list(DIGITS)
LENGTHS = [*range(0, 27), 63, 64, 65, 1023, 1024, 1025, 21 * 1024, 21 * 1024 + 1, 50_000]


def trits(n, seed=0):
    return np.random.default_rng(seed).integers(-1, 2, n).astype(np.int8)


@pytest.mark.parametrize("form", FORMS)
def test_published_vectors(form):
    t = np.array([1, -1, 0, 0, 1, 1, -1, 0, 1, -1], np.int8)
    with backend.form(form):
        assert pack.pack_2bit(t).tolist() == [6, 24, 41]
        assert pack.pack_base(np.array([-1, 0, 1, 1, -1], np.int8)).tolist() == [0 + 3 + 18 + 54 + 0]
        assert pack.pack_base(np.array([1, -1], np.int8)).tolist() == [2 + 0 + 9 + 27 + 81], "the pad trit is 0"
        assert pack.pack_base(np.ones(5, np.int8)).tolist() == [242]
        assert pack.pack_fields(np.array([1, -1, 0], np.int8), 20).tolist() == [2 + (0 << 6) + (1 << 12)]


@pytest.mark.parametrize("form", FORMS)
def test_round_trips_at_every_boundary(form):
    with backend.form(form):
        for n in LENGTHS:
            t = trits(n, n)
            two, three = pack.pack_2bit(t), pack.pack_base(t)
            assert two.size == -(-n // 4) and three.size == -(-n // 5)
            assert np.array_equal(pack.unpack_2bit(two, n), t) and np.array_equal(pack.unpack_base(three, n), t)
            for ranks in range(1, 10):
                words = pack.pack_fields(t, ranks)
                assert words.size == pack.field_words(n, ranks)
                assert np.array_equal(pack.unpack_fields(words, n, ranks) + (ranks - 1), t), "one rank's share"


@pytest.mark.parametrize("form", FORMS)
def test_decoding_the_sum_is_summing_the_decoded(form):
    with backend.form(form):
        for ranks in range(1, 10):
            for n in (0, 1, 4, 5, 6, 21, 22, 1000):
                every = [trits(n, 10 * ranks + r) for r in range(ranks)]
                total = np.sum([pack.pack_fields(t, ranks) for t in every], axis=0, dtype=np.uint64)
                assert np.array_equal(pack.unpack_fields(total, n, ranks), np.sum(every, axis=0, dtype=np.int8))


@pytest.mark.parametrize("form", FORMS)
def test_sums_of_several_workers_travel_in_fields_and_in_their_base(form):
    with backend.form(form):
        for own in (1, 2, 3, 4, 7, 8, 127):
            for n in (0, 1, 2, 3, 4, 21, 22, 1000):
                sums = np.random.default_rng(n).integers(-own, own + 1, n).astype(np.int8)
                sums[: n // 3] = own
                code = pack.pack_base(sums, own)
                assert code.size == -(-n // pack.digits_per_byte(own))
                pack.check_digits(code, f"base{2 * own + 1}")
                found = pack.unpack_base(code, n, own)
                assert found.dtype == np.int8 and np.array_equal(found, sums)
                for dtype in (np.int8, np.int16, np.int32):
                    words = pack.pack_fields(sums.astype(dtype), 3 * own, own) * np.uint64(3)
                    assert np.array_equal(pack.unpack_fields(words, n, 3 * own), 3 * sums.astype(np.int64))
    assert [pack.digits_per_byte(own) for own in (1, 2, 3, 7, 8, 127)] == [5, 3, 2, 2, 1, 1]


@pytest.mark.parametrize("form", FORMS)
def test_unpack_add_adds_to_what_is_there(form):
    with backend.form(form):
        for scheme in ("2bit", "base3", "base5"):
            for n in LENGTHS:
                t = trits(n, n)
                for dtype in (np.int8, np.int16, np.int32):
                    sums = (np.arange(n) % 50).astype(dtype)
                    assert pack.unpack_add(pack.scheme_of(scheme).pack(t), sums, scheme) is None
                    assert np.array_equal(sums, np.arange(n) % 50 + t)


def test_the_originals_padding():
    """It pads with codes 0, 1, 2, 3, and by a whole byte where 4 divides the length."""
    t = np.array([1, -1, 0, 0, 1, 1, -1, 0, 1, -1], np.int8)
    assert pack.pack_2bit(t, rule="published").tolist() == [6, 24, 105]
    for n in range(0, 13):
        code = pack.pack_2bit(trits(n), rule="published")
        assert code.size == n // 4 + 1 and np.array_equal(pack.unpack_2bit(code, n), trits(n))


@pytest.mark.parametrize("form", FORMS)
def test_fields_hold_the_largest_sum(form):
    with backend.form(form):
        for ranks, dtype in ((1, np.int8), (127, np.int8), (128, np.int16), (32_768, np.int32)):
            for t in (1, -1):
                total = pack.pack_fields(np.full(50, t, np.int8), ranks) * np.uint64(ranks)
                sums = pack.unpack_fields(total, 50, ranks)
                assert sums.dtype == dtype and (sums == t * ranks).all()


def test_field_bits_are_those_of_the_table():
    assert [pack.field_bits(n) for n in (1, 2, 3, 4, 7, 8, 16, 64, 512)] == [2, 3, 3, 4, 4, 5, 6, 8, 11]


@needs_numba
def test_numpy_and_numba_give_the_same_bits():
    for n in LENGTHS:
        t, found = trits(n, n), []
        for form in ("numpy", "numba"):
            with backend.form(form):
                found.append([pack.pack_2bit(t), pack.pack_base(t), *(pack.pack_fields(t, r) for r in (1, 2, 9, 300))])
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_the_mean_is_one_float32_expression():
    s = np.array([0.3, 0.7], np.float32)
    mean = mean_of(np.array([3, -1, 2], np.int8), s, 3, block=2)
    share = s / np.float32(3)
    assert mean.dtype == np.float32 and mean.tolist() == [3 * share[0], -share[0], np.float32(2) * share[1]]


# ------------------------------------------------------------------------------------------------ messages

T = trits(1003)
OPEN = dict(step=7, ranks=4, sender="rank 2's message")


def message(**changes):
    return pack.pack_message(T, 0.5, **({"step": 7, "ranks": 4} | changes))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_message_comes_back(scheme):
    sent = message(scheme=scheme)
    assert sent.size == pack.message_bytes(T.size, scheme) == 32 + -(-T.size // DIGITS[scheme])
    got = pack.unpack_message(sent.tobytes(), scheme=scheme, **OPEN)
    assert np.array_equal(got.trits, T) and (got.scale, got.step, got.ranks) == (0.5, 7, 4)
    assert pack.unpack_message(pack.pack_message(T[:0], 0, step=7, ranks=4), **OPEN).trits.size == 0


def test_the_header_is_as_documented():
    head = message()[:32].tobytes()
    assert head[:4] == b"TERN" and head[4:8] == b"\x01\x00\x02\x00" and head[8:16] == b"\x04\0\0\0\x07\0\0\0"
    assert int.from_bytes(head[16:24], "little") == T.size and np.frombuffer(head[24:28], "<f4")[0] == 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_flipped_byte_is_refused_by_name(scheme):
    sent = message(scheme=scheme)
    for at in range(sent.size):
        damaged = sent.copy()
        damaged[at] ^= 1 << at % 8
        with pytest.raises(CommError, match="rank 2's message"):
            pack.unpack_message(damaged, scheme=scheme, **OPEN)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (message()[:20], "too short: 20 bytes"),
        (message()[:-3], "has 230 bytes where its header promises 233 .1003 trits"),
        (np.append(message(), np.uint8(0)), "has 234 bytes where its header promises 233"),
        (message(step=6), "is of step 6, but this rank is at step 7"),
        (message(ranks=3), "is for 3 ranks, but there are 4"),
        (message(scheme="2bit"), "is in scheme 2bit, but base3 was expected"),
        (np.zeros(40, np.uint8), "begins with"),
    ],
)
def test_a_wrong_message_is_refused_by_name(sent, says):
    with pytest.raises(CommError, match=f"rank 2's message.*{says}"):
        pack.unpack_message(sent, **OPEN)


def test_digits_that_are_no_trits_are_refused():
    with pytest.raises(CommError, match="byte 243 at 1, which is no trits in scheme base3"):
        pack.check_digits(np.array([242, 243], np.uint8), "base3")
    for bad in (0b11, 0b1100, 0b110000, 0b11000000):
        with pytest.raises(CommError, match=f"byte {bad} at 0"):
            pack.check_digits(np.array([bad], np.uint8), "2bit")
    pack.check_digits(np.array([0b10101010, 0b01010101, 0], np.uint8), "2bit")
    valid = sum(all(b >> 2 * k & 3 != 3 for k in range(4)) for b in range(256))
    assert valid == 81, "68 % of random bytes are refused"


def test_an_unknown_scheme():
    with pytest.raises(InputError, match="'rans' is not one of 2bit, base3"):
        message(scheme="rans")
