"""Overlap: the bits and the bytes of reduce, sent while backward runs; and what is told when it cannot be."""

import threading
import time

import numpy as np
import pytest

from minidl import backend
from minidl.errors import CommError, InputError
from minidl.layers import BatchNorm1d, Dropout, Linear, ReLU, Sequential, cross_entropy
from minidl.optim import Adam
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.more.overlap import Overlap
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.workers import shard


def network():
    rng = np.random.default_rng(0)
    return Sequential(
        Linear(12, 30, rng=rng), BatchNorm1d(30), ReLU(), Dropout(0.3, rng=rng), Linear(30, 20, rng=rng), ReLU(),
        Linear(20, 4, rng=rng),
    )  # fmt: skip


def backward(model, step, w, workers):
    x = np.random.default_rng([5, step]).standard_normal((24, 12)).astype(np.float32)
    y = (x @ np.random.default_rng(9).standard_normal((12, 4))).argmax(1)
    cross_entropy(model(Tensor(shard(x, w, workers))), shard(y, w, workers)).backward()


def train(comm, bucket_bytes=None, steps=4, workers=4, **options):
    """Checksum of the weights and bytes of each step, with buckets of this size, or without any."""
    model = network()
    optimizer = Adam(model.named_parameters(), 0.01)
    parallel = DataParallel(model.named_parameters(), comm, workers=workers, model=model, **options)
    overlap = None if bucket_bytes is None else Overlap(parallel, bucket_bytes)
    for step in range(steps):
        for w in parallel.my_workers:
            with (overlap or parallel).worker(w, step):
                backward(model, step, w, workers)
        (overlap or parallel).reduce(step)
        optimizer.step()
    if overlap:
        overlap.close()
    return parallel.check_weights(), [comm.ledger.total(step=step) for step in range(steps)]


@pytest.mark.parametrize("mode", ["ternary", "gather", "ring32"])
@pytest.mark.parametrize("options", [{}, {"scale": "layer"}, {"keep_float": "last layer", "scale": 50}])
def test_the_bits_and_the_bytes_are_those_of_reduce(mode, options):
    for ranks in (1, 2, 3):
        plain = SimComm(ranks).run(lambda comm: train(comm, mode=mode, **options))
        for bucket_bytes in (0, 1500, 1 << 20):
            found = SimComm(ranks).run(lambda comm: train(comm, bucket_bytes, mode=mode, **options))  # noqa: B023
            assert [crc for crc, _ in found] == [crc for crc, _ in plain], (ranks, bucket_bytes)
            assert [sent[1:] for _, sent in found] == [sent[1:] for _, sent in plain]


def test_a_thread_does_it_and_its_context_is_the_callers():
    seen = []

    def mine(sums, s, comm, block=None, **counts):
        seen.append((threading.current_thread().name, backend.current_form()))
        return sums.astype(np.float32)

    before = threading.active_count()
    with backend.form("numpy"):
        train(Counted(OneRank()), 0, steps=1, exchange=mine)
    assert set(seen) == {("exchange", "numpy")} and threading.active_count() == before
    assert train(Counted(OneRank()), 0) == train(Counted(OneRank()))


def test_the_last_layer_leaves_while_backward_still_runs():
    """An exchange that waits for the first layer's backward would never come back if it were not on its way already."""
    model, order, left = network(), [], threading.Event()

    def mine(sums, s, comm, block=None, **counts):
        order.append("exchange")
        left.set()
        return sums.astype(np.float32)

    parallel = DataParallel(model.named_parameters(), Counted(OneRank()), model=model, exchange=mine)
    with Overlap(parallel, 0) as overlap:
        first = model[0].weight
        first.register_hook(lambda g: order.append("first layer" if left.wait(20) else "waited in vain"))
        with overlap.worker(0, 0):
            backward(model, 0, 0, 1)
        overlap.reduce(0)
    assert order[0] == "exchange" and "first layer" in order and order[-1] == "exchange"


def test_what_an_exchange_raises_comes_out_of_reduce():
    def broken(*args, **counts):
        time.sleep(0.01)
        raise CommError("rank 1's message is damaged")

    with pytest.raises(CommError, match="rank 1's message is damaged"):
        train(Counted(OneRank()), 0, exchange=broken)


def test_backward_in_the_wrong_places_is_told():
    model = network()
    parallel = DataParallel(model.named_parameters(), Counted(OneRank()), workers=2, model=model)
    with Overlap(parallel) as overlap:
        with parallel.worker(0, 0):
            backward(model, 0, 0, 2)
        with parallel.worker(1, 0):
            backward(model, 0, 1, 2)
        with pytest.raises(InputError, match=r"0 of 1 buckets have left in step 0: .* overlap.worker\(w, 0\)"):
            overlap.reduce(0)
        with overlap.worker(1, 0):
            backward(model, 0, 1, 2)
            with pytest.raises(InputError, match="6.weight got its gradient twice in step 0"):
                backward(model, 0, 1, 2)
    with overlap.worker(0, 0):
        backward(model, 0, 0, 2)  # closed: nobody listens
        backward(model, 0, 0, 2)


def test_plain_arrays_cannot_tell():
    class P:
        data = grad = np.zeros(3)

    with pytest.raises(InputError, match="a is a P: only a Tensor tells when its gradient is there"):
        Overlap(DataParallel([("a", P())], Counted(OneRank())))
