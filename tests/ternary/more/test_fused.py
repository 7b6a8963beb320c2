"""Fused: the bits of DataParallel from one exchange a step, and the bytes that are left."""

import numpy as np
import pytest

from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.data_parallel import EXCHANGES, FLOATS, DataParallel
from minidl.ternary.more.fused import Fused
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.sim_comm import SimComm

SHAPES = {"a.weight": (7, 5, 3), "a.bias": (7,), "b.weight": (40, 30), "b.nothing": (0, 3), "c.weight": (10, 11)}


class P:
    def __init__(self, data):
        self.data, self.grad = data, None


def reduced(kind, comm, workers=3, **options):
    params = [(name, P(np.zeros(shape, np.float32))) for name, shape in SHAPES.items()]
    parallel = kind(params, comm, workers=workers, **options)
    for step in range(2):
        for w in parallel.my_workers:
            with parallel.worker(w, step):
                for k, (_, p) in enumerate(params):
                    p.grad = np.random.default_rng([w, step, k]).standard_normal(p.data.shape, np.float32)
        parallel.reduce(step)
    calls = sum(count for (_, _, phase), count in comm.ledger.calls.items() if phase in ("sum", "float"))
    return [p.grad for _, p in params], parallel, calls, comm.ledger.total(step=1)


@pytest.mark.parametrize("mode", EXCHANGES)
@pytest.mark.parametrize(
    "options", [{}, {"scale": "layer"}, {"scale": 64}, {"keep_float": 10}, {"exchange": sum_allreduce}]
)
def test_the_bits_are_those_of_dataparallel(mode, options):
    for ranks in (1, 2, 3):
        plain, fused = (
            SimComm(ranks).run(lambda comm: reduced(kind, comm, mode=mode, **options))  # noqa: B023
            for kind in (DataParallel, Fused)
        )
        for (grads, _, many, _), (same, _, few, _) in zip(plain, fused, strict=True):
            assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(grads, same, strict=True))
            assert few < many and few <= 2 * (1 + ("exchange" in options) + ("keep_float" in options))


@pytest.mark.parametrize("mode", [*EXCHANGES, *FLOATS])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_bytes_counted_are_bytes_predicted(mode, ranks):
    for _, parallel, _, sent in SimComm(ranks).run(lambda comm: reduced(Fused, comm, mode=mode, keep_float=8)):
        assert sent == parallel.expected_bytes()


def test_float_modes_give_the_mean():
    for mode, off in (("float", 1e-6), ("ring32", 1e-6), ("ring16", 5e-3)):
        plain, fused = (SimComm(3).run(lambda c: reduced(kind, c, mode=mode))[0][0] for kind in (DataParallel, Fused))  # noqa: B023
        assert all(np.allclose(a, b, atol=off) for a, b in zip(plain, fused, strict=True))


def test_nothing_in_float_or_nothing_ternary():
    for keep in (None, 10**6):
        grads, parallel, _, _ = reduced(Fused, Counted(OneRank()), keep_float=keep)
        assert [g.shape for g in grads] == list(SHAPES.values())
        assert bool(parallel.floats) == bool(keep)
