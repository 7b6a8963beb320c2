"""Groups: which weights are to vanish together.

Every parameter is looked at as a matrix: its first axis by all the others, (N, C K L) for a convolution. A *face* gives
labels to the rows or to the columns of one matrix: the group each belongs to, or -1. Numbers across it, which are added
to the labels, make groups of parts of rows. That is all there is:

    filter, row, neuron     row n is group n                      channel     columns (c, k, l) of all k, l are group c
    column, input           every column is a group               kernel2d    in row n, the columns (c, k, l) of one c
    layer                   the whole matrix                      blocks(y, x)  tiles of y rows by x columns
    unit                    what leaves together (units.py): rows of some matrices and columns of others
    fan_out                 of a unit, only the weights that read it: when they are 0, it can go
    embedding               the units that a table of words (or of anything else) gives out

Groups of two faces overlap where a row crosses a column: "filter+channel" penalises both at once, as Structured
Sparsity Learning does (Wen et al. 2016, eq. 2). A unit of an LSTM has rows and columns in one recurrent matrix; the
weights where its own rows and column cross belong to it once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from minidl.errors import InputError
from minidl.sparsity.prox import Blocks, group_norms
from minidl.sparsity.units import Network, layer_of

KINDS = {  # name -> (how many axes a weight has to have, its face: axis, labels, numbers across or None)
    "filter": ((3, 4), lambda n, c, k, banks: (0, np.arange(n), None)),
    "row": ((2, 3, 4), lambda n, c, k, banks: (0, np.arange(n), None)),
    "neuron": ((2,), lambda n, c, k, banks: (0, np.arange(n), None)),
    "channel": ((3, 4), lambda n, c, k, banks: (1, np.repeat(np.arange(c), k), _bank(n, banks, c))),
    "column": ((2, 3, 4), lambda n, c, k, banks: (1, np.arange(c * k), _bank(n, banks, c * k))),
    "input": ((2,), lambda n, c, k, banks: (1, np.arange(c), None)),
    "kernel2d": ((4,), lambda n, c, k, banks: (0, c * np.arange(n), np.repeat(np.arange(c), k))),
    "layer": ((2, 3, 4), lambda n, c, k, banks: (0, np.zeros(n, int), None)),
}
TRACED = ("unit", "fan_out", "embedding")


def _bank(n, banks, columns):  # each of the filter banks of a grouped convolution has columns of its own
    return None if banks == 1 else np.repeat(columns * np.arange(banks), n // banks)


def _tiles(y, x):  # the last tiles are smaller where y or x does not divide the matrix
    return lambda n, c, k, banks: (0, np.arange(n) // y * -(-c * k // x), np.arange(c * k) // x)


@dataclass(frozen=True)
class Face:
    """Labels for the rows (axis 0) or columns (axis 1) of one parameter's matrix: a group's number, or -1 for none.

    across: for the other axis, numbers that are added to the labels, or -1 for none; None is 0 everywhere.
    """

    parameter: str
    axis: int
    labels: np.ndarray
    across: np.ndarray | None = None


@dataclass(frozen=True)
class Section:
    """Consecutive groups of one kind in one layer: numbers start ... stop - 1."""

    layer: str
    kind: str
    start: int
    stop: int


class Groups:
    """A set of groups over parameters: faces, and sections that say which numbers are whose. Printed, it is a table.

    parameters: {name: Parameter} of those in which a face lies; count: the number of groups.
    """

    def __init__(self, by: str, parameters: dict, faces: list[Face], sections: list[Section]):
        self.by, self.faces, self.sections = by, faces, sections
        self.parameters = {name: p for name, p in parameters.items() if any(f.parameter == name for f in faces)}
        self.count = sections[-1].stop

    def blocks(self) -> list[Blocks]:
        """The matrix of each parameter, cut where its labels change (prox.py)."""
        faces: dict[str, list] = {name: [] for name in self.parameters}
        for f in self.faces:
            faces[f.parameter].append((f.axis, f.labels) if f.across is None else (f.axis, f.labels, f.across))
        return [Blocks(_matrix(p), faces[name]) for name, p in self.parameters.items()]

    def sizes(self, twice: bool = False) -> np.ndarray:
        """The number of weights in each group; where a group crosses itself they count once, or as published twice."""
        cuts = self.blocks()
        roots = [[np.sqrt(cut.sizes())] * len(cut.faces) for cut in cuts]
        return np.rint(np.square(group_norms(cuts, roots, self.count, twice)[:-1])).astype(int)

    def __repr__(self):
        width = max(5, *(len(s.layer) for s in self.sections))
        sizes, lines = self.sizes(), [f"{'layer':{width}}  {'kind':14} {'groups':>8}   weights in each"]
        for s in self.sections:
            low, high = sizes[s.start : s.stop].min(), sizes[s.start : s.stop].max()
            each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            lines.append(f"{s.layer:{width}}  {s.kind:14} {s.stop - s.start:8,}   {each}")
        return "\n".join([f"Groups(by={self.by!r}): {self.count:,} groups", *lines])

    def draw(self, figure) -> None:
        """Fill an empty matplotlib Figure with the parameters' matrices, coloured by group; see picture.py."""
        from minidl.sparsity.picture import draw

        draw(self, figure)

    def figure(self):
        """A matplotlib Figure of the groups (in a notebook, the last line of a cell shows it)."""
        from minidl.sparsity.picture import figure

        return figure(self)


