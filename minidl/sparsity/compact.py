"""Compact: take the parts that do nothing out of a network, and prove that nothing else changed.

Constant branches leave first (branches.py), then units: what a unit is comes from units.py, which ones do nothing from
removable.py. Their indices are cut from every parameter, buffer, state and velocity; with `columns`, convolutions stop
reading positions (c, k, l) that no filter uses (columns.py). The result is a model of the same classes with smaller
arrays, an ordinary one. It is run against the original in float64 on x (certificate.py); were they more than rounding
apart, nothing would be returned.
"""

from __future__ import annotations

import copy

import numpy as np

from minidl.errors import CompactError, InputError
from minidl.sparsity.branches import Branches
from minidl.sparsity.certificate import Certificate, prove
from minidl.sparsity.columns import drop_columns, used_columns
from minidl.sparsity.cost import cost
from minidl.sparsity.removable import Removable
from minidl.sparsity.units import Network, arguments, buffers_of
from minidl.tensor import Tensor


class NothingToRemove(CompactError):
    """Every unit of the network is needed: there is nothing that could be certified."""


def compact(model, x, optimizer=None, *, columns: bool = False, maps: bool = False):
    """(small, certificate): the model without its parts that do nothing, and the proof; `model` is not changed.

    x: the model's argument, or a tuple of its arguments (state as in `units`). With `optimizer` the answer is
    (small, certificate, small optimizer): a copy that holds the small parameters and the state that belongs to them
    (velocities, Adam's means), so that training goes on. Every layer keeps one unit at least or leaves with its branch.
    columns: also let convolutions read only the positions (c, k, l) that some filter uses. maps: let a branch leave
    whose constant differs from pixel to pixel; the small network then takes images of this size alone. A weight that
    takes over a constant is rounded to its own dtype; the proof is about float64. Raises CompactError if nothing can be
    removed, or if the small network would compute something else.
    """
    whole = net = Network(model, x, np.float64)
    branches = Branches(whole, maps)
    if branches.constants and branches.hold(shorter := branches.leave(copy.deepcopy(whole.model))):
        net = Network(shorter, x, np.float64)
    left = branches.rows() if net is not whole else []
    found = Removable(net)
    cut = _Cut(net, found, columns)
    if not (found.gone.any() or left or cut.columns):
        why = "; ".join(f"{layer}: {count} {reason}" for layer, reason, count in [*branches.refused, *found.stays()])
        raise NothingToRemove(f"nothing can be removed, so there is nothing to certify ({why or 'no unit was found'})")
    proof = prove(whole, cut)
    small = cut.model(branches.leave(copy.deepcopy(model)) if left else copy.deepcopy(model))
    kept = {layer: np.array([], int) for layer in [*net.layer, *(layer for layer, _, _ in left)]}
    for k in np.flatnonzero(~found.gone[:-1]):
        kept[net.layer[k]] = np.append(kept[net.layer[k]], net.index[k])
    certificate = Certificate(
        removed=left + found.removed(), stays=branches.refused + found.stays(), kept=kept, folded=sorted(found.folds),
        merged=sorted(found.merges), columns={name: (int(used.sum()), len(used)) for name, used in cut.columns.items()},
        before=cost(model, x), after=cost(small, cut.arguments(arguments(x))), proof=proof,
    )  # fmt: skip
    return (small, certificate) if optimizer is None else (small, certificate, cut.optimizer(optimizer, model, small))


class _Cut:
    """Cuts what goes out of everything that has a place for it. columns: as from used_columns."""

    def __init__(self, net: Network, found: Removable, columns: bool):
        self.net, self.gone, self.adds = net, found.gone, found.folds | found.merges
        self.carriers = found.carriers
        self.columns: dict[str, np.ndarray] = {}
        self.columns = used_columns(self.small()) if columns else {}

    def array(self, array: np.ndarray, slots) -> np.ndarray:
        """The array without gone units; slots: the units along each axis."""
        for axis, units in enumerate(slots):
            if self.gone[units].any():
                array = array.take(np.flatnonzero(~self.gone[units]), axis)
        return array

    def parameter(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """What is left of an array that belongs to a parameter (its gradient, its velocity), or None.

        A Constant has the name of the bias whose place it takes, and its state.
        """
        slots = self.net.slots.get(name, ())
        shape = [len(units) for units in slots]
        if not slots or array.size != np.prod(shape):
            return None
        array = self.array(array.reshape(shape), slots)
        own = self.columns.get(name.removesuffix(".weight"))
        return array if own is None or not name.endswith(".weight") else array.reshape(len(array), -1)[:, own]

    def spoken_for(self, name: str) -> np.ndarray:
        """Where, in what is left of a parameter, a carrier is computed: it answers for others, so its slope changes."""
        slots = self.net.slots[name]
        mask = np.zeros([len(units) for units in slots], bool)
        for axis, units in enumerate(slots):
            if not self.net.reading[name, axis]:
                mask |= self.carriers[units].reshape([-1 if k == axis else 1 for k in range(mask.ndim)])
        kept = self.parameter(name, mask)
        assert kept is not None
        return kept

    def model(self, small):
        """Cut a model that is like the traced one, in place, and return it."""
        for name, p in small.named_parameters():
            data = (p.data + self.adds[name]).astype(p.dtype) if name in self.adds else p.data
            p.data, p.grad = self.array(data, self.net.slots[name]), None
        for name, (module, attribute) in buffers_of(small).items():
            setattr(module, attribute, self.array(getattr(module, attribute), self.net.slots[name]))
        drop_columns(small, self.columns)
        return small

    def small(self):
        """The small network in float64 and evaluation mode."""
        return self.model(copy.deepcopy(self.net.model))

    def arguments(self, args: tuple) -> tuple:
        """The same arguments, the state without its removed units. args: nested as the network's own."""
        state = {id(t) for t in self.net.state}

        def walk(traced, own):
            if isinstance(traced, tuple):
                return tuple(map(walk, traced, own))
            return Tensor(self.array(own.data, self.net.units_of(traced))) if id(traced) in state else own

        return walk(self.net.args, args)

    def optimizer(self, optimizer, model, small):
        """A copy of the optimizer that holds the small parameters, each with what is left of its state."""
        names = {id(p): name for name, p in model.named_parameters()}
        if any(id(p) not in names for p in optimizer.params):
            raise InputError("the optimizer holds parameters that are not this model's: give the one that trained it")
        parameters = dict(small.named_parameters())
        less, less_state = copy.copy(optimizer), []
        for p, state in zip(optimizer.params, optimizer.state, strict=True):
            if names[id(p)] in parameters:
                cut = {k: self.parameter(names[id(p)], v) if np.ndim(v) else v for k, v in state.items()}
                less_state.append({k: v for k, v in cut.items() if v is not None})
        less.groups = [
            {**group, "params": [parameters[names[id(p)]] for p in group["params"] if names[id(p)] in parameters]}
            for group in optimizer.groups
        ]
        less.state = less_state
        return less
