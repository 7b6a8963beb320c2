"""Groups: which weights are to vanish together.

Every parameter is looked at as a matrix: its first axis by all the others, (N, C K L) for a convolution. A *face* gives
labels to the rows or to the columns of one matrix: the group each belongs to, or -1. That is all there is:

    filter, row, neuron     row n is group n                    channel    column (c, k, l) is group c
    column, input           every column is a group             layer      all rows are one group
    unit                    what leaves together (units.py): rows of some matrices and columns of others

Groups of two faces overlap where a row crosses a column: "filter+channel" penalises both at once, as Structured
Sparsity Learning does (Wen et al. 2016, eq. 2). A unit of an LSTM has rows and columns in one recurrent matrix; the
weights where its own rows and column cross belong to it once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from minidl.errors import InputError
from minidl.sparsity.units import Network, layer_of

KINDS = {  # name -> (the numbers of axes a parameter has to have, the labels of its matrix's rows and of its columns)
    "filter": ((4,), lambda n, c, rest: (np.arange(n), None)),
    "row": ((2, 3, 4), lambda n, c, rest: (np.arange(n), None)),
    "neuron": ((2,), lambda n, c, rest: (np.arange(n), None)),
    "channel": ((4,), lambda n, c, rest: (None, np.repeat(np.arange(c), rest))),
    "column": ((2, 3, 4), lambda n, c, rest: (None, np.arange(c * rest))),
    "input": ((2,), lambda n, c, rest: (None, np.arange(c))),
    "layer": ((2, 3, 4), lambda n, c, rest: (np.zeros(n, int), None)),
}


@dataclass(frozen=True)
class Face:
    """Labels for the rows (axis 0) or columns (axis 1) of one parameter's matrix: a group's number, or -1."""

    parameter: str
    axis: int
    labels: np.ndarray


@dataclass(frozen=True)
class Section:
    """Consecutive groups of one kind in one layer: numbers start ... stop - 1."""

    layer: str
    kind: str
    start: int
    stop: int


class Groups:
    """A set of groups over parameters: faces, and sections that say which numbers are whose.

    parameters: {name: Parameter} of those in which a face lies; count: the number of groups.
    """

    def __init__(self, by: str, parameters: dict, faces: list[Face], sections: list[Section]):
        self.by, self.faces, self.sections = by, faces, sections
        self.parameters = {name: p for name, p in parameters.items() if any(f.parameter == name for f in faces)}
        self.count = sections[-1].stop

    def __repr__(self):
        lines = [f"{s.layer:24} {s.kind:8} {s.stop - s.start:6} groups" for s in self.sections]
        return "\n".join([f"Groups(by={self.by!r}): {self.count} groups", *lines])


def groups(model, x=None, by: str = "filter", layers: Iterable[str] | None = None) -> Groups:
    """The groups of a model's weights, biases left out.

    by: filter, channel (of convolutions) | neuron, input (of fully-connected layers) | row, column, layer (of any
    weight) | unit (found on the tape of model(x), so that x is needed), or several joined by "+".
    layers: only of these modules; default all. A kind that is one group for lack of a choice (the only channel of a
    grey image) is left out. Raises InputError if a name is unknown or nothing is left.
    """
    names = dict(model.named_parameters())
    known = {layer_of(name) for name in names}
    chosen = known if layers is None else set(layers)
    if chosen - known:
        raise InputError(f"no layer {', '.join(sorted(chosen - known))} here; there are {', '.join(sorted(known))}")
    faces: list[Face] = []
    sections: list[Section] = []
    for kind in by.split("+"):
        if kind not in KINDS and kind != "unit":
            raise InputError(f"by={by!r}: {kind!r} is not one of {', '.join(KINDS)}, unit")
        start = sections[-1].stop if sections else 0
        more = _units(model, x, chosen, start) if kind == "unit" else _slices(names, kind, chosen, start)
        faces += more[0]
        sections += more[1]
    if not faces:
        raise InputError(f"by={by!r} finds no group in {', '.join(sorted(chosen))}: choose another kind or layers")
    return Groups(by, names, faces, sections)


def own_groups(parameters: dict, labels: dict[str, tuple[int, Iterable[int]]]) -> Groups:
    """Groups of your own: labels {name: (axis of the matrix, one group number or -1 for each row or column)}."""
    faces = [Face(name, axis, np.asarray(of)) for name, (axis, of) in labels.items()]
    count = 1 + max(int(f.labels.max()) for f in faces)
    return Groups("own", parameters, faces, [Section(", ".join(labels), "own", 0, count)])


def _slices(parameters, kind, chosen, start):
    faces, sections = [], []
    for name, p in parameters.items():
        if layer_of(name) not in chosen or p.ndim not in KINDS[kind][0]:
            continue
        n, c = p.shape[:2]
        for axis, labels in enumerate(KINDS[kind][1](n, c, p.numel() // max(n * c, 1))):
            if labels is not None and (labels.max() > 0 or kind == "layer"):
                faces.append(Face(name, axis, start + labels))
                stop = start + int(labels.max()) + 1
                sections.append(Section(layer_of(name), kind, start, stop))
                start = stop
    return faces, sections


def _units(model, x, chosen, start):
    if x is None:
        raise InputError("by='unit' finds the units on the tape of model(x): give x, one batch of input")
    net = Network(model, x)
    number = np.full(len(net.layer) + 1, -1)  # the last stands for no unit
    sections = []
    for layer in dict.fromkeys(net.layer):
        if layer in chosen:
            own = [k for k, of in enumerate(net.layer) if of == layer]
            number[own] = np.arange(start, start + len(own))
            sections.append(Section(layer, "unit", start, start + len(own)))
            start += len(own)
    faces = []
    shapes = {name: p.shape for name, p in model.named_parameters() if p.ndim > 1}
    for name, shape in shapes.items():
        for axis, unit in enumerate(net.slots[name]):
            if (number[unit] >= 0).any():
                before, after = (int(np.prod(part)) for part in (shape[1:axis], shape[axis + 1 :]))
                labels = np.tile(np.repeat(number[unit], after), before) if axis else number[unit]
                faces.append(Face(name, min(axis, 1), labels))
    return faces, sections
