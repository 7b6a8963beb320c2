"""The training loop, small enough to be read, and the two numbers one asks of a classifier afterwards.

    for x, y in batches:  forward, loss, backward, [hooks on gradients], step, [hooks on weights]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from minidl.errors import MinidlError
from minidl.layers import cross_entropy
from minidl.tensor import Tensor, no_grad


def fit(
    model,
    batches: Iterable,
    optimizer,
    *,
    loss: Callable = cross_entropy,
    schedule: Callable[[int], float] | None = None,
    after_backward: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
    progress=None,
) -> list[float]:
    """Train on every (x, y) of `batches`, one step each; returns the loss of each step.

    loss(model(x), y) -> scalar Tensor. schedule: step -> learning rate. after_backward(step) may change p.grad (clip,
    ternarise, average over workers); after_step(step) may change p.data (a proximal step). progress.update(1) is
    called after each step. A loss that is not finite raises MinidlError.
    """
    model.train()
    history: list[float] = []
    for step, (x, y) in enumerate(batches):
        if schedule is not None:
            optimizer.lr = schedule(step)
        value = loss(model(Tensor(x) if x.dtype.kind == "f" else x), y)
        if not np.isfinite(value.item()):
            raise MinidlError(f"the loss is {value.item()} at step {step} (learning rate {optimizer.lr:g}): lower it")
        optimizer.zero_grad()
        value.backward()
        if after_backward is not None:
            after_backward(step)
        optimizer.step()
        if after_step is not None:
            after_step(step)
        history.append(value.item())
        if progress is not None:
            progress.update(1)
    return history


def predict(model, x: np.ndarray, batch: int = 500) -> np.ndarray:
    """The model's outputs in evaluation mode, batch by batch. x: (N, ...) -> (N, ...)."""
    was, parts = model.training, []
    model.eval()
    with no_grad():
        for i in range(0, len(x), batch):
            parts.append(model(Tensor(x[i : i + batch])).data)
    model.train(was)
    return np.concatenate(parts)


def accuracy(model, x: np.ndarray, labels: np.ndarray, batch: int = 500) -> float:
    """The fraction of rows whose largest output is at the label."""
    return float(np.mean(predict(model, x, batch).argmax(1) == labels))