def groups(model, x=None, by="filter", layers: Iterable[str] | None = None) -> Groups:
    """The groups of a model's weights, biases left out.

    by: filter, channel, kernel2d (of convolutions) | neuron, input (of fully-connected layers) | row, column, layer,
    blocks(y, x) (of any weight) | unit, fan_out, embedding (found on the tape of model(x), so that x is needed), or
    several joined by "+"; or slices of your own, as in own_groups.
    layers: only of these modules; default all. A kind that is one group for lack of a choice (the only channel of a
    grey image) is left out. Raises InputError if a name is unknown or nothing is left.
    """
    names = dict(model.named_parameters())
    if not isinstance(by, str):
        return own_groups(names, by)
    known = {layer_of(name) for name in names}
    chosen = known if layers is None else {layers} if isinstance(layers, str) else set(layers)
    if chosen - known:
        raise InputError(f"no layer {', '.join(sorted(chosen - known))} here; there are {', '.join(sorted(known))}")
    faces: list[Face] = []
    sections: list[Section] = []
    for kind in re.split(r"\s*\+\s*", by.strip()):
        start = sections[-1].stop if sections else 0
        if kind in TRACED:
            more = _traced(model, x, kind, chosen, start)
        else:
            more = _slices(model, names, kind, chosen, start)
        faces += more[0]
        sections += more[1]
    if not faces:
        shapes = [f"{name} {p.shape}" for name, p in names.items() if layer_of(name) in chosen and p.ndim > 1]
        raise InputError(
            f"by={by!r} finds no group in {', '.join(sorted(chosen))}: the weights there are "
            f"{', '.join(shapes) or 'biases alone'}; choose another kind or other layers"
        )
    return Groups(by, names, faces, sections)


