"""The compacted network's time beside the dense one's, and lambda steered by it."""

import copy
import itertools

import numpy as np
import pytest

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.layers import Module
from minidl.models import mlp
from minidl.optim import SGD
from minidl.sparsity import GroupLasso, Latency, Steer, compact, cost, groups, silence_, units
from minidl.train import fit

RNG = np.random.default_rng


def task(sizes, count):
    x = RNG(0).standard_normal((512, sizes[0])).astype(np.float32)
    y = (x[:, :8] @ RNG(1).standard_normal((8, sizes[-1]))).argmax(1)
    rows = [RNG(k).integers(0, 512, 64) for k in range(count)]
    return mlp(sizes, rng=RNG(2)), [(x[k], y[k]) for k in rows]


def timed(model):
    """(the model with a forward that takes a second for each weight, a clock that shows it and jumps now and then)."""
    seconds, looks = [0.0], [0]

    class Timed(Module):
        def __init__(self):
            self.inner = model

        def forward(self, x):
            seconds[0] += sum(p.numel() for p in self.parameters())
            assert looks[0] % 2 == 0 or not self.training, "what is timed is inference"
            return self.inner(x)

    def clock():
        looks[0] += 1
        seconds[0] += 1e6 * (looks[0] % 10 == 2)  # a neighbour wakes up: in every 5th run
        return seconds[0]

    return Timed(), clock


def without(model, x, share):
    """The model with so many of its units silenced, in each layer."""
    model = copy.deepcopy(model)
    found = units(model, x)
    for layer in {u.layer for u in found}:
        own = [u for u in found if u.layer == layer]
        silence_(model, own[: int(share * len(own))])
    return model


# -- the measure -------------------------------------------------------------------------------------------------------
def test_it_is_the_compacted_models_time_whatever_else_runs():
    model, clock = timed(mlp((6, 8, 4, 3), rng=RNG(0)))
    x = RNG(1).standard_normal((5, 6)).astype(np.float32)
    latency, weights = Latency(x, clock=clock), (6 * 8 + 8) + (8 * 4 + 4) + (4 * 3 + 3)
    assert latency(model) == 1 and repr(latency) == "latency"
    half = without(model, x, 0.5)
    less = (6 * 4 + 4) + (4 * 2 + 2) + (2 * 3 + 3)
    for _ in range(2):  # the second time, the same zeros
        assert latency(half) == pytest.approx(less / weights) and latency.seconds == pytest.approx((weights, less))
    assert latency(model) == 1 and model.training and half.training
    assert next(iter(half.parameters())).shape == (8, 6), "what is asked for is not cut"


def test_columns_and_a_network_that_becomes_smaller_on_the_way():
    model, clock = timed(mlp((6, 8, 3), rng=RNG(0)))
    x = np.ones((2, 6), np.float32)
    latency = Latency(lambda m: x, clock=clock)
    assert latency(model) == 1
    model.inner = mlp((6, 2, 3), rng=RNG(0))
    assert latency(model) == pytest.approx(23 / 83)
    with pytest.raises(InputError, match="0 rounds"):
        Latency(x, rounds=0)


@pytest.mark.slow
def test_half_of_the_units_gone_is_faster_on_a_real_clock():
    model = mlp((64, 768, 768, 10), rng=RNG(0))
    x = RNG(1).standard_normal((64, 64)).astype(np.float32)
    latency = Latency(x)
    shares = [latency(without(model, x, gone)) for gone in (0, 0.5, 0.95)]
    assert shares[2] < 0.5 * shares[0] and shares[2] < shares[1], f"{shares}: a 4th and a 200th of the work"


# -- steering ----------------------------------------------------------------------------------------------------------
def test_lambda_is_steered_to_a_share_of_the_time():
    inner, batches = task((40, 32, 4), 700)
    model, clock = timed(inner)
    penalty = GroupLasso(groups(model, by="neuron"), lam=1e-4)
    latency = Latency(batches[0][0], clock=clock)
    steer = Steer(penalty, 0.5, latency, every=10, over=400)
    fit(model, batches, SGD(model.parameters(), lr=0.2), callbacks=[penalty, steer])
    _, lams, found = np.array(steer.history).T
    assert found[-30:].mean() == pytest.approx(0.5, abs=0.12) and "latency to 0.5" in repr(steer)
    assert (found[:20] == 1).all() and (np.diff(lams[:20]) > 0).all(), "it pulls harder while it is too slow"


class UntilFast(Callback):
    """Stops at the first look below the target."""

    def __init__(self, steer):
        self.steer = steer

    def after_step(self, run):
        if self.steer.history and self.steer.history[-1][2] <= self.steer.target:
            run.stop("fast enough")


@pytest.mark.slow
def test_lambda_rises_until_the_measured_time_has_fallen_to_the_target():
    model, batches = task((40, 768, 768, 4), 1500)
    x = batches[0][0]
    penalty = GroupLasso(groups(model, by="neuron"), lam=3e-3)
    steer = Steer(penalty, 0.7, "latency", every=20, over=600, x=x)
    losses = fit(model, batches, SGD(model.parameters(), lr=0.05), callbacks=[penalty, steer, UntilFast(steer)])
    _, proof = compact(model, x)
    assert losses.stopped == "fast enough" and proof.after.macs < 0.85 * proof.before.macs
    assert max(lam for _, lam, _ in steer.history) > 2 * 3e-3 and steer.history[0][2] == 1


@pytest.mark.parametrize("measure", ["macs", "latency", lambda m: float(cost(m, np.ones((1, 40), np.float32)).kept)])
def test_what_cannot_be_reached_is_said_at_the_first_step_and_the_model_is_as_it_was(measure):
    model, batches = task((40, 300, 300, 4), 1)
    before = {name: p.data for name, p in model.named_parameters()}
    first = next(iter(before)).rpartition(".")[0]
    penalty = GroupLasso(groups(model, by="neuron", layers=first), lam=0.1)
    wrong = [(1e-3 if isinstance(measure, str) else 1.0, "cannot be reached: .* with all weights of the penalty 0")]
    if callable(measure):  # multiply-adds: 90,000 are out of reach, and there are not 1e9
        wrong.append((1e9, "is met before any group is 0"))
    for target, message in wrong:
        steer = Steer(penalty, target, measure, over=100, x=np.ones((1, 40), np.float32))
        if measure == "latency":
            steer.measure.clock = itertools.count().__next__  # every run takes one second
        with pytest.raises(InputError, match=message):
            fit(model, batches, SGD(model.parameters(), lr=0.1), callbacks=[penalty, steer])
    assert all(p.data is before[name] for name, p in model.named_parameters()) and model.training
