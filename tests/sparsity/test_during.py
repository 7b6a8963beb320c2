"""Compacting while training: fit goes on with the small network, as if the removed units had been held at 0."""

import copy

import numpy as np
import pytest
from lively import lively

from minidl.errors import InputError
from minidl.models import mlp
from minidl.optim import SGD, Adam
from minidl.sparsity import CompactEvery, GroupLasso, groups, silence_, units
from minidl.train import fit


def data(rng):
    return [(rng.random((8, 20), np.float32).astype(np.float64), rng.integers(0, 5, 8)) for _ in range(3)]


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.05, momentum=0.9), lambda p: Adam(p, 1e-3)])
def test_the_losses_are_those_of_the_large_network_with_zeros(make):
    rng = np.random.default_rng(0)
    model = lively(mlp((20, 30, 10, 5), rng=rng), rng).astype(np.float64)
    batches = data(rng)
    silence_(model, units(model, batches[0][0])[::2])
    twin, masks = copy.deepcopy(model), [p.data != 0 for p in model.parameters()]
    optimizer, other = make(model.parameters()), make(twin.parameters())

    def hold(step):
        for p, mask in zip(twin.parameters(), masks, strict=True):
            p.data = p.data * mask

    seen = []
    every = CompactEvery(2, batches[0][0], then=lambda m: seen.append(m))

    def stay_silent(step):  # until they leave; the small network has nothing to hold
        for p, mask in zip(model.parameters(), masks, strict=True):
            p.data = p.data * mask if p.shape == mask.shape else p.data

    ours = fit(model, batches, optimizer, epochs=5, after_step=stay_silent, callbacks=[every])
    theirs = fit(twin, batches, other, epochs=5, after_step=hold)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    assert list(every.certificates) == [1] and seen == [model]
    assert model[0].weight.shape == (15, 20) and model[2].weight.shape == (5, 15) and model.training
    assert list(map(id, optimizer.params)) == list(map(id, model.parameters()))


def test_the_penalty_is_made_anew_for_the_small_network():
    rng = np.random.default_rng(0)
    model, batches = mlp((20, 40, 5), rng=rng), data(rng)
    batches = [(x.astype(np.float32), y) for x, y in batches]
    x, lam = batches[0][0], 0.3
    penalty = [GroupLasso(groups(model, x, by="unit"), lam)]
    optimizer = SGD(model.parameters(), 0.05)
    anew = lambda small: penalty.append(GroupLasso(groups(small, x, by="unit"), lam))
    every = CompactEvery(3, x, then=anew)
    history = fit(
        model, batches, optimizer, epochs=30, after_step=lambda step: penalty[-1].prox_(optimizer), callbacks=[every]
    )
    assert every.certificates and len(penalty) == 1 + len(every.certificates)
    widths = [c.kept["0"].size for c in every.certificates.values()]
    assert widths == sorted(widths, reverse=True) and widths[-1] == model[0].weight.shape[0] < 40
    assert np.isfinite(history).all()
    assert sum(c.weights_before - c.weights_after for c in every.certificates.values()) == 20 * 40 + 40 + 200 + 5 - sum(
        p.numel() for p in model.parameters()
    )


def test_epochs_are_at_least_one():
    with pytest.raises(InputError, match="every 0 epochs"):
        CompactEvery(0, np.zeros((1, 3)))
