"""Which units do nothing? Read it off the tape of model(x), from weights that are exactly 0.

    unread      every weight that reads the unit is 0, or leads only to units that are taken out too. Whatever it says,
                nobody hears it. (Weights from a recurrent unit to itself do not matter.)
    constant    every weight into the unit is 0, or comes from a constant: it says the same number c at every sample.
                What reads it gets c times its weights added to its bias: exact where nothing is padded. Zeros around a
                constant image make the border differ, and some layers have no bias: there one constant unit k stays
                and speaks for all, W[:, k] += sum_d W[:, d] c_d / c_k. A recurrent unit fed by its bias alone is not
                constant (h_t = .197, .296, .346, ...): it goes only if it says 0 throughout.

Both are walks over the tape: "who hears it" from the outputs backwards, "what depends on data" from the input forwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from minidl.sparsity.units import Network, Read, key, layer_of, tensors_in
from minidl.tensor import Tensor

UNREAD = "unread: every weight that reads it is 0"
CONSTANT = "constant: every weight into it is 0"
CARRIER = "constant: one has to stay, for a reader that pads or has no bias"


@dataclass(frozen=True)
class _Edge:
    """A Read by units: source (n,), target (m,), connected (n, m): whether a weight between two of them is not 0.

    A unit's number is its place in net.layer; -1 is what cannot be removed, the output for example. said (n,): the
    number that is said there at all samples and places, nan where it is not one number.
    """

    read: Read
    source: np.ndarray
    target: np.ndarray
    connected: np.ndarray
    said: np.ndarray


class Removable:
    """The units of a network that can go, and what is to be added to which bias for it.

    All masks have one place more than there are units: the last is for number -1.
    gone: the units that can go; constant: those that are constant; carriers: the constants that stay for others;
    folds: {bias: what to add to it}; merges: {weight: what to add to it}.
    """

    def __init__(self, net: Network):
        self.net = net
        self.edges = [self._edge(read) for read in net.reads if isinstance(read.node.args[read.data], Tensor)]
        self.reads_at: dict[int, list[_Edge]] = {}
        for e in self.edges:
            self.reads_at.setdefault(id(e.read.node), []).append(e)
        self.uses = Counter(k for node in net.tape for k in {id(a) for a in node.args})
        self.held = self._mask()  # the first unit of a layer that would lose all of them
        self.why: dict[int, str] = {}  # unit -> why it stays although nothing feeds it
        constant = self._find_constants()
        while True:
            self._decide(constant)
            emptied = [u[0] for slots in net.slots.values() for u in slots if len(u) and self.gone[u].all()]
            if not emptied:
                break
            self.held[emptied] = True

    def _mask(self, *true: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(self.net.layer) + 1, bool)
        for numbers in true:
            mask[numbers] = True
        mask[-1] = False
        return mask

    def _edge(self, read: Read) -> _Edge:
        data, weights = read.node.values[read.data], read.node.values[read.reader]
        source = self.net.units_of(read.node.args[read.data])[read.data_axis]
        rows = np.moveaxis(data, read.data_axis, 0).reshape(len(source), -1)
        low, high = rows.min(1), rows.max(1)
        said = np.where(high - low <= 1e-12 * np.maximum(1, np.abs(high)), low, np.nan)
        if not read.weights:  # activations read activations: all of them may be needed
            return _Edge(read, source, np.array([-1]), np.ones((len(source), 1), bool), said)
        units = self.net.units_of(read.node.args[read.reader])
        nonzero = np.moveaxis(weights != 0, read.axis, 0)
        nonzero = np.tile(nonzero, (len(source) // len(nonzero), *[1] * (nonzero.ndim - 1)))  # all groups alike
        others = [u for k, u in enumerate(units) if k != read.axis % weights.ndim]
        out = next((k for k, u in enumerate(others) if (u >= 0).any()), 0)
        if not others:
            return _Edge(read, source, np.array([-1]), nonzero[:, None], said)
        connected = np.any(nonzero, axis=tuple(k + 1 for k in range(len(others)) if k != out))
        return _Edge(read, source, others[out], connected, said)

    # -- who hears it --------------------------------------------------------------------------------------------------
    def _heard(self, deaf: np.ndarray) -> np.ndarray:
        """The units from which nonzero weights lead to an output, on a path without a `deaf` unit."""
        heard = self.held.copy()
        heard[-1] = True
        while True:
            before = heard.sum()
            for e in self.edges:
                heard[e.source[e.connected[:, (heard & ~deaf)[e.target]].any(1)]] = True
            if heard.sum() == before:
                return heard

    # -- what depends on data ------------------------------------------------------------------------------------------
    def _find_constants(self) -> np.ndarray:
        """The units that say one number whatever the input is, at every place where they are read."""
        state = {key(before): self._zero_slices(before) for before in self.net.state}
        while True:  # a state that starts at 0 stays so if what comes out depends on nothing either
            free = self._independent(state)
            after = {key(a): state[key(a)] & free.get(key(b), self._mask()) for a, b in self.net.state.items()}
            if all((after[k] == state[k]).all() for k in state):
                break
            state = after
        unfed, varying, loud = ~self._mask(), self._mask(), self._mask()
        recurrent = self._mask(*(u for before in self.net.state for u in self.net.units_of(before)))
        for e in self.edges:
            unfed[e.source[~free.get(key(e.read.node.args[e.read.data]), self._mask())[e.source]]] = False
            varying |= self._mask(e.source[np.isnan(e.said)])
            loud |= self._mask(e.source[e.said != 0])
            recurrent |= self._mask(*([e.source] if e.read.loops else []))
        unfed[-1] = False
        self._say_why(unfed & recurrent & loud, "only its biases feed it, but a recurrent unit is then not constant")
        self._say_why(unfed & varying & ~recurrent, "nothing feeds it, but it is not the same number everywhere")
        return unfed & ~varying & ~(recurrent & loud)

    def _independent(self, state: dict) -> dict[tuple, np.ndarray]:
        """For each result on the tape, the units in it that no nonzero weight connects with data."""
        made = [a for node in self.net.tape for a in node.args if self._made_of_zeros(a)]
        free = {key(a): ~self._mask() for a in made} | state
        for node in self.net.tape:
            moving = [(k, a) for k, a in enumerate(node.args) if not self.net.is_fixed(a)]
            if not moving:
                continue
            keys = [(id(node), k) for k in range(len(node.out) if isinstance(node.out, tuple) else 1)]
            here = self._mask(*(u for k in keys for u in self.net.units_of(k)))
            lookup = all(isinstance(a, np.ndarray) and a.dtype.kind in "iu" for _, a in moving)
            result = self._alike(node) & here if lookup else here.copy()
            while not lookup:
                before = result.copy()
                for k, a in moving:
                    own = free.get(key(a), self._mask()) if isinstance(a, Tensor) else self._mask()
                    reads = [e for e in self.reads_at.get(id(node), ()) if e.read.data == k]
                    if not reads:
                        result &= own
                    for e in reads:  # a loop hears what comes out of it as well as what went in
                        fed = ~(own & result if e.read.loops else own)[e.source]
                        result &= ~self._mask(e.target[e.connected[fed].any(0)])
                if (result == before).all():
                    break
            free |= dict.fromkeys(keys, result)
        return free

    def _made_of_zeros(self, a) -> bool:
        """Whether this is zeros that were made inside forward (a layer's own first state), which are no data."""
        made = isinstance(a, Tensor) and a.node is None and not self.net.is_fixed(a)
        return made and not a.data.any() and all(a is not given for given in tensors_in(self.net.args))

    def _alike(self, node) -> np.ndarray:
        """The units whose slices of the node's weights are one number: looking them up gives it for every index."""
        alike = ~self._mask()
        for a, value in zip(node.args, node.values, strict=True):
            for axis, u in enumerate(self.net.units_of(a) if isinstance(a, Tensor) else ()):
                rows = np.moveaxis(value, axis, 0).reshape(len(u), -1)
                alike &= ~self._mask(u[(rows != rows[:, :1]).any(1)])
        return alike

    def _zero_slices(self, t: Tensor) -> np.ndarray:
        silent, loud = self._mask(), self._mask()
        for axis, u in enumerate(self.net.units_of(t)):
            rows = np.moveaxis(t.data, axis, 0).reshape(len(u), -1)
            silent, loud = silent | self._mask(u), loud | self._mask(u[rows.any(1)])
        return silent & ~loud

    # -- what goes -----------------------------------------------------------------------------------------------------
    def _decide(self, constant: np.ndarray) -> None:
        unread = ~self._heard(deaf=self._mask())
        self.constant, self.carriers = constant & ~self.held & ~unread, self._mask()
        while not self._hand_over(unread):
            pass
        goes = self.constant & ~self.carriers
        self.gone = (goes | ~self._heard(deaf=goes)) & ~self.held

    def _hand_over(self, unread: np.ndarray) -> bool:
        """Find a place for what every constant says to those that stay; False if a constant more had to stay for it."""
        goes = self.constant & ~self.carriers
        stays = ~(unread | goes)
        refused = self._mask()
        self.folds: dict[str, np.ndarray] = {}
        merges: dict[str, list] = {}
        for e in self.edges:
            given = np.flatnonzero(goes[e.source] & (e.said != 0) & e.connected[:, stays[e.target]].any(1))
            if not len(given):
                continue
            weights = np.moveaxis(e.read.node.values[e.read.reader], e.read.axis, 0)
            reader = self.net.name_of(e.read.node.args[e.read.reader]) or ""
            if self._takes_over(e.read):
                part = np.tensordot(e.said[given], weights[given], 1)
                bias = str(self.net.name_of(e.read.node.args[e.read.fold]))
                self.folds[bias] = self.folds.get(bias, 0) + part.sum(axis=tuple(range(1, part.ndim)))
            elif not self._merges(e):
                where = layer_of(reader) if reader else f"a product of activations ({e.read.node.name})"
                self._say_why(self._mask(e.source[given]), f"constant, but {where} cannot take it over")
                refused |= self._mask(e.source[given])
            else:
                there = np.flatnonzero(self.carriers[e.source] & (e.said != 0))
                if not len(there):
                    self.carriers[e.source[given[np.abs(e.said[given]).argmax()]]] = True
                    return False
                more = np.zeros_like(weights)
                more[there[0]] = np.tensordot(e.said[given] / e.said[there[0]], weights[given], 1)
                merges.setdefault(reader, []).append((np.moveaxis(more, 0, e.read.axis), e, given))
        for reader, parts in merges.items():  # weights that are used several times must want the same change each time
            first, e, _ = parts[0]
            if len(parts) < self.uses[id(e.read.node.args[e.read.reader])] or any(
                np.abs(part - first).max() > 1e-13 * np.abs(first).max() for part, _, _ in parts
            ):
                units = self._mask(*(e.source[given] for _, e, given in parts))
                self._say_why(units, f"constant, but {layer_of(reader)} runs several times and hears other constants")
                refused |= units
        self.merges = {reader: parts[0][0] for reader, parts in merges.items()}
        if refused.any():
            self.constant, self.carriers = self.constant & ~refused, self._mask()
        return not refused.any()

    def _takes_over(self, read: Read) -> bool:
        """Whether a constant can be added to the reader's bias: a parameter that is used here and nowhere else."""
        bias = read.node.args[read.fold] if read.weights and read.fold is not None else None
        return self._is_parameter(bias) and self.uses[id(bias)] == 1

    def _merges(self, e: _Edge) -> bool:
        """Whether one of the reader's own weights can be changed: a parameter with one slice for each source."""
        weights = e.read.node.args[e.read.reader]
        return self._is_parameter(weights) and len(e.source) == weights.shape[e.read.axis] and not e.read.loops

    def _is_parameter(self, a) -> bool:
        return isinstance(a, Tensor) and a.node is None and self.net.name_of(a) is not None

    # -- in words ------------------------------------------------------------------------------------------------------
    def _say_why(self, units: np.ndarray, reason: str) -> None:
        self.why |= dict.fromkeys(np.flatnonzero(units).tolist(), reason)

    def removed(self) -> list[tuple[str, str, int]]:
        """(layer, reason, number of units) of what goes."""
        gone = np.flatnonzero(self.gone)
        return _table((self.net.layer[k], CONSTANT if self.constant[k] else UNREAD) for k in gone)

    def stays(self) -> list[tuple[str, str, int]]:
        """(layer, reason, number of units) of what stays, and slices of weights that are 0 but cannot go."""
        units = [k for k, layer in enumerate(self.net.layer) if not self.gone[k]]
        own = self.why | dict.fromkeys(np.flatnonzero(self.carriers).tolist(), CARRIER)
        rows = [(self.net.layer[k], "last of its layer" if self.held[k] else own.get(k, "needed")) for k in units]
        for name, p in self.net.model.named_parameters():
            for axis, u in enumerate(self.net.slots[name][:2] if p.ndim > 1 else ()):
                zero = ~np.moveaxis(p.data, axis, 0).reshape(len(u), -1).any(1)
                rows += [(layer_of(name), f"0, but axis {axis} of {name} is pinned")] * int((zero & (u < 0)).sum())
        return _table(rows)


def _table(rows) -> list[tuple[str, str, int]]:
    return [(layer, reason, count) for (layer, reason), count in Counter(rows).items()]
