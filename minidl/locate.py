"""locate: where does a hand-written backward go wrong first? Ask the composed form of the same op.

Both forms compute the same gradients, the composed one step by step. If they disagree by E (over all arguments), then
somewhere the hand-written form has a wrong intermediate gradient, and from there on carries the mistake along by right
rules. What a mistake d at the intermediate k does to the arguments is linear, E = J_k d, and the composed tape knows
J_k. So: for every intermediate (all time steps of one line together), solve J_k d = E. Where that has a solution, a
mistake there explains all that is wrong; the smallest such place is named, by the variable and the line of the composed
form, and with the step at which d is not 0 first, counted back from the loss.

    locate(lstm, x, h, c, w_ih, w_hh, bias, rng=rng)
    GradientError: ... wrong first: dL/df in `f * c` ...

One place or two; more mistakes at once are listed by argument only. Small arrays: J has a column for every number.
"""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import InputError
from minidl.gradcheck import GradientError, argument_names, describe
from minidl.tensor import Node, Op, Tensor, _key, _result, _trace, backpropagate

MOST_COLUMNS = 3000


def locate(op: Op, *arrays, rng, rtol: float = 1e-7, **options) -> None:
    """Compare an Op's backward with its composed form; say which arguments differ, and where that starts.

    arrays: what the op takes (floats are checked in float64), options: its keyword arguments. Raises GradientError.
    """
    values = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in map(np.asarray, arrays)]
    tensors = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in values]
    floats = [k for k, t in enumerate(tensors) if isinstance(t, Tensor)]
    names, tape = argument_names(op, len(values)), _Tape()
    token = _trace.set(tape)
    try:
        right_out = _tuple(op.composed(*tensors, **options))
    finally:
        _trace.reset(token)
    out, saved = op.forward(*values, **options)
    for i, (a, b) in enumerate(zip(_tuple(out), right_out, strict=True)):
        if a.shape != b.shape or not np.allclose(a, b.data, rtol=1e-9, atol=1e-9):
            raise GradientError(
                f"{op.__name__}: the forward already differs. " + describe(f"result {i}", a, b.data, HIS)
            )
    seeds = tuple(rng.standard_normal(o.shape) for o in right_out)
    parts = op.backward(seeds if isinstance(out, tuple) else seeds[0], out, saved,
                        [k in floats for k in range(len(values))], *values, **options)  # fmt: skip
    said = {
        k: np.zeros_like(values[k]) if parts[k] is None else np.broadcast_to(parts[k], values[k].shape) for k in floats
    }
    pull = _Pull(tensors, floats)
    right = pull(list(right_out), seeds)
    scale = max([1e-300, *(float(np.max(np.abs(r), initial=0)) for r in right.values())])
    wrong = [k for k in floats if not np.allclose(said[k], right[k], rtol=rtol, atol=rtol * scale)]
    if not wrong:
        return
    lines = [f"{op.__name__}: the hand-written backward disagrees with the composed form"]
    lines += ["  " + describe(names[k], said[k], right[k], HIS) for k in wrong]
    if wrong != floats:
        lines.append("  right: " + ", ".join(names[k] for k in floats if k not in wrong))
    error = np.concatenate([(said[k] - right[k]).ravel() for k in floats])
    lines.append("  " + _first(tape, pull, {names[k]: tensors[k] for k in floats}, error))
    raise GradientError("\n".join(lines))


HIS = "the composed form"


def _tuple(x) -> tuple:
    return x if isinstance(x, tuple) else (x,)


@dataclass
class _Place:
    """One line of the composed form: its Tensors, one for each time it ran."""

    text: str
    order: int = 0  # when it ran last; the walk back comes to the largest first
    name: str = ""  # the variable that holds it
    tensors: list[Tensor] = field(default_factory=list)
    maps: np.ndarray | None = None  # J: a column for every number of every Tensor


class _Tape(list):
    """A trace that also sees where each node was made, and which variables hold Tensors there."""

    def __init__(self):
        super().__init__()
        self.variables: dict = {}  # key of a Tensor -> name
        self.sites: dict[int, tuple] = {}  # id of a node -> (file, line, source text)

    def append(self, node: Node) -> None:
        super().append(node)
        frame: Any = sys._getframe(1)
        while Path(frame.f_code.co_filename).name in INSIDE or "numpy" in Path(frame.f_code.co_filename).parts:
            frame = frame.f_back
        self.sites[id(node)] = _source(frame)
        while frame is not None and frame.f_code.co_filename != __file__:
            for name, value in frame.f_locals.items():
                if isinstance(value, Tensor) and value.node is not None:
                    self.variables.setdefault(_key(value), name)
            frame = frame.f_back


