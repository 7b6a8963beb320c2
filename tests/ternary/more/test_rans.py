"""rANS: every message comes back, hardly longer than its entropy, the same in both forms; damage is told."""

import numpy as np
import pytest

from minidl import backend
from minidl.errors import CommError, InputError
from minidl.ternary.more import rans
from minidl.ternary.pack import sum_dtype

SHARES = [0, 0.005, 0.05, 0.16, 0.32, 0.5, 1]


def trits(p, size, seed=0):
    u = np.random.default_rng(seed).random(size)
    return (np.where(u < p / 2, -1, 0) + (u > 1 - p / 2)).astype(np.int8)


def entropy(symbols):
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("p", SHARES)
def test_trits_come_back_and_take_one_percent_more_than_their_entropy(p):
    t = trits(p, 10**6)
    code = rans.pack_trits(t)
    assert np.array_equal(rans.unpack_trits(code, t.size), t)
    assert rans.entropy_bits(p) == pytest.approx(entropy(t), abs=3e-3)
    if p:
        least = entropy(t) * t.size / 8
        assert least * 0.998 <= code.size <= least * 1.01 + 600, "of the trits that are there; a table, and lanes"
    else:
        assert code.size < 50


@pytest.mark.parametrize("workers", [2, 4, 8, 64, 127, 128, 1000])
def test_sums_come_back_in_hardly_more_than_their_entropy(workers):
    size = 10**6 if workers in (4, 1000) else 30_000
    sums = sum(trits(0.32, size, w).astype(int) for w in range(min(workers, 8))) * (1 + (workers > 127))
    sums = sums.astype(sum_dtype(workers))
    code = rans.pack_sums(sums, workers)
    found = rans.unpack_sums(code, size, workers)
    assert np.array_equal(found, sums) and found.dtype == sums.dtype
    if size == 10**6:
        assert 8 * code.size / size <= entropy(sums) * 1.01


@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 6, 15, 16, 17, 79, 80, 81, 1000])
def test_every_length_and_every_symbol(size):
    for values in (np.zeros(size, np.uint8), np.full(size, 255, np.uint8), np.arange(size).astype(np.uint8)):
        assert np.array_equal(rans.decode(rans.encode(values), size), values)
    for workers in (1, 3, 127, 128, 30_000):
        sums = np.random.default_rng(size).integers(-workers, workers + 1, size).astype(sum_dtype(workers))
        assert np.array_equal(rans.unpack_sums(rans.pack_sums(sums, workers), size, workers), sums)


def test_numpy_and_numba_write_the_same_bytes():
    pytest.importorskip("minidl.fast.rans", reason="Numba or minidl/fast is not there")
    for size in (0, 1, 5, 999, 60_000):
        for values in (trits(0.05, size).view(np.uint8) % 3, np.random.default_rng(1).integers(0, 256, size, np.uint8)):
            codes = []
            for form in ("numpy", "numba"):
                with backend.form(form):
                    codes.append(rans.encode(values))
                    assert np.array_equal(rans.decode(codes[-1], size), values)
            assert np.array_equal(*codes)
    assert backend.calls["encode_words", "numba"] and backend.calls["decode_words", "numba"]


def test_frequencies_fill_the_table():
    for counts in ([10**9, 1], [1] * 256, [0, 0, 7], [10**6] + [1] * 255, [1, 10**12]):
        counts = np.array(counts + [0] * (256 - len(counts)))
        f = rans.frequencies(counts)
        assert f.sum() == rans.M and ((f > 0) == (counts > 0)).all()


def test_damage_is_told_in_a_sentence():
    values = np.random.default_rng(0).integers(0, 3, 20_000).astype(np.uint8)
    code = rans.encode(values)
    told = 0
    for at in np.random.default_rng(1).integers(0, code.size, 150):
        wrong = code.copy()
        wrong[at] ^= 1 << int(at % 8)
        try:
            assert not np.array_equal(rans.decode(wrong, values.size), values)
        except CommError as error:
            assert "damaged" in str(error) or "bytes, but" in str(error)
            told += 1
    assert told >= 149, "a flipped bit that another makes good is as likely as a wrong checksum that is right"
    for cut in (0, 10, 43, code.size - 4, code.size - 1):
        with pytest.raises(CommError, match="rank 2's message"):
            rans.decode(code[:cut], values.size, sender="rank 2's message")
    with pytest.raises(CommError, match="there are only 2"):
        rans.decode(code, values.size, alphabet=2)
    with pytest.raises(CommError, match="too short: 3 bytes"):
        rans.unpack_sums(np.zeros(3, np.uint8), 5, 200)
    with pytest.raises(InputError, match="rANS takes at most 65536"):
        rans.pack_sums(np.array([-(10**6), 10**6], np.int32), 10**6)


@pytest.mark.slow
@pytest.mark.parametrize("p", SHARES[1:-1])
def test_one_percent_with_the_table(p):
    t = trits(p, 2 * 10**7)
    assert rans.pack_trits(t).size <= 1.01 * entropy(t) * t.size / 8


@pytest.mark.slow
def test_half_a_billion_parameters_a_second():
    """Printed, not asserted: machines differ."""
    import time

    pytest.importorskip("minidl.fast.rans", reason="Numba or minidl/fast is not there")
    for p in SHARES[1:]:
        t = trits(p, 5 * 10**6)
        code = rans.pack_trits(t)
        rans.unpack_trits(code, t.size)
        start = time.perf_counter()
        rans.pack_trits(t)
        middle = time.perf_counter()
        rans.unpack_trits(code, t.size)
        end = time.perf_counter()
        rates = t.size / (middle - start) / 1e9, t.size / (end - middle) / 1e9
        print(f"p = {p}: {rates[0]:.2f} and {rates[1]:.2f} billion a second")
