"""The errors minidl raises on purpose: each says what happened, with the numbers that clash, and what to do."""

from __future__ import annotations


class MinidlError(Exception):
    """Base of every error below; the command line prints its text and ends with exit status 2."""


class ShapeError(MinidlError, ValueError):
    """Two shapes do not fit; the text holds both."""


class UnsupportedOp(MinidlError, TypeError):
    """An operation that minidl does not record; it refuses by name instead of cutting the graph silently."""


class GraphError(MinidlError, RuntimeError):
    """A backward pass was asked of a graph that cannot give it (freed, not scalar, or recorded under no_grad)."""


class DataError(MinidlError, OSError):
    """A data file is missing or damaged; the text names it and, if damaged, both checksums."""


class MissingExtra(MinidlError, ImportError):
    """Something optional is not installed; the text holds the pip line that installs it."""


class InputError(MinidlError, ValueError):
    """A name, number or option that was passed in cannot be used; the text says which are possible."""


class CommError(MinidlError, RuntimeError):
    """Ranks do not fit together: a wrong mpirun, a damaged message, a dead rank."""


class CompactError(MinidlError, ValueError):
    """A network cannot be compacted exactly; the text says which unit and why. The model is untouched."""
