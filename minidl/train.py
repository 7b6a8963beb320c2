"""The training loop, small enough to be read, and the two numbers one asks of a classifier afterwards.

    for x, y in batches:  forward, loss, backward, [hooks on gradients], step, [hooks on weights]

`fit(..., explain=True)` prints the loop that it stands for, with the options that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from contextlib import ExitStack

import numpy as np

from minidl.callbacks import Callback, History, Run, last_good, stops_on_ctrl_c
from minidl.checkpoint import generators
from minidl.errors import InputError, MinidlError
from minidl.layers import cross_entropy
from minidl.not_finite import finite, first_not_finite
from minidl.progress import Progress
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
    epochs: int = 1,
    start: int = 0,
    validate: Callable[..., float] | tuple[np.ndarray, np.ndarray] | None = None,
    callbacks: Iterable[Callback] = (),
    progress=None,
    explain: bool = False,
) -> History:
    """Train on every (x, y) of `batches`, one step each, `epochs` times; returns the History: the loss of each step.

    loss(model(x), y) -> scalar Tensor. schedule: step -> learning rate. after_backward(step) may change p.grad (clip,
    ternarise, average over workers); after_step(step) may change p.data (a proximal step). start: the number of the
    first step, of a run that goes on. validate(model) -> a number, or (x, y) for the accuracy, after each epoch.
    callbacks: see callbacks.py. progress: True for a bar, or an object whose update(1) is called after each step.
    explain: print the loop this call stands for. Ctrl-C ends after the present step, as if that had been the last.
    A loss or a gradient that is not finite raises MinidlError, which names the layer and the last good checkpoint (of a
    SaveEvery among the callbacks); that step changes no weight.
    """
    callbacks = list(callbacks)
    if explain:
        print(_in_plain_words(loss, schedule, after_backward, after_step, epochs, start, validate, callbacks))
    run, draws = Run(model, optimizer, start), list(generators(model).values())
    with ExitStack() as stack:
        if progress is True:
            count = epochs * len(batches) if isinstance(batches, Sized) else 0
            progress = stack.enter_context(Progress(count, "training"))
        stack.enter_context(stops_on_ctrl_c(run))
        model.train()
        for callback in callbacks:
            callback.on_start(run)
        for run.epoch in range(epochs):
            first = run.step
            for x, y in batches:
                if schedule is not None:
                    optimizer.lr = schedule(run.step)
                states = [rng.bit_generator.state for rng in draws]  # so that a bad step can be repeated
                value = loss(model(Tensor(x) if x.dtype.kind == "f" else x), y)
                if not np.isfinite(value.item()):
                    _give_up(run, f"the loss is {value.item()}", (x, y, loss), draws, states, callbacks)
                optimizer.zero_grad()
                value.backward()
                if not all(finite(p.grad) for p in optimizer.params if p.grad is not None):
                    _give_up(run, "a gradient is not finite", (x, y, loss), draws, states, callbacks)
                if after_backward is not None:
                    after_backward(run.step)
                for callback in callbacks:
                    callback.after_backward(run)
                optimizer.step()
                if after_step is not None:
                    after_step(run.step)
                run.history.append(value.item())
                for callback in callbacks:
                    callback.after_step(run)
                run.step += 1
                if progress is not None:
                    progress.update(1)
                if run.history.stopped:
                    break
            if run.step == first and epochs > 1:
                raise InputError(f"epoch {run.epoch} has no batches: for several epochs give a DataLoader or a list")
            if not run.history.stopped:
                _after_epoch(run, validate, callbacks)
            if run.history.stopped:
                break
        for callback in callbacks:
            callback.on_end(run)
    return run.history


def _after_epoch(run: Run, validate, callbacks) -> None:
    if validate is not None:
        value = accuracy(run.model, *validate) if isinstance(validate, tuple) else validate(run.model)
        run.history.validation.append(value)
        run.model.train()
    for callback in callbacks:
        callback.after_epoch(run)


def _give_up(run: Run, what: str, batch, draws, states, callbacks) -> None:
    for rng, state in zip(draws, states, strict=True):
        rng.bit_generator.state = state
    where = first_not_finite(run.model, *batch)
    raise MinidlError(
        f"{what} at step {run.step} (learning rate {run.optimizer.lr:g}): {where}; {last_good(callbacks)}; lower the "
        "rate?"
    )


def _in_plain_words(loss, schedule, after_backward, after_step, epochs, start, validate, callbacks) -> str:
    """The loop that this call of fit stands for, as Python; callbacks by name, as comments."""

    def called(event, indent):  # only those that do something then
        names = [type(c).__name__ for c in callbacks if getattr(type(c), event, None) is not getattr(Callback, event)]
        return f"{indent}# {', '.join(names)}: {event}(run)" if names else ""

    name = getattr(loss, "__name__", "loss")
    lines = [
        "model.train()",
        called("on_start", ""),
        f"step = {start}",
        f"for epoch in range({epochs}):",
        "    for x, y in batches:",
        "        optimizer.lr = schedule(step)" * (schedule is not None),
        f"        value = {name if name.isidentifier() else 'loss'}(model(Tensor(x)), y)",
        "        optimizer.zero_grad()",
        "        value.backward()",
        "        after_backward(step)" * (after_backward is not None),
        called("after_backward", 8 * " "),
        "        optimizer.step()",
        "        after_step(step)" * (after_step is not None),
        called("after_step", 8 * " "),
        "        step += 1",
        "    print(accuracy(model, *validate))" * isinstance(validate, tuple),
        "    print(validate(model))" * callable(validate),
        called("after_epoch", 4 * " "),
        called("on_end", ""),
    ]
    return "\n".join(filter(None, lines))


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
