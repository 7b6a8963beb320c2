"""use: a function of your own takes the place of a registered one, with its time beside the others'.

    def mine(g, out, cols, needs, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
        ...
        return dx, dweight, dbias

    with minidl.use(conv2d_backward=mine) as report:
        loss.backward()                  # every conv2d of any model goes back through `mine`
    print(report)

What can be replaced: forward and backward of every Op (see tensor.Op for what they take and return), and every kernel
marked with @twin, such as lstm_cell; `minidl.use()` without arguments refuses and lists them. The replacement holds in
this context: not in other threads, not after the block, and not inside the function itself, which may call the
registered one. Under backend.form("composed") no kernel runs, and so no replacement either.

The first call with new shapes runs the NumPy form, Numba's, and PyTorch's where it is simple to call, on copies of the
same arguments: this is what the result is held against, and where the times come from.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import backend
from minidl.errors import InputError, ShapeError
from minidl.tensor import Op

_REPEATS = 3  # of the registered forms, of which the best counts; the first call of Numba compiles


@dataclass
class Row:
    """One function at one set of shapes: calls, best milliseconds of each form, and max |difference| from NumPy's."""

    name: str
    shapes: str
    calls: int = 0
    ms: dict[str, float] = field(default_factory=dict)
    difference: float = 0.0
    expected: list = field(default_factory=list, repr=False)  # (shape, dtype) of each result, None where none is needed
    several: bool = False  # whether the registered forward gives a tuple of results


class Report:
    """What `use` saw: iterate over its rows, one per function and set of shapes, or print() it."""

    def __init__(self, names):
        self.names = list(names)
        self.rows: dict[Any, Row] = {}
        self.notes: set[str] = set()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def calls(self, name: str) -> int:
        """How often the function that took this name's place was called."""
        return sum(row.calls for row in self if row.name == name)

    def __str__(self) -> str:
        forms = ["yours", "NumPy", "Numba", "PyTorch"]
        table = [["function", "shapes", "calls", *(f"{form} ms" for form in forms), "max |difference|"]]
        for row in self:
            times = [f"{row.ms[form]:.3f}" if form in row.ms else "-" for form in forms]
            table.append([row.name, row.shapes, str(row.calls), *times, f"{row.difference:.1e}"])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
        unseen = [
            f"{name} was never called; another form may do without it: see backend.form('numpy')"
            for name in self.names
            if not self.calls(name)
        ]
        return "\n".join([*(lines if self.rows else []), *unseen, *sorted(self.notes)])

    __repr__ = __str__


@contextmanager
def use(**functions: Callable):
    """Let each function take the place of the registered one of that name inside the block; yields a Report.

    Raises InputError for an unknown name and lists the known ones; ShapeError, with both shapes, if a result has not
    the shape and dtype of the registered form's. A forward may return its result alone, without what it saves for
    backward: that is then taken from the NumPy form, outside the time.
    """
    known = replaceable()
    unknown = sorted(functions.keys() - known.keys())
    if unknown or not functions:
        what = f"no function is called {', '.join(unknown)}" if unknown else "nothing was given"
        raise InputError(f"use: {what}; the names are {', '.join(sorted(known))}")
    report = Report(functions)
    outer = backend.replacements.get() or {}
    inner = {name: functools.partial(_call, report, name, *known[name], mine) for name, mine in functions.items()}
    token = backend.replacements.set({**outer, **inner})
    try:
        yield report
    finally:
        backend.replacements.reset(token)


def replaceable() -> dict[str, tuple[str, Callable]]:
    """{name: (kind, registered function)} of all that `use` can replace; kind: "forward", "backward" or "kernel"."""
    import minidl.layers  # noqa: F401  # its files register their ops and kernels

    found = {name: ("kernel", function) for name, function in backend.twins.items()}
    rooms = [m for name, m in list(sys.modules.items()) if m and name.partition(".")[0] in ("minidl", "__main__")]
    for op in {id(v): v for room in rooms for v in list(vars(room).values()) if isinstance(v, Op)}.values():
        for part in ("forward", "backward"):
            name = f"{op.__name__}_{part}"
            door = backend.door(name, getattr(op, part))
            setattr(op, part, door)  # stays there, and costs one look where nothing is replaced
            found[name] = part, door.registered
    return found


def _call(report: Report, name: str, kind: str, registered: Callable, mine: Callable, *args, **kwargs):
    """One call of a function that took another's place."""
    token = backend.replacements.set(None)  # whatever it calls itself is the registered form
    try:
        key = name, _signature(args), _signature(sorted(kwargs.items()))
        row, theirs = report.rows.get(key), None
        if row is None:
            shown = (args[0], *args[4:]) if kind == "backward" else args  # not what forward gave and saved
            row = report.rows[key] = Row(name, " ".join(str(s).replace(" ", "") for s in _shapes(shown)))
            theirs = _measure(report, row, kind, registered, args, kwargs)
        begin = time.perf_counter()
        result = mine(*args, **kwargs)
        row.ms["yours"] = min(1000 * (time.perf_counter() - begin), row.ms.get("yours", float("inf")))
        row.calls += 1
        if kind == "forward":
            pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], tuple) == row.several
            if not pair:
                result = result, registered(*args, **kwargs)[1]
        got = _results(kind, result, args)
        _check(row, got, args[4:] if kind == "backward" else ())
        if theirs is not None:
            row.difference = max(map(_difference, got, theirs), default=0.0)
        return result
    finally:
        backend.replacements.reset(token)


