"""A compacted model from a file: build the large one, and let it take the shapes of what was saved.

    checkpoint.save("small.npz", model=small)
    model = load_compacted(resnet(20, rng=rng), "small.npz")        in another process

What left is read off the names: a layer of which only its bias is there became a `Constant`, one of which nothing is
there became `Nothing`, and a convolution with `kept` reads those positions alone. All else is a smaller array.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from minidl import checkpoint
from minidl.errors import InputError, ShapeError
from minidl.sparsity.branches import Constant, Nothing, named_modules, replace
from minidl.sparsity.units import buffers_of


def load_compacted(model, source):
    """Load what `compact` made of such a model into a newly built one, which is changed and returned.

    source: the path of a file that checkpoint.save wrote, or a state_dict (of load_safetensors, for instance). Make the
    optimizer after it; checkpoint.load then loads both as usual. Raises InputError or ShapeError, and changes nothing,
    if the state cannot come from this model.
    """
    if isinstance(source, Mapping):
        _take(copy.deepcopy(model), source)  # what does not fit shows here
        _take(model, source)
    else:
        model.load_state_dict = lambda state: load_compacted(model, state)  # a checkpoint asks the model itself
        try:
            checkpoint.load(source, model=model)
        finally:
            del model.load_state_dict
    return model


def _take(model, state: Mapping[str, np.ndarray]) -> None:
    missing, constant = [], False
    for name, module in [*named_modules(model)]:
        own = {k for k in module.state_dict() if "." not in k}
        stored = {k: state[f"{name}.{k}"] for k in (*own, "kept") if f"{name}.{k}" in state}
        if own and not stored:
            missing.append(name)
            replace(model, name, Nothing())
        elif stored.keys() == {"bias"} != own:
            constant = True
            replace(model, name, Constant(stored["bias"]))
        elif "kept" in stored and "kept" not in own:
            module.keep(stored["kept"])
    if missing and not constant:
        raise InputError(f"the state holds nothing for {', '.join(missing)}, and no constant that took its place")
    buffers = buffers_of(model)
    for name, array in model.state_dict().items():
        new = state.get(name, array)
        if array.ndim != new.ndim or any(b > a for a, b in zip(array.shape, new.shape, strict=True)):
            raise ShapeError(f"{name} has shape {new.shape} in the state and {array.shape} here: it is no part of it")
        if name in buffers:
            module, attribute = buffers[name]
            setattr(module, attribute, np.zeros(new.shape, array.dtype))
    for name, p in model.named_parameters():
        p.data = np.zeros(state[name].shape if name in state else p.shape, p.dtype)
    type(model).load_state_dict(model, state)
