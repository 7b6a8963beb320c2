"""Units: which indices of which weights leave a network together? Ask the tape, with a union-find over axis indices.

`model(x)` is traced once, on a copy in evaluation mode. Every index of every axis of every parameter gets an id, the
axis rule of each function on the tape (minidl/axes.py) says which ids belong together, and a connected component that
touches neither the model's input nor its output is a *unit*: one filter with its bias, its BatchNorm numbers and the
input channel of the next layer that reads it; one hidden unit of an LSTM with its four gate rows, its recurrent column
and its column in the layer above (an Intrinsic Sparse Structure, Wen et al. 2018). No layer type is known here.

Id 0 stands for everything that cannot be taken out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from minidl import rules
from minidl.axes import axis_rule
from minidl.errors import InputError
from minidl.tensor import Node, Tensor, no_grad, trace


@dataclass(frozen=True)
class Member:
    """A unit's indices on one axis of one parameter; reads: the weights there multiply what the unit says."""

    parameter: str
    axis: int
    indices: np.ndarray
    reads: bool


@dataclass(frozen=True)
class Unit:
    """One removable unit: `layer` is the module that computes it, `index` its place among that layer's units."""

    layer: str
    index: int
    members: tuple[Member, ...]

    def size(self, shapes: dict[str, tuple[int, ...]], *, twice: bool = False) -> int:
        """How many weights (of parameters with two axes or more: no biases) lie in the unit.

        The weights where a row and a column of the unit cross count once; with `twice`, as published, once for each.
        """
        total = 0
        for name in {m.parameter for m in self.members}:
            shape, own = shapes[name], [m for m in self.members if m.parameter == name]
            if len(shape) < 2:
                continue
            n = int(np.prod(shape))
            if twice:
                total += sum(n // shape[m.axis] * len(m.indices) for m in own)
            else:
                outside = n
                for m in own:
                    outside = outside // shape[m.axis] * (shape[m.axis] - len(m.indices))
                total += n - outside
        return total


class _Ids:
    """The `u` of the axis rules: hands out ids and remembers which belong together. Id 0: cannot be taken out."""

    def __init__(self):
        self.count = 1
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.readers: list[tuple] = []

    def fresh(self, n: int) -> np.ndarray:
        self.count += n
        return np.arange(self.count - n, self.count)

    def pinned(self, n: int) -> np.ndarray:
        return np.zeros(n, np.int64)

    def pin(self, a: np.ndarray) -> None:
        self.pairs.append((a, np.zeros_like(a)))

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        self.pairs.append((a, b))

    def reads(self, w: tuple, i: int, x: tuple, j: int, fold: tuple | None = None) -> None:
        self.unite(w[i], x[j][: len(w[i])])
        self.readers.append((w, i, x, j, fold))

    def components(self) -> np.ndarray:
        """The smallest id of each id's component: hook roots to smaller roots, shorten every path, until all agree."""
        parent = np.arange(self.count)
        a, b = (np.concatenate(side) for side in zip(*self.pairs, strict=True))
        while True:
            pa, pb = parent[a], parent[b]
            differ = pa != pb
            if not differ.any():
                return parent
            a, b = a[differ], b[differ]
            np.minimum.at(parent, np.maximum(pa, pb)[differ], np.minimum(pa, pb)[differ])
            while (parent != (grand := parent[parent])).any():
                parent = grand


@dataclass(frozen=True)
class Read:
    """A place where a node sums over units: axis `axis` of its argument `reader` meets axis `data_axis` of `data`.

    weights: whether the reader depends on weights alone; fold: the argument that can take over a constant, or None;
    loops: whether the node's result has the ids it reads, so that it hears itself at the next time step.
    """

    node: Node
    reader: int
    axis: int
    data: int
    data_axis: int
    fold: int | None
    weights: bool
    loops: bool


class Network:
    """The tape of model(x), and for every index of every axis the number of its unit, or -1.

    slots: {name of a parameter or buffer: one array of unit numbers per axis}; reads: every `Read`
    state: {Tensor that came in as state: the Tensor that came out}; layer, index: of each unit
    tables: the parameters of which integers that are given pick rows
    """

    def __init__(self, model, x, dtype=None):
        self.model = copy.deepcopy(model).eval()  # a copy: nothing of the model changes, whatever its forward does
        if dtype is not None:
            self.model.astype(dtype)
        self.args = arguments(x, dtype)
        leaves = self._run()
        self._u, self._ids, self._fixed = _Ids(), {}, {}
        self._name_leaves(leaves)
        self.reads: list[Read] = []
        self.tables: set = set()
        unused = self._unused_stacks()
        carried = [ids for node in self.tape if id(node) not in unused for ids in self._apply_rule(node)]
        goes_on = {key(after) for after in self.state.values()}
        for t in tensors_in(self.out):
            for ids in self._ids[key(t)] if key(t) not in goes_on else ():
                self._u.pin(ids)
        for before, after in self.state.items():
            for a, b in zip(self._ids[key(before)], self._ids[key(after)], strict=True):
                self._u.unite(a, b)
        self._number(leaves, np.concatenate([self._u.pinned(1), *carried]))

    def _run(self) -> dict[str, Tensor]:
        """Run the model; buffers become Tensors for it, so that the tape knows them as it knows parameters."""
        self.buffers = buffers_of(self.model)
        arrays = {name: getattr(m, b) for name, (m, b) in self.buffers.items()}
        tensors = {name: Tensor(array) for name, array in arrays.items()}
        for name, (m, b) in self.buffers.items():
            setattr(m, b, tensors[name])
        with no_grad(), trace() as self.tape:
            self.out = self.model(*self.args)
        for name, (m, b) in self.buffers.items():
            setattr(m, b, arrays[name])
        if not tensors_in(self.out):
            raise InputError(f"the model returned {type(self.out).__name__} without a Tensor: it cannot be traced")
        return dict(self.model.named_parameters()) | tensors

    def lost(self) -> list[str]:
        """The parameters that are used on the tape, but from which it does not lead on to the output."""
        reached = {id(t.node) for t in tensors_in(self.out)}
        used: dict[bool, set] = {True: set(), False: set()}
        for node in reversed(self.tape):
            used[id(node) in reached] |= {self.name_of(a) for a in node.args} - {None}
            if id(node) in reached:
                reached |= {id(a.node) for a in node.args if isinstance(a, Tensor)}
        return sorted(used[False] - used[True])

    def _unused_stacks(self) -> set[int]:
        """The nodes that stack arrays for nobody (a recurrent layer's last state): they tie nothing together."""
        used = {id(t.node) for t in tensors_in(self.out)}
        used |= {id(a.node) for node in self.tape for a in node.args if isinstance(a, Tensor)}
        stacks = [node for node in self.tape if node.function is rules.stack and id(node) not in used]
        for node in stacks:
            self._ids[id(node), 0] = tuple(map(self._u.fresh, node.out.shape))
        return {id(node) for node in stacks}

    def _name_leaves(self, leaves):
        """Ids for parameters, buffers, input (pinned) and state: what goes in and comes out alike, in one place."""
        out = self.out if isinstance(self.out, tuple) else (self.out,)
        self.state = {
            before: after
            for i, arg in enumerate(self.args[: len(out)])
            if (isinstance(arg, (list, tuple)) and _shapes(arg) == _shapes(out[i])) or (i and _through(arg, out[i]))
            for before, after in zip(tensors_in(arg), tensors_in(out[i]), strict=True)
        }
        for t in (*leaves.values(), *self.state):
            self._ids[key(t)] = tuple(self._u.fresh(n) for n in t.shape)
        for t in tensors_in(self.args):
            self._ids.setdefault(key(t), tuple(self._u.pinned(n) for n in t.shape))
        self._fixed.update((key(t), name) for name, t in leaves.items())

    def _apply_rule(self, node) -> list[np.ndarray]:
        """Apply the node's axis rule; return the ids of its results, unless they depend on weights alone."""
        ids = [self._argument(a, v) for a, v in zip(node.args, node.values, strict=True)]
        several = isinstance(node.out, tuple)
        shape = tuple(o.shape for o in node.out) if several else np.shape(node.out)
        self._u.readers.clear()
        found = axis_rule(node.function)(self._u, shape, *ids, **node.kwargs)
        fixed = [self.is_fixed(a) for a in node.args]
        given = [a for a in (*node.args, *_leaves(tuple(node.kwargs.values()))) if isinstance(a, np.ndarray)]
        if any(a.dtype.kind in "iu" for a in given):  # which rows of weights are taken comes from outside
            self.tables |= {self.name_of(a) for a in node.args if isinstance(a, Tensor) and self.is_fixed(a)}
        for w, i, x, j, fold in self._u.readers:
            reader, data = (next(k for k, a in enumerate(ids) if a is t) for t in (w, x))
            takes = next((k for k, a in enumerate(ids) if a is fold), None)
            ours = [a for a in w if a is x[j]]  # a layer run on its own result: that is no loop of the node
            loops = not ours and any(a is x[j] for axes in (found if several else (found,)) for a in axes)
            if fixed[data] and not fixed[reader]:  # data @ weights: the second argument is the reader's data
                reader, data, takes, i, j = data, reader, None, j, i
            self.reads.append(Read(node, reader, i, data, j, takes, fixed[reader], loops))
        for k, axes in enumerate(found if several else (found,)):
            self._ids[id(node), k] = axes
            if all(fixed) and not given:
                self._fixed[id(node), k] = next(filter(None, map(self.name_of, node.args)), None)
        return [] if all(fixed) and not given else [a for axes in (found if several else (found,)) for a in axes]

    def _argument(self, a, value):
        """The ids of one argument as a tuple of its own, so that a rule can be understood by which tuple it names."""
        if not isinstance(value, np.ndarray):
            return value
        if isinstance(a, Tensor) and key(a) in self._ids:
            return tuple(list(self._ids[key(a)]))
        ids = []  # a constant: one that is alike along an axis can be made at any length, any other pins
        for axis, n in enumerate(value.shape):
            alike = value.dtype.kind == "f" and n and (value == value.take([0], axis)).all()
            ids.append(self._u.fresh(n) if alike else self._u.pinned(n))
        if isinstance(a, Tensor):  # made inside forward, as a layer's own zero state
            self._ids[key(a)] = tuple(ids)
        return tuple(ids)

    def is_fixed(self, a) -> bool:
        """Whether an argument of a node depends on weights alone (or is a number or a shape)."""
        return key(a) in self._fixed if isinstance(a, Tensor) else not isinstance(a, np.ndarray)

    def name_of(self, a) -> str | None:
        """The parameter (or buffer) that an argument is, or is made of alone."""
        return self._fixed.get(key(a)) if isinstance(a, Tensor) else None

    def _number(self, leaves, carried):
        """Number the units: components that hold a parameter, are carried by an activation, and are not pinned."""
        component = self._u.components()
        read = np.zeros(self._u.count, bool)
        for r in self.reads:
            if r.weights and isinstance(r.node.args[r.reader], Tensor):
                read[self._ids[key(r.node.args[r.reader])][r.axis]] = True
        unit = np.zeros(self._u.count, bool)
        unit[component[carried]] = True
        unit[0] = False
        number = np.full(self._u.count, -1)
        self.layer, self.index = [], []
        axes = [(name, k, ids) for name, t in leaves.items() for k, ids in enumerate(self._ids[key(t)])]
        self.reading = {(name, k): bool(read[ids].any()) for name, k, ids in axes}
        for name, _, ids in sorted(axes, key=lambda axis: self.reading[axis[:2]]):  # where it is computed comes first
            roots, first = np.unique(component[ids], return_index=True)
            roots = roots[np.argsort(first)]
            new = roots[unit[roots] & (number[roots] < 0)]
            number[new] = np.arange(len(new)) + len(self.layer)
            start = self.layer.count(layer_of(name))
            self.layer += [layer_of(name)] * len(new)
            self.index += range(start, start + len(new))
        self._unit = number[component]
        self.slots = {name: tuple(self._unit[ids] for ids in self._ids[key(t)]) for name, t in leaves.items()}

    def units_of(self, a) -> tuple[np.ndarray, ...]:
        """The unit numbers along each axis of a Tensor on the tape; of a result of a node by (id(node), k)."""
        return tuple(self._unit[ids] for ids in self._ids[key(a) if isinstance(a, Tensor) else a])


def units(model, x) -> list[Unit]:
    """All removable units of model(x), layer by layer.

    x: the model's argument, or a tuple of its arguments. An argument that is a list or tuple of Tensors and comes back
    as an output in the same place and shape is state (of a recurrent network): it loses its units with the weights. So
    does a Tensor that a recurrent function takes and gives back, a GRU's h; of a stack, give zero_state(B, cells=True).
    """
    net = Network(model, x)
    members: list[list[Member]] = [[] for _ in net.layer]
    for name, slots in net.slots.items():
        if name in net.buffers:
            continue
        for axis, numbers in enumerate(slots):
            order = np.argsort(numbers, kind="stable")
            values, starts = np.unique(numbers[order], return_index=True)
            for value, part in zip(values, np.split(order, starts[1:]), strict=True):
                if value >= 0:
                    members[value].append(Member(name, axis, part, net.reading[name, axis]))
    return [Unit(*u) for u in zip(net.layer, net.index, map(tuple, members), strict=True)]


def silence_(model, chosen: list[Unit]) -> None:
    """Set every weight that reads one of these units to 0: what the network computes is then as if they were gone."""
    parameters = dict(model.named_parameters())
    for name in {m.parameter for unit in chosen for m in unit.members if m.reads}:
        data = parameters[name].data.copy()
        for unit in chosen:
            for m in unit.members:
                if m.parameter == name and m.reads:
                    data[(slice(None),) * m.axis + (m.indices,)] = 0
        parameters[name].data = data


def key(t: Tensor) -> tuple[int, int]:
    """What tells the Tensors of one tape apart: their node and place among its results; a leaf is its own."""
    return (id(t), 0) if t.node is None else (id(t.node), t.index)


def arguments(x, dtype=None) -> tuple:
    """The arguments of model(*arguments) from x: float arrays become Tensors, of the given dtype."""
    if isinstance(x, (list, tuple)):
        return tuple(_converted(a, dtype) for a in x)
    return (_converted(x, dtype),)


def _converted(a, dtype):
    if isinstance(a, (list, tuple)):
        return tuple(_converted(part, dtype) for part in a)
    array = a.data if isinstance(a, Tensor) else np.asarray(a)
    return Tensor(array.astype(dtype or array.dtype)) if array.dtype.kind == "f" else array


def layer_of(name: str) -> str:
    """The module that owns a parameter, by its dotted name."""
    return name.rpartition(".")[0] or name


def buffers_of(module, prefix: str = "") -> dict[str, tuple]:
    """{dotted name: (module, attribute)} of every buffer, named as in the state_dict."""
    found = {prefix + name: (module, name) for name in module.buffers}
    for name, child in module.children():
        found |= buffers_of(child, f"{prefix}{name}.")
    return found


def tensors_in(tree) -> list[Tensor]:
    """The Tensors in nested tuples and lists, in order."""
    if isinstance(tree, (list, tuple)):
        return [t for part in tree for t in tensors_in(part)]
    return [tree] if isinstance(tree, Tensor) else []


def _leaves(tree) -> list:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, (list, tuple)) else [tree]


def _through(before, after) -> bool:
    """Whether one function of several results takes the Tensor `before` and gives `after`, as a GRU its state h."""
    both = isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape
    node = after.node if both else None
    return node is not None and isinstance(node.out, tuple) and any(a is before for a in node.args)


def _shapes(tree):
    return tuple(map(_shapes, tree)) if isinstance(tree, (list, tuple)) else np.shape(getattr(tree, "data", tree))
