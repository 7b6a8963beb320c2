"""What the tests of this room share: models in which nothing is zero by luck, and their outputs in float64."""

import copy

import numpy as np

from minidl import Tensor, no_grad


def lively(model, rng, spread=0.3):
    """Random biases, BatchNorm numbers and statistics, in `model` itself."""
    for p in model.parameters():
        if p.ndim == 1:
            p.data = p.data + rng.standard_normal(p.shape).astype(p.dtype) * np.float32(spread)
    for m in model.modules():
        if "running_mean" in m.buffers:
            m.running_mean = rng.standard_normal(len(m.running_mean)).astype(np.float32) * np.float32(spread)
            m.running_var = rng.uniform(0.5, 1.5, len(m.running_var)).astype(np.float32)
    return model


def output(model, x, dtype=np.float64):
    """The first output in evaluation mode. x: an array, or (ids, states)."""
    model = copy.deepcopy(model).astype(dtype).eval()
    with no_grad():
        if isinstance(x, tuple):
            states = [tuple(Tensor(t.data.astype(dtype)) for t in state) for state in x[1]]
            return model(x[0], states)[0].data
        return model(Tensor(x.astype(dtype))).data


def snapshot(model):
    return {name: a.copy() for name, a in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return after.keys() == before.keys() and all(np.array_equal(after[k], before[k]) for k in before)


def set_zero(parameter, index=...):
    parameter.data = parameter.data.copy()
    parameter.data[index] = 0


def removed(certificate):
    """{(layer, the first word of the reason): number of units}."""
    return {(layer, reason.split(":")[0]): count for layer, reason, count in certificate.removed}