def _measure(report: Report, row: Row, kind: str, registered: Callable, args, kwargs) -> list:
    """Run the registered forms on copies of the arguments, note their times, return the NumPy form's results."""
    with backend.form("numpy"):
        row.ms["NumPy"], result = _timed(registered, args, kwargs)
    row.several = kind == "forward" and isinstance(result[0], tuple)
    before = _numba_calls()
    with backend.form("auto"):
        milliseconds, _ = _timed(registered, args, kwargs)
    if _numba_calls() > before:
        row.ms["Numba"] = milliseconds
    else:
        report.notes.add(f"Numba's time is left out where it has no form for these arguments: {row.name} {row.shapes}")
    _pytorch(report, row, kind, args, kwargs)
    results = _results(kind, result, args)
    row.expected = [None if r is None else (r.shape, r.dtype) for r in results]
    return results


def _timed(function: Callable, args, kwargs):
    """(best milliseconds, result)."""
    best, result = float("inf"), None
    for _ in range(_REPEATS):
        given = _copy(args)
        begin = time.perf_counter()
        result = function(*given, **kwargs)
        best = min(best, 1000 * (time.perf_counter() - begin))
    return best, result


def _numba_calls() -> int:
    return sum(count for (_, form), count in backend.calls.items() if form == "numba")


_TORCH: dict[str, Callable] = {
    "conv2d": lambda F, x, weight, bias=None, **options: F.conv2d(x, weight, bias, **options),
    "linear": lambda F, x, weight, bias=None: F.linear(x, weight, bias),
    "max_pool2d": lambda F, x, *, kernel, **options: F.max_pool2d(x, kernel, **options),
}


def _pytorch(report: Report, row: Row, kind: str, args, kwargs) -> None:
    """Note PyTorch's time where the op is one of its functions under the same arguments."""
    call = _TORCH.get(row.name.removesuffix("_" + kind))
    if call is None:
        report.notes.add(f"PyTorch's time is left out for {row.name}: it has no function with the same arguments")
        return
    if importlib.util.find_spec("torch") is None:
        report.notes.add("PyTorch's time is left out: it is not installed")
        return
    import torch

    needs, arrays = (args[3], args[4:]) if kind == "backward" else ([False] * len(args), args)
    tensors = [a if a is None else torch.from_numpy(a.copy()).requires_grad_(n) for a, n in zip(arrays, needs)]  # noqa: B905
    if kind == "forward":
        with torch.no_grad():
            row.ms["PyTorch"], _ = _timed(lambda: call(torch.nn.functional, *tensors, **kwargs), (), {})
    elif any(needs):
        out, wanted = (
            call(torch.nn.functional, *tensors, **kwargs),
            [t for t in tensors if t is not None and t.requires_grad],
        )
        g = torch.from_numpy(args[0].copy())
        row.ms["PyTorch"], _ = _timed(lambda: torch.autograd.grad(out, wanted, g, retain_graph=True), (), {})
    report.notes.add(f"PyTorch ran with {torch.get_num_threads()} threads")


def _results(kind: str, result, args) -> list[np.ndarray | None]:
    """The arrays that a call hands on: a forward's without what it saves; a backward's where they are needed."""
    if kind == "forward":
        result = result[0]
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    if kind == "backward":
        needs = args[3]
        parts = [p if n else None for p, n in zip([*parts, *[None] * len(needs)], needs)]  # noqa: B905
    return [None if p is None else np.asarray(p) for p in parts]


def _check(row: Row, got: list, arguments) -> None:
    """Refuse results that are not shaped and typed like the registered form's, or like the arguments themselves."""
    if len(got) != len(row.expected):
        raise ShapeError(f"{row.name}: your function gave {len(got)} results, the registered form {len(row.expected)}")
    for k, (mine, theirs) in enumerate(zip(got, row.expected, strict=True)):
        if theirs is None or (mine is not None and (mine.shape, mine.dtype) == theirs):
            continue
        argument = arguments[k] if k < len(arguments) else None
        if mine is not None and argument is not None and (mine.shape, mine.dtype) == (argument.shape, argument.dtype):
            continue  # a rule may leave it to the tape to add over broadcast axes
        what = "None" if mine is None else f"of shape {mine.shape} and dtype {mine.dtype}"
        raise ShapeError(
            f"{row.name}: result {k} of your function is {what}; the registered form's has shape {theirs[0]} and dtype "
            f"{theirs[1]}"
        )


def _difference(mine, theirs) -> float:
    if mine is None or theirs is None or not theirs.size or mine.shape != theirs.shape:
        return 0.0
    return float(np.max(np.abs(mine.astype(np.float64) - theirs.astype(np.float64))))


def _signature(value):
    """What decides the shapes of the results: the shapes and types of arrays, the values of options."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_signature, value))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str
    return value if value is None or isinstance(value, (bool, int, str)) else type(value).__name__


def _shapes(args) -> Iterator[tuple]:
    for a in args:
        if isinstance(a, np.ndarray):
            yield a.shape
        elif isinstance(a, tuple):
            yield from _shapes(a)


def _copy(value):
    if isinstance(value, tuple):
        return tuple(map(_copy, value))
    return value.copy() if isinstance(value, np.ndarray) else value
