"""Compact: take the units that do nothing out of a network, and prove that nothing else changed.

What a unit is comes from units.py, which ones do nothing from removable.py. Here their indices are cut from every
parameter, buffer, state and velocity. The result is a model of the same classes with smaller arrays, an ordinary one.
It is run against the original in float64 on x; were they more than rounding apart, nothing would be returned.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from minidl.errors import CompactError, InputError
from minidl.sparsity.cost import Cost, cost
from minidl.sparsity.removable import Removable
from minidl.sparsity.units import Network, arguments, buffers_of, key, tensors_in
from minidl.tensor import Tensor, no_grad


@dataclass(frozen=True)
class Certificate:
    """What was removed and why, what stays and why, and the proof. `str(certificate)` is all of it as a table.

    removed, stays: rows (layer, reason, number of units). kept: {layer: the indices of its units that are left}.
    folded: the biases that took over constants. before, after: Cost of model(x). difference: the largest |y - y'| over
    the outputs of the original and the small network in float64 and evaluation mode, at most tolerance = 1e-12 times
    max(1, max|y|).
    """

    removed: list[tuple[str, str, int]]
    stays: list[tuple[str, str, int]]
    kept: dict[str, np.ndarray]
    folded: list[str]
    before: Cost
    after: Cost
    difference: float
    tolerance: float

    macs_before = property(lambda self: self.before.macs)
    macs_after = property(lambda self: self.after.macs)
    weights_before = property(lambda self: self.before.weights)
    weights_after = property(lambda self: self.after.weights)

    def __str__(self):
        lines = []
        for title, rows in (("removed", self.removed), ("stays", self.stays)):
            lines += [f"{title:14}{count:9,}  {layer:12}  {reason}" for layer, reason, count in rows]
        if self.folded:
            lines.append(f"{'folded into':14}{', '.join(self.folded)}")
        for name, a, b in (
            ("multiply-adds", self.macs_before, self.macs_after),
            ("weights", self.weights_before, self.weights_after),
        ):
            lines.append(f"{name:14}{a:,} -> {b:,} ({b / max(a, 1):.1%})")
        lines.append(f"{'proof':14}largest difference {self.difference:.1e} in float64, {self.tolerance:.1e} allowed")
        return "\n".join(lines)


def compact(model, x, optimizer=None):
    """(small, certificate): the model without its units that do nothing, and the proof; `model` is not changed.

    x: the model's argument, or a tuple of its arguments (state as in `units`). With `optimizer` the answer is
    (small, certificate, small optimizer): a copy that holds the small parameters and the velocities that belong to
    them, so that training goes on. Every layer keeps one unit at least. A bias that takes over a constant is rounded to
    its own dtype; the proof is about float64. Raises CompactError if nothing can be removed, or if the small network
    would compute something else.
    """
    net = Network(model, x, np.float64)
    found = Removable(net)
    if not found.gone.any():
        why = "; ".join(f"{layer}: {count} {reason}" for layer, reason, count in found.stays())
        raise CompactError(f"nothing can be removed, so there is nothing to certify ({why or 'no unit was found'})")
    cut = _Cut(net, found)
    small_x = cut.arguments(arguments(x))
    difference, tolerance = _compare(net, cut, cut.arguments(net.args))
    small = cut.model(model)
    kept = {layer: np.array([], int) for layer in net.layer}
    for k in np.flatnonzero(~found.gone[:-1]):
        kept[net.layer[k]] = np.append(kept[net.layer[k]], net.index[k])
    certificate = Certificate(
        found.removed(), found.stays(), kept, sorted(found.folds), cost(model, x), cost(small, small_x), difference,
        tolerance,
    )  # fmt: skip
    return (small, certificate) if optimizer is None else (small, certificate, cut.optimizer(optimizer, model, small))


class _Cut:
    """Cuts the units that go out of everything that has a place for them."""

    def __init__(self, net: Network, found: Removable):
        self.net, self.folds, self.gone = net, found.folds, found.gone

    def array(self, array: np.ndarray, slots) -> np.ndarray:
        for axis, units in enumerate(slots):
            if self.gone[units].any():
                array = array.take(np.flatnonzero(~self.gone[units]), axis)
        return array

    def model(self, model):
        small = copy.deepcopy(model)
        for name, p in small.named_parameters():
            data = p.data
            if name in self.folds:
                data = (data + self.folds[name]).astype(data.dtype)
            p.data, p.grad = self.array(data, self.net.slots[name]), None
        for name, (module, attribute) in buffers_of(small).items():
            setattr(module, attribute, self.array(getattr(module, attribute), self.net.slots[name]))
        return small

    def arguments(self, args: tuple) -> tuple:
        """The same arguments, the state without its removed units. args: nested as the network's own."""
        state = {id(t) for t in self.net.state}

        def walk(traced, own):
            if isinstance(traced, tuple):
                return tuple(map(walk, traced, own))
            return Tensor(self.array(own.data, self.net.units_of(traced))) if id(traced) in state else own

        return walk(self.net.args, args)

    def optimizer(self, optimizer, model, small):
        names = {id(p): name for name, p in model.named_parameters()}
        if any(id(p) not in names for p in optimizer.params):
            raise InputError("the optimizer holds parameters that are not this model's: give the one that trained it")
        parameters = dict(small.named_parameters())
        theirs = [names[id(p)] for p in optimizer.params]
        less = copy.copy(optimizer)
        less.params = [parameters[name] for name in theirs]
        less.velocity = {k: self.array(v, self.net.slots[theirs[k]]) for k, v in optimizer.velocity.items()}
        return less


def _compare(net: Network, cut: _Cut, args: tuple) -> tuple[float, float]:
    """(the largest difference of any output, what is allowed) between the traced network and the small one."""
    try:
        with no_grad():
            out = cut.model(net.model)(*args)
    except Exception as error:  # whatever a forward may raise when its sizes are written into it
        raise CompactError(
            f"the small network does not run ({type(error).__name__}: {error}): its forward must read sizes from its "
            "arrays, not from numbers that were right for the large one"
        ) from error
    difference, largest = 0.0, 1.0
    for before, after in zip(tensors_in(net.out), tensors_in(out), strict=True):
        expected = cut.array(before.data, net.units_of(key(before)))
        difference = max(difference, float(np.abs(expected - after.data).max(initial=0)))
        largest = max(largest, float(np.abs(expected).max(initial=0)))
    if not difference <= 1e-12 * largest:
        raise CompactError(
            f"the small network differs by {difference:.1e} where {1e-12 * largest:.1e} is rounding: its forward does "
            "something with its units that the tape does not show"
        )
    return difference, 1e-12 * largest
