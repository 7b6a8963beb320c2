"""Sums by all-to-all: the bits of every other exchange, the bytes that were promised, and what is refused."""

import numpy as np
import pytest
from of_exchanges import LENGTHS, RANKS, S, Tampered, exchanged, expected

from minidl import backend
from minidl.errors import CommError, InputError
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.more import sums
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.pack import SCHEMES, check_digits, sum_dtype
from minidl.ternary.sim_comm import SimComm

WORKERS = [1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 1000, 30_000]


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("workers", WORKERS)
def test_words_hold_the_sums_in_both_forms(workers):
    digits = sums.digits_per_word(workers)
    assert (2 * workers + 1) ** digits <= 2**64 < (2 * workers + 1) ** (digits + 1)
    rng = np.random.default_rng(workers)
    for size in (0, 1, digits - 1, digits, digits + 1, 5000):
        for values in (rng.integers(-workers, workers + 1, size), np.full(size, workers), np.full(size, -workers)):
            values, codes = values.astype(sum_dtype(workers)), []
            for form in ("numpy", "auto"):  # Numba, where it is
                with backend.form(form):
                    codes.append(sums.pack_radix(values, workers))
                    found = sums.unpack_radix(codes[-1], size, workers)
                assert found.dtype == values.dtype and np.array_equal(found, values), (form, size)
            assert np.array_equal(*codes) and codes[0].size == 8 * -(-size // digits)
            check_digits(codes[0], sums.code_of_sums(workers))


def test_the_digits_are_those_of_the_base():
    values = np.arange(-2, 3, dtype=np.int8)  # one word: (-2 .. 2) + 2 as digits 0 .. 4 in base 5
    assert sums.pack_radix(values, 2).view("<u8").tolist() == [0 + 1 * 5 + 2 * 25 + 3 * 125 + 4 * 625]
    bits = {2: 2.371, 4: 3.2, 8: 4.267, 64: 7.112}
    for workers, wanted in bits.items():
        size = 10**6
        assert 8 * SCHEMES[sums.code_of_sums(workers)].size(size) / size == pytest.approx(wanted, rel=1e-3)


def test_a_word_that_no_digits_give_is_refused():
    name = sums.code_of_sums(4)
    good, bad = 9**20 - 1, 9**20
    check_digits(np.array([good], "<u8").view(np.uint8), name)
    with pytest.raises(CommError, match="which is no trits in scheme radix9"):
        check_digits(np.array([0, bad], "<u8").view(np.uint8), name)
    with pytest.raises(InputError, match="30,001 workers: 'radix' or 'rans', and a message's header has room"):
        sums.code_of_sums(30_001)


# ------------------------------------------------------------------------------------------------ the exchange


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("code", ["radix", "rans"])
def test_the_mean_is_that_of_the_sum_on_any_number_of_ranks(ranks, code):
    for workers in {ranks, 9, 20}:
        every = SimComm(ranks).run(
            lambda c: [exchanged(sum_allreduce, c, workers, size, step=size, code=code) for size in LENGTHS]  # noqa: B023
        )
        for k, size in enumerate(LENGTHS):
            assert all(np.array_equal(found[k], expected(workers, size)) for found in every), (workers, size)


def test_sums_grow_from_eight_to_sixteen_bits_and_blocks_keep_their_scales():
    s = np.array([0.3, 2.0, 0.0], np.float32)
    for workers in (127, 128):
        every = SimComm(3).run(lambda comm: exchanged(sum_allreduce, comm, workers, 50, s, 20))  # noqa: B023
        assert all(np.array_equal(found, expected(workers, 50, s, 20)) for found in every)


def test_parts_begin_where_bytes_do():
    for count in (0, 1, 4, 5, 6, 99, 100, 101, 10**9 + 3):
        for ranks in range(1, 10):
            bounds = sums.bounds_of(count, ranks)
            assert bounds[0][0] == 0 and bounds[-1][1] == count
            assert all(
                a[1] == b[0] and b[0] % 5 == 0 or b[0] == count for a, b in zip(bounds, bounds[1:], strict=False)
            )
            assert max(end - start for start, end in bounds) <= count // ranks + 10


@pytest.mark.parametrize("ranks, table", [(2, 1.96), (4, 3.6), (8, 5.0)])
def test_what_a_rank_receives(ranks, table):
    """Bits a number beside those of an ideal code (log2(2 n + 1) for the sums); 64-bit words cost up to 3 % more."""
    size, sim = 10**5, SimComm(ranks)
    sim.run(lambda comm: exchanged(sum_allreduce, comm, ranks, size))
    most = -(-size // 5) * 5 // ranks + 5
    messages = 32 + -(-most // 5) + 32 + 8 * -(-most // sums.digits_per_word(ranks))
    assert max(sim.received) <= (ranks - 1) * messages
    assert 8 * max(sim.received) / size == pytest.approx(table, rel=0.035)


def test_rans_receives_what_the_entropies_say():
    """Trits of which a third is not 0: 1.22 bits and 2.22 for the sum of four, three quarters of each."""
    size, sim, u = 4 * 10**5, SimComm(4), lambda worker: np.random.default_rng(worker).random(4 * 10**5)
    t = [(np.where(u(w) < 0.1595, -1, 0) + (u(w) > 1 - 0.1595)).astype(np.int8) for w in range(4)]
    every = sim.run(lambda comm: sum_allreduce(t[comm.Get_rank()], S, comm, code="rans"))
    assert np.array_equal(every[3], sum_allreduce(np.sum(t, 0, dtype=np.int8), S, Counted(OneRank()), workers=4, own=4))
    assert 8 * max(sim.received) / size == pytest.approx(0.75 * (1.222 + 2.224), rel=0.03), "tables and lanes: 2 %"


@pytest.mark.parametrize("call", ["Alltoallv", "Allgatherv"])
def test_a_damaged_message_is_refused_by_its_senders_name(call):
    with pytest.raises(CommError, match="rank . raised CommError: rank 1's message is damaged"):
        SimComm(3).run(lambda comm: exchanged(sum_allreduce, Tampered(comm, call), 3, 200))
    with pytest.raises(CommError, match="rank 1's message is of step 4, but this rank is at step 3"):
        SimComm(2).run(lambda comm: exchanged(sum_allreduce, comm, 2, 200, step=3 + comm.Get_rank()))


# ------------------------------------------------------------------------------------------------ in a training


def trained(comm, exchange, workers=4):
    """The weights' checksum after three steps of a small network."""
    from minidl.layers import Linear, cross_entropy
    from minidl.tensor import Tensor
    from minidl.ternary.data_parallel import DataParallel

    model = Linear(12, 4, rng=np.random.default_rng(0))
    parallel = DataParallel(model.named_parameters(), comm, workers=workers, exchange=exchange)
    for step in range(3):
        for w in parallel.my_workers:
            rng = np.random.default_rng([step, w])
            with parallel.worker(w, step):
                cross_entropy(model(Tensor(rng.standard_normal((5, 12), np.float32))), rng.integers(0, 4, 5)).backward()
        parallel.reduce(step)
        for p in model.parameters():
            p.data = p.data - 0.1 * p.grad
    return parallel.check_weights()


def test_a_training_ends_with_the_same_bits_by_every_exact_exchange():
    from minidl.ternary.more.requantise import FourBit
    from minidl.ternary.more.server import server_allreduce

    found = [SimComm(3).run(lambda comm: trained(comm, e))[0] for e in (None, sum_allreduce, server_allreduce)]  # noqa: B023
    assert len(set(found)) == 1 and SimComm(1).run(lambda comm: trained(comm, sum_allreduce)) == found[:1]
    assert SimComm(3).run(lambda comm: trained(comm, FourBit()))[0] != found[0]
