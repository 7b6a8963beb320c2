"""DataParallel's modes: what each of them sends, what it makes of the gradients, and what stays in float."""

import numpy as np
import pytest

from minidl.errors import InputError
from minidl.ternary.allreduce import mean_of, ternary_allreduce
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.data_parallel import EXCHANGES, FLOATS, DataParallel
from minidl.ternary.pack import message_bytes
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.ternarise import Ternariser

SHAPES = {
    "a.weight": (7, 5, 3), "a.bias": (7,), "b.weight": (40, 30), "b.nothing": (0, 3), "c.weight": (10, 11),
    "c.bias": (1,),
}  # fmt: skip


class P:
    def __init__(self, data):
        self.data, self.grad = data, None


def gradient(worker, step, shape, dtype=np.float32):
    return np.random.default_rng([worker, step, len(shape)]).standard_normal(shape).astype(dtype)


def reduced(comm, steps=2, workers=None, **options):
    """Gradients made up for every worker; those that came out, and the bytes counted and predicted."""
    params = [(name, P(np.zeros(shape, np.float32))) for name, shape in SHAPES.items()]
    parallel = DataParallel(params, comm, workers=workers, **options)
    for step in range(steps):
        for w in parallel.my_workers:
            with parallel.worker(w, step):
                for _, p in params:
                    p.grad = gradient(w, step, p.data.shape)
        parallel.reduce(step)
    counted = [comm.ledger.total(step=step) - comm.ledger.total(step=step, phase="agree") for step in range(steps)]
    return [p.grad for _, p in params], counted, parallel


@pytest.mark.parametrize("ranks, workers", [(1, None), (2, None), (3, 7), (5, 5), (9, 9)])
@pytest.mark.parametrize("mode", [*EXCHANGES, *FLOATS])
def test_bytes_counted_are_bytes_predicted(mode, ranks, workers):
    for grads, counted, parallel in SimComm(ranks).run(lambda comm: reduced(comm, mode=mode, workers=workers)):
        assert counted == [parallel.expected_bytes()] * 2
        assert [g.shape for g in grads] == list(SHAPES.values()), "empty and one-element tensors too"


def test_float_modes_give_the_mean_and_both_ternary_ones_the_same_bits():
    means = [np.mean([gradient(w, 1, shape) for w in range(7)], axis=0) for shape in SHAPES.values()]
    for mode, off in (("float", 1e-6), ("ring32", 1e-6), ("ring16", 5e-3)):
        for grads, _, _ in SimComm(3).run(lambda comm: reduced(comm, mode=mode, workers=7)):  # noqa: B023
            assert all(np.allclose(g, mean, atol=off) for g, mean in zip(grads, means, strict=True)), mode
    ternary = SimComm(3).run(lambda comm: reduced(comm, workers=7))
    gather = SimComm(3).run(lambda comm: reduced(comm, workers=7, mode="gather"))
    for one, other in zip(ternary, gather, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_what_reduce_does_written_out():
    """One tensor of three workers: the largest scale, each worker's trits clipped at its own, their sum."""
    ternariser, shape = Ternariser(seed=4), (40, 30)
    g = [gradient(w, 1, shape) * (1 + w) for w in range(3)]
    params = [("b", P(np.zeros(shape, np.float32)))]
    parallel = DataParallel(params, Counted(OneRank()), workers=3, seed=4)
    for w in range(3):
        with parallel.worker(w, 1):
            params[0][1].grad = g[w]
    parallel.reduce(1)
    own = [ternariser.scales(x) for x in g]
    s = np.max(own, axis=0)
    assert s > own[0]
    sums = sum(ternariser.trits(g[w], s, own=own[w], step=1, worker=w, tensor=0).astype(int) for w in range(3))
    assert np.array_equal(params[0][1].grad, mean_of(sums, s, 3).reshape(shape))


@pytest.mark.parametrize(
    "keep, kept",
    [
        ("last layer", ["c.weight", "c.bias"]),
        (100, ["a.bias", "b.nothing", "c.bias"]),
        (lambda name, p: "weight" not in name, ["a.bias", "b.nothing", "c.bias"]),
        (None, []),
    ],
)
def test_what_stays_in_float(keep, kept):
    grads, _, parallel = reduced(Counted(OneRank()), keep_float=keep, workers=2)
    assert [parallel.params[k][0] for k in parallel.floats] == kept
    for (name, _), g in zip(parallel.params, grads, strict=True):
        assert (len(np.unique(g)) > 5 or g.size < 5) == (name in kept or g.size < 5), name
        if name in kept:
            mean = (gradient(0, 1, g.shape) + gradient(1, 1, g.shape)) / np.float32(2)
            assert np.array_equal(g, mean)


def test_the_published_rule_is_the_ternarisers():
    grads, _, _ = reduced(Counted(OneRank()), workers=1, steps=2, rule="published")
    ternariser, g = Ternariser(rule="published"), gradient(0, 1, (40, 30))
    assert np.array_equal(np.unique(np.abs(grads[2]))[1:], ternariser.scales(g))
    assert not np.array_equal(grads[0], reduced(Counted(OneRank()), workers=1)[0][0])


def test_an_exchange_of_ones_own():
    calls = []

    def mine(sums, s, comm, block=None, **counts):
        calls.append(counts)
        return ternary_allreduce(sums, s, comm, block, **counts)

    grads, _, parallel = reduced(Counted(OneRank()), workers=4, exchange=mine)
    assert all(np.array_equal(a, b) for a, b in zip(grads, reduced(Counted(OneRank()), workers=4)[0], strict=True))
    assert calls[0] == {"workers": 4, "own": 4, "step": 0} and len(calls) == 2 * len(SHAPES)
    with pytest.raises(InputError, match="is not known here"):
        parallel.expected_bytes()


def test_gather_of_two_ranks_sends_twenty_times_less_than_floats():
    params = [("w", P(np.zeros(1_000_000, np.float32)))]
    ours = DataParallel(params, Counted(OneRank()), "gather").expected_bytes()
    assert ours == 4 + message_bytes(1_000_000) and 19.9 < 4e6 / ours < 20