def _slices(model, parameters, kind, chosen, start):
    tiles = re.fullmatch(r"blocks\(\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*\)", kind)
    if kind not in KINDS and not tiles:
        names = ", ".join([*KINDS, *TRACED, "blocks(rows, columns)"])
        raise InputError(f"by={kind!r}: {kind!r} is not one of {names}")
    dims, face_of = ((2, 3, 4), _tiles(*map(int, tiles.groups()))) if tiles else KINDS[kind]
    faces, sections, owners = [], [], _modules(model)
    for name, p in parameters.items():
        if layer_of(name) not in chosen or p.ndim not in dims:
            continue
        (n, c), owner = p.shape[:2], owners.get(name.rpartition(".")[0])
        banks = getattr(owner, "options", {}).get("groups", 1)
        axis, labels, across = face_of(n, c, p.numel() // max(n * c, 1), banks)
        count = 1 + int(labels.max()) + (0 if across is None else int(across.max()))
        if count > 1 or kind == "layer":
            faces.append(Face(name, axis, start + labels, across))
            sections.append(Section(layer_of(name), kind, start, start + count))
            start += count
    return faces, sections


def _traced(model, x, kind, chosen, start):
    if x is None:
        raise InputError(f"by={kind!r} finds the units on the tape of model(x): give x, one batch of input")
    net = Network(model, x)
    if lost := net.lost():
        raise InputError(
            f"the tape leads from {', '.join(lost)} nowhere, so it does not show what reads their units: forward must "
            "compute with Tensors from there to its answer, not with .data or copies of it"
        )
    slots = {  # (parameter, axis) -> unit numbers, wherever a weight may lie in a group of this kind
        (name, axis): unit
        for name, p in model.named_parameters()
        for axis, unit in enumerate(net.slots[name] if p.ndim > 1 else ())
        if kind != "fan_out" or net.reading[name, axis]
    }
    wanted = [u for (name, _), u in slots.items() if kind != "embedding" or name in net.tables]
    there = np.isin(np.arange(len(net.layer)), np.concatenate([[-1], *wanted]))
    number = np.full(len(net.layer) + 1, -1)  # the last stands for no unit
    sections = []
    for layer in dict.fromkeys(net.layer):
        own = [k for k, of in enumerate(net.layer) if of == layer and there[k]]
        if layer in chosen and own:
            number[own] = np.arange(start, start + len(own))
            sections.append(Section(layer, kind, start, start + len(own)))
            start += len(own)
    faces = []
    for (name, axis), unit in slots.items():
        if (number[unit] >= 0).any():
            shape = dict(model.named_parameters())[name].shape
            before, after = (int(np.prod(part)) for part in (shape[1:axis], shape[axis + 1 :]))
            labels = np.tile(np.repeat(number[unit], after), before) if axis else number[unit]
            faces.append(Face(name, min(axis, 1), labels))
    return faces, sections


def own_groups(parameters: dict, own) -> Groups:
    """Groups of your own, over parameters {name: Parameter}. own is one of

    {"conv1.weight": [np.s_[0], np.s_[1:3]]}              every slice is a group
    [{"w1": np.s_[:, 0], "w2": np.s_[0]}, {...}, ...]     every dict is a group: of one slice (or a list) per parameter
    {"w": (axis of the matrix, labels)}                   a group's number or -1 for each of its rows or columns

    Slices may overlap. One that is not some rows by some columns of its parameter's matrix raises InputError.
    """
    if isinstance(own, dict) and all(isinstance(v, tuple) and len(v) == 2 and np.ndim(v[1]) == 1 for v in own.values()):
        faces = [Face(_known(parameters, name), axis, np.asarray(of)) for name, (axis, of) in own.items()]
        for f in faces:
            if len(f.labels) != (n := _matrix(parameters[f.parameter])[f.axis]):
                raise InputError(
                    f"{f.parameter}: {len(f.labels)} labels for axis {f.axis} of its matrix, which has {n}"
                )
        count = 1 + max(int(f.labels.max()) for f in faces)
        return Groups("own", parameters, faces, [Section(", ".join(own), "own", 0, count)])
    if isinstance(own, dict):
        own = [{name: part} for name, parts in own.items() for part in (parts if isinstance(parts, list) else [parts])]
    faces = []
    sections: list[Section] = []
    for g, group in enumerate(own):
        for name, parts in group.items():
            for part in parts if isinstance(parts, list) else [parts]:
                _add_slice(faces, name, part, parameters[_known(parameters, name)], g)
        where = ", ".join(group)
        start = sections.pop().start if sections and sections[-1].layer == where else g
        sections.append(Section(where, "own", start, g + 1))
    if not faces:
        raise InputError("no group of your own: give at least one slice of one parameter")
    return Groups("own", parameters, faces, sections)


def _add_slice(faces: list[Face], name, part, p, g) -> None:
    """Add a slice to a face that has room for it: of the same columns and other rows, or the other way about."""
    masks = _rows_and_columns(name, part, p.shape)
    for f in faces:
        if f.parameter == name:
            along, across = masks[f.axis], masks[1 - f.axis]
            same = across.all() if f.across is None else np.array_equal(f.across == 0, across)
            if same and (f.labels[along] < 0).all():
                f.labels[along] = g
                return
    axis = 1 if masks[0].all() and not masks[1].all() else 0
    other = None if masks[1 - axis].all() else np.where(masks[1 - axis], 0, -1)
    faces.append(Face(name, axis, np.where(masks[axis], g, -1), other))


def _rows_and_columns(name, part, shape) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and which columns of the matrix the slice p[part] takes."""
    items = list(part) if isinstance(part, tuple) else [part]
    for k in [k for k, i in enumerate(items) if i is Ellipsis]:
        items[k : k + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    rows, columns = np.zeros(shape[0], bool), np.zeros(shape[1:], bool)
    if any(np.ndim(i) > 1 for i in items) or sum(np.ndim(i) for i in items) > 1:
        raise InputError(f"{name}: a list of places is not some rows by some columns of its matrix; give it in parts")
    try:
        rows[items[0]] = True
        columns[tuple(items[1:])] = True
    except IndexError as error:
        raise InputError(f"{name} has shape {shape}, {part} does not fit it: {error}") from error
    if not rows.any() or not columns.any():
        raise InputError(f"{name} has shape {shape}: {part} holds no weight of it")
    return rows, columns.ravel()


def _known(parameters, name) -> str:
    if name not in parameters:
        raise InputError(f"no parameter {name} here; there are {', '.join(parameters)}")
    return name


def _matrix(p) -> tuple[int, int]:
    """(rows, columns) of a parameter's matrix."""
    return p.shape[0], int(np.prod(p.shape[1:]))


def _modules(module, prefix: str = "") -> dict:
    found = {prefix.rstrip("."): module}
    for name, child in module.children():
        found |= _modules(child, f"{prefix}{name}.")
    return found
