"""The choice before training: the fastest step, in floats where trits are not worth it, and a sentence on why."""

import numpy as np
import pytest

from minidl.errors import InputError
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.more.auto import FLOATS, OPTIONS, choose
from minidl.ternary.more.cost_model import Machine, seconds
from minidl.ternary.more.fused import Fused
from minidl.ternary.sim_comm import SimComm

SLOW, MEMORY = Machine.link(100e6), Machine(2e-6, 1 / 40e9)
SIZES = [500, 20, 25_000, 50, 400_000, 500, 5_000, 10]


def test_what_wins_where():
    assert choose(SIZES, 2, SLOW, 0.05).scheme == "gather"
    assert choose(SIZES, 4, SLOW, 0.05).scheme == "sums"
    assert choose(SIZES, 64, SLOW, 0.05).scheme == "four bits"
    assert choose(SIZES, 64, SLOW, 0.05, exact=True).scheme == "sums"
    assert choose(SIZES, 2, MEMORY, 0.05).scheme in FLOATS


def test_it_says_when_it_is_not_worth_it():
    choice = choose(SIZES, 2, MEMORY, 0.05)
    assert choice.sentence.startswith("not worth it here: 2 ranks, ") and choice.gain < 1.05
    assert choose(SIZES, 4, SLOW, 100.0).sentence.startswith("not worth it here"), "a step that computes for long"
    assert choose(SIZES, 1, SLOW, 0.05).sentence.startswith("not worth it here"), "nobody to exchange with"
    choice = choose(SIZES, 4, SLOW, 0.05)
    assert choice.sentence.startswith('4 ranks, 95 Mbit/s: "sums" takes 0.0')
    assert f"a step is {choice.gain:.2f} times as fast" in choice.sentence and choice.gain > 2


def test_the_numbers_are_the_cost_models():
    choice = choose(SIZES, 4, SLOW, 0.05)
    floats = min(seconds(scheme, 4, sum(SIZES), SLOW) for scheme in FLOATS)
    assert choice.seconds == pytest.approx(seconds("sums", 4, sum(SIZES), SLOW) + 6 * SLOW.alpha, rel=0.01)
    assert choice.gain == pytest.approx((0.05 + floats) / (0.05 + choice.seconds))
    assert choose(SIZES, 4, SLOW, 0.05, fused=False).seconds > choice.seconds, "eight exchanges begin more slowly"
    with pytest.raises(InputError, match="-1 seconds of computing"):
        choose(SIZES, 4, SLOW, -1)


@pytest.mark.parametrize("scheme", OPTIONS)
@pytest.mark.parametrize("kind", [DataParallel, Fused])
def test_its_options_are_dataparallels(scheme, kind):
    class P:
        data, grad = np.zeros(100, np.float32), np.ones(100, np.float32)

    def main(comm):
        p = P()
        kind([("w", p)], comm, **OPTIONS[scheme]).reduce(0)
        return p.grad.max()

    assert SimComm(2).run(main) == [1.0, 1.0]
