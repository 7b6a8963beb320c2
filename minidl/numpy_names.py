"""NumPy's names: how `np.f(tensor, ...)` is said where f is not a line of the table itself.

    np.split(t, 2)  is  t.split(size) with NumPy's meaning of 2: two parts

Each entry takes NumPy's arguments, by NumPy's names, as far as they are supported; `signature` tells Tensor which those
are, so that an argument that is not understood is refused instead of ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from minidl import rules
from minidl.errors import ShapeError, UnsupportedOp


def _parts(x, parts, axis=0):  # np.split: a number of equal parts, or the positions between them
    if np.ndim(parts) == 0 and x.shape[axis] % parts:
        raise ShapeError(f"np.split: axis {axis} has {x.shape[axis]} elements, not a multiple of {parts}")
    ends = np.cumsum([x.shape[axis] // parts] * parts)[:-1] if np.ndim(parts) == 0 else np.asarray(parts)
    return list(x.split(np.diff([0, *ends, x.shape[axis]]).tolist(), axis))


def _each(x, repeats, axis=None):  # np.repeat: every element `repeats` times, next to itself
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x[(slice(None),) * (axis % x.ndim) + (np.repeat(np.arange(x.shape[axis]), repeats),)]


def _dot(x, y):  # as a matrix product, where np.dot means the same
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    if np.ndim(y) > 2:
        raise UnsupportedOp(f"np.dot with a second argument of {np.ndim(y)} axes is not recorded; say np.einsum or @")
    return x @ y


def _moved(x, source, destination):
    to = {b % x.ndim: a % x.ndim for a, b in zip(np.atleast_1d(source), np.atleast_1d(destination), strict=True)}
    rest = iter(a for a in range(x.ndim) if a not in to.values())
    return np.transpose(x, axes=tuple(int(to[k]) if k in to else next(rest) for k in range(x.ndim)))


def _take(x, index, axis):  # NumPy's index is broadcast over the other axes
    index = np.asarray(index)
    shape = [m if k == axis % x.ndim else n for k, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))]
    return rules.gather(x, index=np.broadcast_to(index, shape), axis=axis)


def _pad(array, pad_width):  # recorded with one pair an axis, however it was said: a number, a pair, pairs, a dict
    if isinstance(pad_width, dict):
        of = {axis % array.ndim: width for axis, width in pad_width.items()}
        pad_width = [np.broadcast_to(of.get(axis, 0), 2) for axis in range(array.ndim)]
    return array.__minidl_record__(np.pad, (array, np.broadcast_to(pad_width, (array.ndim, 2)).tolist()), {})


def _norm(x, ord=None, axis=None, keepdims=False):
    if ord is not None and (ord != 2 or np.ndim(axis) or (axis is None and x.ndim != 1)):
        raise UnsupportedOp(f"np.linalg.norm with ord={ord!r} on shape {x.shape} is not recorded; see Tensor.norm(p)")
    return rules.norm(x, axis=axis, keepdims=keepdims)


OURS: dict[Callable, Callable] = {
    np.concatenate: lambda xs, axis=0: (
        rules.concatenate(*[x.reshape(-1) for x in xs]) if axis is None else rules.concatenate(*xs, axis=axis)
    ),
    np.stack: lambda xs, axis=0: rules.stack(*xs, axis=axis),
    np.vstack: lambda xs: rules.concatenate(*[x if np.ndim(x) > 1 else x.reshape(1, -1) for x in xs]),
    np.hstack: lambda xs: rules.concatenate(*xs, axis=1 if np.ndim(xs[0]) > 1 else 0),
    np.einsum: lambda text, *xs: rules.einsum(text, *xs),
    np.clip: lambda x, a_min=None, a_max=None, min=None, max=None: rules.clip(
        x, min if a_min is None else a_min, max if a_max is None else a_max
    ),
    np.dot: _dot,
    np.outer: lambda x, y: x.reshape(-1, 1) * y.reshape(1, -1),
    np.split: _parts,
    np.repeat: _each,
    np.tile: lambda x, times: x.repeat(*(1,) * (x.ndim - np.size(times)), *np.atleast_1d(times).tolist()),
    np.moveaxis: _moved,
    np.ravel: lambda x: x.reshape(-1),
    np.prod: lambda x, axis=None, keepdims=False: x.prod(axis, keepdims),
    np.take_along_axis: lambda x, index, axis: _take(x, index, axis),
    np.pad: _pad,
    np.linalg.norm: _norm,
    np.var: lambda x, axis=None, ddof=0, keepdims=False: x.var(axis, keepdim=keepdims, correction=ddof),
    np.std: lambda x, axis=None, ddof=0, keepdims=False: x.std(axis, keepdim=keepdims, correction=ddof),
    np.shape: lambda x: x.data.shape,
    np.ndim: lambda x: x.data.ndim,
    np.size: lambda x: x.data.size,
    np.zeros_like: lambda x: np.zeros_like(x.data),
    np.ones_like: lambda x: np.ones_like(x.data),
    np.argmax: lambda x, axis=None: x.data.argmax(axis),
    np.argmin: lambda x, axis=None: x.data.argmin(axis),
}


@functools.cache
def signature(function):
    """(our own way to say it, names it knows, arguments at least, positional ones at most): keepdims, ddof by name."""
    own = OURS.get(function)
    table = rules.VJPS.get(function, ())
    call = own or (None if callable(table) else next(filter(None, table), None))
    if call is None:
        return None, frozenset(), 0, None
    code = call.__code__
    names = code.co_varnames[0 if own else 2 : code.co_argcount]  # a vjp's first two are g and out
    most = 99 if code.co_flags & 4 else len(set(names) - {"keepdims", "ddof"})  # 4: it takes *args
    return own, frozenset(names), len(names) - len(call.__defaults__ or ()), most
