"""Nothing public is unproved: each function has a specification, stored PyTorch values, and cases with small axes."""

from __future__ import annotations

import functools
import types

import pytest
from golden_cases import CASES as FIRST_CASES
from golden_layers import CASES as LAYER_CASES
from specs import FUNCTIONS, METHODS, RULES

from minidl import Tensor, backend, functional, rules, trace
from minidl.methods import Methods
from minidl.tensor import Op

CASES = FIRST_CASES | LAYER_CASES

# questions about a Tensor, other names, and doors to what is proved elsewhere
NOT_DIFFERENTIATED = {"eq", "ne", "lt", "le", "gt", "ge", "argmax", "argmin", "long"}
ONE_LINE = {  # a NumPy function under another name: compared with it in test_methods.py, its derivative is in RULES
    "view_as", "expand_as", "contiguous", "float", "double", "swapaxes", "matmul", "reshape", "view", "transpose",
    "permute", "squeeze", "unsqueeze", "flip", "roll", "sum", "mean", "amax", "amin", "logsumexp", "cumsum", "clip",
}  # fmt: skip
NO_PYTORCH_NAME = {rules.scatter, rules.scatter_along, rules.astype}  # the transposes of gather and indexing; a cast


def public(names):
    return {name for name in names if not name.startswith("_")}


def elementwise_names():
    """Methods made of a NumPy function alone: they are all in test_methods.NAMES and PAIRS, their rules in RULES."""
    return {name for name, f in vars(Methods).items() if getattr(f, "__name__", "") == "method"}


def said(code) -> set[str]:
    """Every name and string that a case's code mentions."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}.union(*map(said, inner))


def cells(function):
    return getattr(function, "__closure__", None) or ()


def mentioned() -> set[str]:
    names = set()
    for case in CASES.values():
        parts = [f for f in (case.minidl, *(c.cell_contents for c in cells(case.minidl))) if callable(f)]
        for f in parts:
            if isinstance(f, types.FunctionType):
                names |= said(f.__code__) | {d for d in f.__defaults__ or () if isinstance(d, str)}
    return names


def test_every_line_of_the_table_is_specified():
    assert set(RULES) == set(rules.VJPS)


def test_every_method_is_specified():
    methods = public(vars(Methods)) - NOT_DIFFERENTIATED - ONE_LINE - elementwise_names() - {"data"}
    assert methods == set(METHODS)


def test_every_function_is_specified():
    specified = {f.__name__ for f in FUNCTIONS} | {f.__name__ for f in RULES}
    offered = {getattr(functional, name) for name in functional.__all__}
    elsewhere = {f.__name__ for f in offered if isinstance(f, Op)}  # test_forms.py demands cases of every Op
    assert {f.__name__ for f in offered} - elsewhere - specified == set()


@functools.cache
def recorded() -> frozenset:
    """Every function that the stored cases put on a tape."""
    with trace() as tape, backend.form("numpy"):
        for case in CASES.values():
            case.minidl(*[Tensor(a) if a.dtype.kind == "f" else a for a in case.inputs])
    return frozenset(node.function for node in tape)


def test_every_line_of_the_table_has_stored_pytorch_values():
    assert set(rules.VJPS) - recorded() == NO_PYTORCH_NAME - {rules.scatter_along}


def test_every_method_and_function_has_stored_pytorch_values():
    here = mentioned() | {f.__name__ for f in recorded() if isinstance(f, Op)}
    methods = public(vars(Methods)) - NOT_DIFFERENTIATED - {"float", "data"}
    assert {m for m in methods if m not in here} == set()
    assert {f for f in functional.__all__ if f not in here} == set()


@pytest.mark.parametrize("function", [*RULES, *FUNCTIONS], ids=lambda f: f.__name__)
def test_small_axes_are_among_the_cases(function):
    calls = RULES.get(function) or FUNCTIONS[function]
    shapes = [a.shape for _, *arrays in calls for a in arrays]
    joined = function.__name__ in ("cat", "stack", "where", "pad", "one_hot")  # other names of lines of the table
    assert joined or any(0 in s for s in shapes), "no case with an empty axis"
    assert joined or any(1 in s for s in shapes), "no case with an axis of size 1"


def test_the_specification_is_not_empty():
    assert sum(map(len, [*RULES.values(), *METHODS.values(), *FUNCTIONS.values()])) > 200
