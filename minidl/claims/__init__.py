"""The claims of the talk, each in one file that can be run, with a control that must fail.

A claim is a module of this package with a module-level `CLAIM` (see `minidl.claims.claim`). Adding a file adds a claim:
nothing else has to be told. `minidl reproduce --list` prints them, `minidl reproduce NAME` runs one. The whole folder
can be deleted; the rest of the package does not know of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidl.claims.claim import Claim

HEADLINE = ("ssl-lenet", "iss-lm", "terngrad-lenet", "smoothout-f1")
"""What `minidl reproduce` runs when no claim is named: one for each method of the talk."""

_MACHINERY = {"claim", "report", "run"}


def discover() -> tuple[dict[str, Claim], dict[str, Exception]]:
    """Every claim by name, headline claims first, and the error of every file that cannot be imported here.

    A claim whose file does not import is known by its file's name (ssl_lenet.py is ssl-lenet), so that one missing
    package does not hide the other claims.
    """
    found: dict[str, Claim] = {}
    failed: dict[str, Exception] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _MACHINERY):
        try:
            claim = getattr(importlib.import_module(f"{__name__}.{module}"), "CLAIM", None)
        except Exception as error:  # whatever is wrong with one file, the others can still be listed and run
            failed[module.replace("_", "-")] = error
            continue
        if claim is not None:
            found[claim.name] = claim
    headline_first = sorted(found, key=lambda name: (HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), name))
    return {name: found[name] for name in headline_first}, failed
