"""Optimizer: parameters in groups, each group with its own options, and the state that a method keeps for each.

An optimizer is the only code that changes weights, and it changes them by *replacing* p.data: an array that somebody
else holds (a tape, a checkpoint, SmoothOut) stays what it was. The arrays of its state are replaced in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.errors import InputError, ShapeError


def option(name: str) -> property:
    """An attribute that reads an option of the first group and sets it in all of them."""

    def write(self, value):
        self.groups = [{**group, name: value} for group in self.groups]  # new dicts: a copy of self keeps its own

    return property(lambda self: self.groups[0][name], write)


class Optimizer:
    """Base of all methods: `update(w, g, group, state)` returns the new array of one parameter.

    params: Parameters, (name, Parameter) pairs, or dicts {"params": ..., option: value} that differ in options.
    `lr` reads the rate of the first group and sets that of all; a group's own options are `groups[k][option]`.
    state: one dict of arrays per parameter, in the order of `params`. steps: how many were done.
    """

    lr = option("lr")
    param_groups = property(lambda self: self.groups)  # PyTorch's name

    def __init__(self, params, **options):
        params = list(params)
        if not params:
            raise InputError(f"{type(self).__name__} was given no parameters: has the model any?")
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        self.groups: list[dict[str, Any]] = []
        for group in groups:
            unknown = set(group) - {"params"} - set(options)
            if unknown:
                raise InputError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(options)}")
            members = [p[1] if isinstance(p, tuple) else p for p in group["params"]]
            self.groups.append({**options, **group, "params": members})
            if not (rate := self.groups[-1]["lr"]) >= 0:
                raise InputError(f"{type(self).__name__}: the learning rate is {rate}; give at least 0")
            self.check(self.groups[-1])
        if len({id(p) for p in self.params}) < len(self.params):
            raise InputError("a parameter is given twice: it would be stepped twice")
        self.state: list[dict[str, Any]] = [{} for _ in self.params]
        self.steps = 0

    def check(self, group) -> None:
        """Refuse options of a group that make no sense."""

    @property
    def params(self) -> list:
        """The Parameters of all groups, one after the other; setting it puts others in their places."""
        return [p for group in self.groups for p in group["params"]]

    @params.setter
    def params(self, params) -> None:
        params = list(params)
        if len(params) != len(self.params):
            raise InputError(f"{len(params)} parameters cannot take the places of {len(self.params)}")
        fresh = iter(params)
        self.groups = [{**group, "params": [next(fresh) for _ in group["params"]]} for group in self.groups]

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        k = 0
        for group in self.groups:
            plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in group.items()}  # keeps dtypes
            for p in group["params"]:
                if p.grad is not None:
                    p.data = np.asarray(self.update(p.data, np.asarray(p.grad), plain, self.state[k]))
                k += 1
        self.steps += 1

    def update(self, w, g, group, state):
        """The array that takes w's place, from the gradient g; writes what it keeps into the dict `state`."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on: options of the groups, arrays of every parameter, steps done."""
        options = [{k: v for k, v in g.items() if k != "params"} for g in self.groups]
        return {"groups": options, "state": [dict(s) for s in self.state], "steps": self.steps}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what state_dict() gave; what does not fit raises and changes nothing."""
        if missing := {"groups", "state", "steps"} - saved.keys():
            raise InputError(f"no state of an optimizer: it has no {', '.join(sorted(missing))}; take state_dict()'s")
        here = [len(group["params"]) for group in self.groups]
        if len(saved["state"]) != sum(here) or len(saved["groups"]) != len(here):
            raise InputError(
                f"the saved state holds {len(saved['state'])} parameters in {len(saved['groups'])} groups, "
                f"this optimizer {sum(here)} in {len(here)}"
            )
        for k, (p, arrays) in enumerate(zip(self.params, saved["state"], strict=True)):
            for name, array in arrays.items():
                if np.ndim(array) and np.shape(array) != p.shape:
                    raise ShapeError(f"saved {name!r} of parameter {k} has shape {np.shape(array)}, it has {p.shape}")
        for own, theirs in zip(self.groups, saved["groups"], strict=True):
            if theirs.keys() != own.keys() - {"params"}:
                raise InputError(
                    f"the saved state has the options {sorted(theirs)}, {type(self).__name__} has "
                    f"{sorted(own.keys() - {'params'})}"
                )
        self.groups = [{**own, **new} for own, new in zip(self.groups, saved["groups"], strict=True)]
        self.state, self.steps = [dict(s) for s in saved["state"]], int(saved["steps"])
