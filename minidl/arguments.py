"""What may be written when a kernel op is called: its options by position or by name, in PyTorch's order."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from minidl.errors import InputError


def by_position(name: str, forward: Callable, *order: str) -> Callable:
    """The function (args, given) -> arrays that sorts the arguments of one call of an op.

    After the arrays come the options, in the order of forward's signature or in the one given here; they are put into
    `given`, the call's keywords, and arrays given by name are taken from there. A last array that is None is left out.
    Raises InputError, with what can be written, for arguments that are missing, unknown, given twice or too many.
    """
    parameters = inspect.signature(forward).parameters.values()
    names = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)  # as many arrays as one likes: options by name alone
    places = [*names] if several else [*names, *(order or options)]
    least = sum(default is inspect.Parameter.empty for default in names.values())
    most = float("inf") if several else len(names)
    needed = {k for k, default in options.items() if default is inspect.Parameter.empty}

    def arrays(args, given):
        if least <= len(args) <= most and needed <= given.keys() <= options.keys() and args[-1] is not None:
            return args  # as the layers call it
        taken = dict(zip(places, args, strict=False))
        wrong = {
            "too many arguments": [str(len(args))] if len(args) > max(most, len(places)) else [],
            "given twice": [k for k in taken if k in given],
            "not known": [k for k in given if k not in {*places, *options}],
            "missing": [k for k in [*[*names][:least], *needed] if k not in taken and k not in given],
        }
        for what, which in wrong.items():
            if which:
                known = ", ".join(dict.fromkeys([*places, *options]))
                raise InputError(f"{name}: {what}: {', '.join(map(repr, which))}; its arguments are {known}")
        taken |= given
        given.clear()
        given.update((k, v) for k, v in taken.items() if k not in names)
        found = [taken.get(k, default) for k, default in names.items()] + [*args[len(names) :]] * several
        while found[-1] is None:
            found.pop()
        return found

    return arrays
