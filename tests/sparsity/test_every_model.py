"""Every model loses 10, 50 and 90 % of the units of each of its layers, chosen at random, and says the same as before.

A model is a line of MODELS: how to build it, and a batch for it. Biases, BatchNorm's numbers and statistics are random.
"""

import numpy as np
import pytest
from lively import lively, output, snapshot, unchanged

from minidl.models import (
    LSTMLanguageModel,
    alexnet,
    cifarnet,
    convnet,
    f1,
    googlenet,
    lenet_caffe,
    lenet_terngrad,
    mlp,
    resnet,
    vgg,
)
from minidl.sparsity import compact, silence_, units


def images(*shape):
    return lambda rng: rng.random(shape, np.float32)


def he(model, rng):
    """He's weights: with the published ones a narrow, untrained network says nearly the same of every image."""
    for p in model.parameters():
        if p.ndim > 1:
            p.data = (rng.standard_normal(p.shape) * (2 / p.data[0].size) ** 0.5).astype(np.float32)
    return model


MODELS = {
    "lenet_caffe": (lambda rng: lenet_caffe(rng), images(4, 1, 28, 28)),
    "lenet_terngrad": (lambda rng: lenet_terngrad(rng), images(4, 1, 28, 28)),
    "mlp": (lambda rng: mlp(rng=rng), images(6, 784)),
    "f1": (lambda rng: f1(hidden=100, rng=rng), images(6, 784)),
    "resnet20 A": (lambda rng: resnet(20, shortcut="A", rng=rng), images(4, 3, 8, 8)),
    "resnet20 B": (lambda rng: resnet(20, shortcut="B", rng=rng), images(4, 3, 8, 8)),
    "resnet32 A": (lambda rng: resnet(32, rng=rng), images(4, 3, 8, 8)),
    "resnet32 B": (lambda rng: resnet(32, shortcut="B", rng=rng), images(4, 3, 8, 8)),
    "resnet56 A": (lambda rng: resnet(56, rng=rng), images(4, 3, 8, 8)),
    "resnet56 B": (lambda rng: resnet(56, shortcut="B", rng=rng), images(4, 3, 8, 8)),
    "convnet": (lambda rng: he(convnet(size=16, rng=rng), rng), images(4, 3, 16, 16)),
    "cifarnet": (lambda rng: he(cifarnet(size=9, rng=rng), rng), images(4, 3, 9, 9)),
    "alexnet": (
        lambda rng: he(alexnet(size=67, classes=10, width=1 / 8, rng=rng), rng),
        images(4, 3, 67, 67),
    ),  # LRN pins conv1, conv2
    "alexnet, no LRN": (
        lambda rng: he(alexnet(size=67, classes=10, width=1 / 8, groups=1, lrn=False, rng=rng), rng),
        images(4, 3, 67, 67),
    ),
    "vgg_a": (lambda rng: he(vgg("A", size=32, classes=10, width=1 / 4, rng=rng), rng), images(4, 3, 32, 32)),
    "vgg_16": (lambda rng: he(vgg("16", size=32, classes=10, width=1 / 4, rng=rng), rng), images(4, 3, 32, 32)),
    "googlenet": (lambda rng: he(googlenet(classes=10, width=1 / 4, rng=rng), rng), images(4, 3, 48, 48)),
    "lstm_lm": (
        lambda rng: LSTMLanguageModel(30, 12, (14, 16), keep=0.7, init_scale=0.5, rng=rng),
        lambda rng: rng.integers(0, 30, (5, 4)),
    ),
}


def with_state(model, x):
    return (x, model.zero_states(x.shape[1])) if hasattr(model, "zero_states") else x


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", MODELS)
def test_random_units_of_every_layer_leave_exactly(name, part):
    rng = np.random.default_rng(int(part * 10))
    model, batch = (make(rng) for make in MODELS[name])
    lively(model, rng)
    x = with_state(model, batch)
    everything = units(model, x)
    chosen = []
    for layer in dict.fromkeys(u.layer for u in everything):
        own = [u for u in everything if u.layer == layer]
        chosen += [own[k] for k in rng.choice(len(own), min(round(part * len(own)), len(own) - 1), replace=False)]
    original = output(model, x)
    assert original.var(0).sum() > 1e-6 * (original**2).mean(0).sum(), "the model's output hardly varies"
    silence_(model, chosen)
    readers = {m.parameter for u in chosen for m in u.members if m.reads}
    for name_, p in model.named_parameters():  # what is left speaks up, so that the output still depends on the input
        p.data = p.data / np.float32((1 - part) if name_ in readers else 1)
    before = snapshot(model)
    small, certificate = compact(model, x)
    assert unchanged(model, before) and model.training
    assert type(small) is type(model) and small.training
    assert sum(count for _, _, count in certificate.removed) == len(chosen)
    small_x = with_state(small, batch)
    zeroed, compacted = output(model, x), output(small, small_x)
    limit = 1e-12 * max(1, np.abs(zeroed).max())
    assert np.abs(zeroed - compacted).max() <= limit
    assert certificate.difference <= certificate.tolerance == pytest.approx(limit, rel=0.5)
    assert zeroed.var(0).sum() >= original.var(0).sum() / 10, "the test has lost its point: the output hardly varies"
    assert certificate.proof.train is not None and max(certificate.proof.train) <= 1e-10 * max(1, np.abs(zeroed).max())
    assert certificate.proof.gradients <= 1e-10 * max(1, np.abs(zeroed).max())
    assert certificate.macs_after < certificate.macs_before and certificate.weights_after < certificate.weights_before
    assert certificate.weights_after == sum(p.numel() for p in small.parameters())
    rounding = np.abs(output(model, x, np.float32) - zeroed).max()  # 55 layers add up their own
    most = max(2e-5 * max(1, np.abs(zeroed).max()), 2 * rounding)
    np.testing.assert_allclose(output(small, small_x, np.float32), zeroed, rtol=1e-7, atol=most)
