"""Every network for images loses units at random, and nothing else changes.

10 to 90 % of the units of every layer are read by nobody; biases, BatchNorm's statistics and betas are not 0. The
weights that are left are scaled up to the size of the row they stand in, so that the output still varies with the input
and equality means something: its variance over the batch is at least a tenth of the original's.
"""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl.models import alexnet, convnet, googlenet, resnet, vgg
from minidl.sparsity import compact, silence_, units

MODELS = {
    "convnet": (lambda r: convnet(size=16, rng=r), 16, 3),
    "alexnet": (lambda r: alexnet(size=67, classes=10, width=1 / 8, rng=r), 67, 5),  # LRN pins conv1 and conv2
    "alexnet without groups": (lambda r: alexnet(size=67, width=1 / 8, groups=1, lrn=False, rng=r), 67, 7),
    "vgg_a": (lambda r: vgg("A", size=32, classes=10, width=1 / 8, rng=r), 32, 10),
    "vgg_16": (lambda r: vgg("16", size=32, classes=10, width=1 / 8, rng=r), 32, 15),
    "googlenet": (lambda r: googlenet(classes=10, width=1 / 8, rng=r), 48, 55),  # LRN pins conv1 and conv2's 3x3
    "resnet20 A": (lambda r: resnet(20, rng=r), 8, 12),
    "resnet20 B": (lambda r: resnet(20, shortcut="B", rng=r), 8, 12),
    "resnet32 A": (lambda r: resnet(32, rng=r), 8, 18),
}


def alive(model, rng):
    """He's weights, and nothing that is 0 or 1 by default: biases, betas, gammas, running means and variances."""
    for p in model.parameters():
        draw = rng.standard_normal(p.shape)
        p.data = (draw * (2 / p.data[0].size) ** 0.5 if p.ndim > 1 else p.data + 0.1 * draw).astype(np.float32)
    for m in model.modules():
        for name in m.buffers:
            array = getattr(m, name)
            setattr(m, name, (array + 0.5 * rng.random(array.shape)).astype(array.dtype))
    return model.eval()


def variance(model, x):
    with no_grad():
        return float(model(Tensor(x)).data.var(0).mean())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loses_units_at_random_and_nothing_else_changes(name):
    build, size, layers = MODELS[name]
    rng = np.random.default_rng(2)
    model = alive(build(rng), rng)
    x = rng.standard_normal((6, 3, size, size)).astype(np.float32)
    before, by_layer, chosen = variance(model, x), {}, []
    for unit in units(model, x):
        by_layer.setdefault(unit.layer, []).append(unit)
    assert len(by_layer) == layers
    for own in by_layer.values():
        count = np.clip(round(rng.uniform(0.1, 0.9) * len(own)), 1, len(own) - 1)
        chosen += [own[k] for k in rng.permutation(len(own))[:count]]
    silence_(model, chosen)
    for p in model.parameters():
        if p.ndim > 1:
            rows = p.data.reshape(len(p.data), -1)
            left = np.maximum(1, np.count_nonzero(rows, axis=1, keepdims=True))
            p.data = (rows * np.sqrt(rows.shape[1] / left)).astype(np.float32).reshape(p.shape)
    after = variance(model, x)
    small, certificate = compact(model, x)
    assert after >= 0.1 * before
    assert sum(count for *_, count in certificate.removed) >= len(chosen)
    with no_grad():
        y, less = (m.astype(np.float64)(Tensor(x.astype(np.float64))).data for m in (model, small))
    assert np.abs(y - less).max() <= 1e-12 * max(1, np.abs(y).max())
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in model.parameters())