INSIDE = {"tensor.py", "methods.py", "rules.py", "numpy_names.py", "locate.py"}


def _source(frame) -> tuple[str, int, str]:
    file = frame.f_code.co_filename
    line, last, start, end = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    text = linecache.getline(file, line or frame.f_lineno)
    text = text.encode()[start : end if last == line else None].decode().strip() if start is not None else text.strip()
    return file, line or frame.f_lineno, text


class _Pull:
    """The gradients of all arguments that come of given gradients at Tensors of the composed tape."""

    def __init__(self, tensors, floats):
        self.leaves = {k: tensors[k] for k in floats}

    def __call__(self, roots, seeds) -> dict[int, np.ndarray]:
        found = backpropagate(roots, seeds, leaves=self.leaves.values(), retain_graph=True)
        return {k: found.get(_key(t), np.zeros_like(t.data)) for k, t in self.leaves.items()}

    def columns(self, place: _Place) -> np.ndarray:
        columns = []
        for t in place.tensors:
            for j in range(t.numel()):
                unit = np.zeros(t.numel())
                unit[j] = 1
                parts = self([t], [unit.reshape(t.shape)])
                columns.append(np.concatenate([p.ravel() for p in parts.values()]))
        return np.stack(columns, axis=1)


def _places(tape: _Tape, arguments) -> list[_Place]:
    places: dict = {name: _Place(f"what {name} receives", -1, name, [t]) for name, t in arguments.items()}
    for order, node in enumerate(tape):
        if node.needs:
            file, line, text = tape.sites[id(node)]
            name = tape.variables.get((id(node), 0), "")
            place = places.setdefault((file, line, text, node.name, str(node.kwargs), name), _Place("", name=name))
            index = node.kwargs.get("index")
            place.text = f"`{text}`, {Path(file).name}:{line}" + ("" if index is None else f", here [{_index(index)}]")
            place.order = order
            for i in range(len(_tuple(node.out))):
                place.tensors.append(_result(_tuple(node.out)[i], node, i))
    return list(places.values())


def _index(index) -> str:
    parts = index if isinstance(index, tuple) else (index,)
    ends = lambda s: ":".join("" if n is None else str(n) for n in (s.start, s.stop))
    return ", ".join(ends(i) if isinstance(i, slice) else str(i) for i in parts)


def _first(tape, pull, arguments, error) -> str:
    """The sentence on the smallest place, or pair of places, that explains the error."""
    places = _places(tape, arguments)
    if sum(t.numel() for p in places for t in p.tensors) > MOST_COLUMNS:
        raise InputError(f"locate: too many intermediate numbers (over {MOST_COLUMNS}); give it smaller arrays")
    for p in places:
        p.maps = pull.columns(p)
    fits = []
    for group in [*((p,) for p in places), *combinations(places, 2)]:
        maps = np.concatenate([p.maps for p in group], axis=1)
        mistake, _, rank, _ = np.linalg.lstsq(maps, error, rcond=1e-10)
        if rank < error.size and np.linalg.norm(maps @ mistake - error) <= 1e-6 * np.linalg.norm(error):
            fits.append((rank + len(group) - 1, -sum(p.order for p in group), group, mistake))
    if not fits:
        return "no mistake at one or two intermediates explains all of it: look at the arguments above"
    least = min(rank for rank, *_ in fits)
    best = sorted((f for f in fits if f[0] == least), key=lambda f: (len(f[2]), f[1]))
    alike = best[:2] if len(best[0][2]) == 1 else best[:1]  # of y = exp(x), a mistake at y and one at x look the same
    said = [" and ".join(_named(p) for p in group) for _, _, group, _ in alike if len(group) == len(best[0][2])]
    return "wrong first: " + ", or ".join(said) + _step(best[0][2], best[0][3]) + "; a mistake there explains all of it"


def _named(place: _Place) -> str:
    return place.text if place.order < 0 else (f"dL/d({place.name}) at " if place.name else "at ") + place.text


def _step(group, mistake) -> str:
    """At which of its runs each place is wrong: the last of them is where the walk back meets it first."""
    runs, start = set(), 0
    for place in group:
        for number, t in enumerate(place.tensors):
            if np.max(np.abs(mistake[start : start + t.numel()]), initial=0) > 1e-6 * np.max(np.abs(mistake)):
                runs.add(number)
            start += t.numel()
    count = max(len(p.tensors) for p in group)
    if count == 1 or not runs:
        return ""
    return f", first at step {max(runs)} of 0..{count - 1}" + (
        "" if len(runs) == 1 else f", and at {len(runs) - 1} more"
    )
