"""The one door to fast/: run a function's Numba twin where it is there and wanted, else its NumPy form.

Every kernel is written first in readable NumPy and marked with `@twin`. If `minidl/fast/<same file name>.py` holds a
function of the same name, that one runs instead, with the same arguments and the same meaning:

    @twin
    def pack_base(sums, own=1): ...       # minidl/ternary/pack.py: the oracle
                                          # minidl/fast/pack.py: def pack_base(sums, own=1), the speed

A twin returns NotImplemented for arguments it does not handle (another dtype, an odd stride); the NumPy form then runs.
The choice is a context variable, so that ranks simulated in threads do not disturb each other:

    with backend.form("numpy"): ...       # "auto" (default) | "numpy" | "numba" (or an error) | "composed" (small ops)

Somebody's own function may take the place of a kernel, too: see use.py.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from minidl.errors import InputError, MissingExtra

FORMS = ("auto", "numpy", "numba", "composed")
_default = os.environ.get("MINIDL_FORM") or "auto"
if _default not in FORMS:
    raise InputError(f"the environment variable MINIDL_FORM is {_default!r}; it is one of {', '.join(FORMS)}")
_form: ContextVar[str] = ContextVar("minidl_form", default=_default)

replacements: ContextVar[Mapping[str, Callable] | None] = ContextVar("minidl_replacements", default=None)
"""{name: function that takes the place of the registered one}, set by `minidl.use`."""

twins: dict[str, Callable] = {}
"""Every function marked with @twin, by name."""

calls: Counter[tuple[str, str]] = Counter()
"""How often each form ran: (function name, "numpy" | "numba" | "composed") -> calls. For tests and benchmarks."""


@contextmanager
def form(name: str):
    """Choose the form of every kernel inside the block: "auto", "numpy", "numba" or "composed"."""
    if name not in FORMS:
        raise InputError(f"form {name!r} is not one of {', '.join(FORMS)}")
    token = _form.set(name)
    try:
        yield
    finally:
        _form.reset(token)


def current_form() -> str:
    return _form.get()


@functools.cache
def _fast_module(name: str):
    """minidl/fast/<name>.py, or None where it or Numba is missing. Imported at the first call: Numba costs 0.5 s."""
    try:
        return importlib.import_module(f"minidl.fast.{name}")
    except ImportError:
        return None


def twin(numpy_form):
    """Let minidl/fast/<this module's file name>.py answer for a NumPy function (see the module's docstring)."""
    name, room = numpy_form.__name__, numpy_form.__module__.rpartition(".")[2]

    @functools.wraps(numpy_form)
    def dispatch(*args, **kwargs):
        if (own := replacements.get()) is not None and name in own:
            return own[name](*args, **kwargs)
        wanted = _form.get()
        if wanted in ("auto", "numba"):
            fast = getattr(_fast_module(room), name, None)
            if fast is not None:
                result = fast(*args, **kwargs)
                if result is not NotImplemented:
                    calls[name, "numba"] += 1
                    return result
            elif wanted == "numba":
                raise MissingExtra(
                    f"{name} has no Numba form here: pip install 'minidl[jit]', or use backend.form('auto')"
                )
        calls[name, "numpy"] += 1
        return numpy_form(*args, **kwargs)

    dispatch.numpy = numpy_form  # the oracle, whatever form is chosen
    twins[name] = dispatch
    return dispatch


def door(name: str, registered: Callable):
    """The same function, except where `use` has put another in its place."""
    if hasattr(registered, "registered"):
        return registered

    @functools.wraps(registered)
    def enter(*args, **kwargs):
        return (replacements.get() or {}).get(name, registered)(*args, **kwargs)

    enter.registered = registered  # type: ignore[attr-defined]
    return enter
