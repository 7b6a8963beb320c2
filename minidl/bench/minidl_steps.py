"""The steps written for minidl; the peers take their networks' weights and their batches from here."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from minidl import Tensor
from minidl.bench.cases import MLPS, MOMENTUM, RATE, ROWS, TIME_STEPS, UNITS, VOCABULARY, Step
from minidl.layers import Module, cross_entropy
from minidl.models import LSTMLanguageModel, lenet_caffe, mlp, resnet
from minidl.models.lstm_lm import detach
from minidl.optim import SGD
from minidl.tensor import no_grad


def work(name: str) -> tuple[Any, Any, Any]:
    """The network of a case, a batch x, and its labels y: (Module, array, array)."""
    rng = np.random.default_rng(0)
    model: Module
    shape: tuple[int, ...]
    if name.startswith("lstm"):
        model = LSTMLanguageModel(VOCABULARY, UNITS, (UNITS, UNITS), rng=rng)
        x, y = rng.integers(0, VOCABULARY, (2, TIME_STEPS, ROWS))
        return model, x, y.ravel()
    if name in MLPS:
        sizes, batch = MLPS[name]
        model, shape = mlp(sizes, rng=rng), (batch, sizes[0])
    elif name.startswith("lenet"):
        model, shape = lenet_caffe(rng), (64, 1, 28, 28)
    else:
        model, shape = resnet(20, rng=rng), (128, 3, 32, 32)
    return model, rng.standard_normal(shape, np.float32), rng.integers(0, 2, shape[0])  # labels that every case has


def weights(model: Module) -> list[np.ndarray]:
    return [p.data.copy() for p in model.parameters()]


def _training(name: str) -> Step:
    model, x, y = work(name)
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step():
        loss = cross_entropy(model(Tensor(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _language_model() -> Step:
    model, x, y = work("lstm-lm")
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    states = model.zero_states(ROWS)

    def step():
        nonlocal states
        logits, after = model(x, states)
        loss = cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states = detach(after)
        return loss.item()

    return step


def _lenet_inference() -> Step:
    model, x, _ = work("lenet-infer")
    model.eval()

    def step():
        with no_grad():
            return model(Tensor(x)).data

    return step


def _lstm_inference() -> Step:
    model, x, _ = work("lstm-infer")
    model.eval()
    states = model.zero_states(ROWS)

    def step():
        nonlocal states
        with no_grad():
            logits, states = model(x, states)
        return logits.data

    return step


STEPS = {
    **{name: partial(_training, name) for name in ("mlp-tiny", "mlp", "lenet", "resnet20")},
    "lstm-lm": _language_model,
    "lenet-infer": _lenet_inference,
    "lstm-infer": _lstm_inference,
}
