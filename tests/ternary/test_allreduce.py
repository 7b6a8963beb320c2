"""Both exchanges on 1 to 9 ranks, for any share of workers: the same bits; wrong messages are refused."""

import numpy as np
import pytest
import ranks_of_exchanges
from ranks_of_exchanges import LENGTHS, S, sums_of, trits
from test_ranks import NO_MPI

from minidl import backend
from minidl.errors import CommError
from minidl.ternary.allreduce import gather_allreduce, gather_in_order, mean_of, share_of, ternary_allreduce
from minidl.ternary.launch import run_ranks
from minidl.ternary.pack import message_bytes
from minidl.ternary.sim_comm import SimComm, run_script

EXCHANGES = [ternary_allreduce, gather_allreduce]
needs_numba = pytest.mark.skipif(not backend._fast_module("allreduce"), reason="Numba or minidl/fast is not there")


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("ranks", range(1, 10))
def test_the_mean_is_that_of_all_workers_at_every_length(ranks, exchange):
    for workers in (ranks, 8, 2 * ranks + 1):

        def main(comm, workers=workers):
            mine, found = share_of(comm.Get_rank(), ranks, workers), []
            for n in LENGTHS:
                found.append(exchange(sums_of(mine, n), S, comm, workers=workers, own=len(mine), step=n))
            return found

        every = SimComm(ranks).run(main)
        for k, n in enumerate(LENGTHS):
            mean = mean_of(sums_of(range(workers), n), S, workers)
            assert all(np.array_equal(found[k], mean) for found in every), (workers, n)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_without_options_every_rank_is_one_worker_and_blocks_keep_their_scales(exchange):
    s = np.array([0.1, 0.2, 0.7], np.float32)
    every = SimComm(3).run(lambda comm: exchange(trits(comm.Get_rank(), 50), s, comm, 20))
    mean = sums_of(range(3), 50).astype(np.float32) * np.repeat(s / np.float32(3), 20)[:50]
    assert all(np.array_equal(found, mean) for found in every)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_sums_grow_from_eight_to_sixteen_bits(exchange):
    for workers in (127, 128):
        every = SimComm(2).run(
            lambda comm, w=workers: exchange(
                np.full(9, len(share_of(comm.Get_rank(), 2, w)), np.int8), S, comm, workers=w,
                own=len(share_of(comm.Get_rank(), 2, w)),
            )
        )  # fmt: skip
        assert np.array_equal(every[0], mean_of(np.full(9, workers, np.int16), S, workers))


def test_a_gathered_message_has_the_published_size():
    def main(comm):
        gather_allreduce(trits(comm.Get_rank(), 1003), S, comm)
        gather_allreduce(trits(comm.Get_rank(), 1003), S, comm, scheme="2bit")
        return comm.ledger.total(call="Allgather")

    assert set(SimComm(3).run(main)) == {message_bytes(1003) + message_bytes(1003, "2bit")}


class Tampered:
    """A communicator whose Allgather delivers rank 1's message changed."""

    def __init__(self, comm, change):
        self.comm, self.change = comm, change

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Allgather(self, sendbuf, recvbuf):
        self.comm.Allgather(sendbuf, recvbuf)
        self.change(recvbuf[1])


def flip(message):
    message[40] ^= 4


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (flip, {}, "rank 1's message is damaged: its checksum is"),
        (None, {"step": 6}, "rank 1's message is of step 6, but this rank is at step 7"),
        (None, {"scheme": "2bit"}, "rank 1's message is in scheme 2bit, but base3 was expected"),
        (None, {"s": S * 2}, "rank 1's message has 60 trits of scale 0.6.*, but this rank has 60 of 0.3"),
        (None, {"n": 58}, "rank 1's message has 58 trits of scale 0.3.*, but this rank has 60 of"),
    ],
)
def test_a_message_that_is_not_what_this_rank_expects_is_refused_by_name(change, options, says):
    def main(comm):
        other = dict(options) if comm.Get_rank() == 1 else {}
        t, s = trits(0, other.pop("n", 60)), other.pop("s", S)
        if other.get("scheme") == "2bit":
            t = t[:48]  # of the same size on the wire as 60 in base 3
        try:
            gather_allreduce(t, s, Tampered(comm, change) if change else comm, **{"step": 7} | other)
        except CommError as error:
            return str(error)

    said = SimComm(2).run(main)
    with pytest.raises(CommError, match=says):
        raise CommError(said[0])


def test_an_uneven_share_is_refused():
    with pytest.raises(
        CommError, match="InputError: this rank has 3 of 2 workers; over 1 ranks an even share is 2 at most"
    ):
        SimComm(1).run(lambda comm: gather_allreduce(trits(0, 5), S, comm, workers=2, own=3))
    with pytest.raises(
        CommError, match="InputError: rank 0 has gradients of 3 workers; its share of 2 on 1 ranks is 2"
    ):
        SimComm(1).run(lambda comm: gather_in_order(np.zeros((3, 2)), comm, 2))


@pytest.mark.parametrize("workers", [1, 2, 8, 9])
def test_float_tensors_are_added_in_worker_order_on_any_number_of_ranks(workers):
    """The same bits from 1 to 9 ranks, also where a rank has no worker; in another order they would differ."""
    rows = (np.random.default_rng(0).standard_normal((workers, 500)) * 10.0 ** np.arange(workers)[:, None]).astype("f4")
    mean = rows[0].copy()
    for row in rows[1:]:
        mean += row
    mean /= np.float32(workers)
    for ranks in range(1, 10):
        every = SimComm(ranks).run(
            lambda comm, n=ranks: gather_in_order(rows[list(share_of(comm.Get_rank(), n, workers))], comm, workers),
        )
        assert all(np.array_equal(found, mean) for found in every), ranks
    if workers > 2:
        assert not np.array_equal(np.add.reduce(rows[::-1]) / np.float32(workers), mean)


def test_shares_cover_all_workers_once():
    for ranks in range(1, 10):
        for workers in (1, 2, 7, 8, 64):
            shares = [share_of(r, ranks, workers) for r in range(ranks)]
            assert [w for share in shares for w in share] == list(range(workers))
            assert max(map(len, shares)) == -(-workers // ranks)


@needs_numba
def test_numpy_and_numba_write_the_same_mean():
    for dtype in (np.int8, np.int16, np.int32):
        for n in (0, 1, 999, 1000):
            sums = np.random.default_rng(n).integers(-99, 100, n).astype(dtype)
            for block in (None, 7, 1000):
                blocks = 1 if block is None else max(1, -(-n // block))
                s = np.random.default_rng(n).random(blocks, np.float32)
                found = []
                lengths = np.diff(np.minimum(np.arange(blocks + 1) * (block or n), n))  # the same, said for each scale
                for form in ("numpy", "numba"):
                    with backend.form(form):
                        found += [mean_of(sums, s, 9, block), mean_of(sums, s, 9, lengths)]
                assert all(mean.dtype == np.float32 and np.array_equal(mean, found[0]) for mean in found)
    assert backend.calls["mean_of", "numba"]


@pytest.mark.mpi
@pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_real_processes_end_with_the_bits_of_simulated_ones(ranks):
    """Both exchanges, the ring in 32 and 16 bits and float tensors in worker order, by way of MPI's own collectives."""
    scene = ranks_of_exchanges.__file__
    real = [result["crc"] for result in run_ranks(ranks, [scene], timeout=60).results]
    assert real == SimComm(ranks).run(ranks_of_exchanges.crc_of_all_means) and len(set(real)) == 1
    assert real == [result["crc"] for result in run_script(scene, [], ranks)]
