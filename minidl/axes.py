"""Axis rules: which indices of a function's arguments and result belong together.

Give every index of every axis an id. A rule says what a function does with the ids: `x + y` makes index k of x and
index k of y one thing; a matrix product gives its rows the ids of x and its columns those of y, and sums over the axis
between them. What ends up with one id all through a network can be taken out of it as one *unit* (sparsity/units.py).

    rule(u, shape, *args, **kwargs) -> ids of the result

Each array argument comes as a tuple with one int64 array of ids per axis; other arguments come as they are. `shape` is
the result's shape, and so is the answer: a tuple with one array of ids per axis. (Ops carry their rule as `Op.axes`.)
`u` offers:

    u.unite(a, b)       index i of a and index i of b are one thing
    u.pinned(n)         n ids of indices that cannot be taken out;  u.pin(a): neither can these
    u.fresh(n)          n ids of their own
    u.reads(w, i, x, j, fold=None)
                        unites axis i of w with axis j of x, and says that the function sums over them: where a slice of
                        w is 0, that index of x is not read. fold: an argument that is added to the result along axis 0
                        of w, so that it can take over w times a constant part of x. Where the axis of x is longer (the
                        groups of a convolution), it repeats the ids of w's.

A function without a rule pins all it touches: safe, whatever it does.
"""

from __future__ import annotations

import numpy as np

from minidl import rules


def elementwise(u, shape, *args, **kwargs):
    """Indices that meet in one element belong together; one index spread over many cannot be taken out."""
    out = []
    for axis in range(-len(shape), 0):
        meeting = [a[axis] for a in args if isinstance(a, tuple) and len(a) >= -axis]
        full = [ids for ids in meeting if len(ids) == shape[axis]] or [u.pinned(shape[axis])]
        for ids in meeting:
            u.unite(full[0], ids) if len(ids) == shape[axis] else u.pin(ids)
        out.append(full[0])
    return tuple(out)


def matmul(u, shape, x, y):
    """(..., n, k) @ (..., k, m): the sum runs over k; a 1-D argument has no n or no m."""
    u.reads(y, -1 if len(y) == 1 else -2, x, -1)
    rows, columns = x[-2:-1], y[-1:] if len(y) > 1 else ()
    stacked = shape[: len(shape) - len(rows) - len(columns)]
    return (*elementwise(u, stacked, x[:-2], y[:-2]), *rows, *columns)


def reshape(u, shape, x, *args, **kwargs):
    """Axes that stay keep their ids; axes that are merged repeat the ids of the only one of them that is not pinned.

    Both shapes are cut into the smallest runs of axes with equal products. An axis that is split is pinned.
    """
    out = [u.pinned(n) for n in shape]
    for ids in x:
        if len(ids) == 1:
            u.pin(ids)
    source, target = [ids for ids in x if len(ids) != 1], [k for k, n in enumerate(shape) if n != 1]
    if 0 in shape:
        return _pin_all(u, shape, *x)
    while source:
        run, axes = [source.pop(0)], [target.pop(0)]
        m, n = len(run[0]), shape[axes[0]]
        while m != n:
            if m < n:
                run.append(source.pop(0))
                m *= len(run[-1])
            else:
                axes.append(target.pop(0))
                n *= shape[axes[-1]]
        free = [k for k, ids in enumerate(run) if ids.any()]
        if len(axes) == 1 and len(free) == 1:
            k = free[0]
            lengths = [len(ids) for ids in run]
            spread = run[k].reshape([-1 if i == k else 1 for i in range(len(run))])
            out[axes[0]] = np.broadcast_to(spread, lengths).ravel()
        else:
            for ids in run:
                u.pin(ids)
    return tuple(out)


def transpose(u, shape, x, axes=None):
    """The ids move with their axes."""
    return tuple(x[a] for a in (axes if axes is not None else reversed(range(len(x)))))


def swapaxes(u, shape, x, a, b):
    """The ids move with their axes."""
    order = list(range(len(x)))
    order[a], order[b] = order[b], order[a]
    return tuple(x[k] for k in order)


def getitem(u, shape, x, index=None):
    """A slice takes part of the ids; integers pick indices by their place, so none of that axis may move."""
    items = list(index) if isinstance(index, tuple) else [index]
    plain = (slice, int, np.integer, type(None), type(Ellipsis))
    lists = [isinstance(i, np.ndarray) and i.dtype.kind in "iu" for i in items]
    picks = sum(lists) + sum(isinstance(i, (int, np.integer)) for i in items)
    strange = any(isinstance(i, bool) or not (a or isinstance(i, plain)) for i, a in zip(items, lists, strict=True))
    if strange or (any(lists) and picks > 1):  # two lists of places are walked together
        return _pin_all(u, shape, *x)
    for k in [k for k, i in enumerate(items) if i is Ellipsis]:
        items[k : k + 1] = [slice(None)] * (len(x) - sum(i is not None and i is not Ellipsis for i in items))
    axes, out = iter(x), []
    for item in items:
        if item is None:
            out.append(u.pinned(1))
        elif isinstance(item, slice):
            out.append(next(axes)[item])
        else:
            u.pin(next(axes))
            out += [u.pinned(n) for n in np.shape(item)]
    return (*out, *axes)


def concatenate(u, shape, *xs, axis=0):
    """The joined axis has the ids of all, one after the other; on every other axis the arguments meet."""
    others = elementwise(u, [n if k != axis % len(shape) else 0 for k, n in enumerate(shape)], *map(_without(axis), xs))
    joined = np.concatenate([x[axis] for x in xs])
    return tuple(joined if k == axis % len(shape) else ids for k, ids in enumerate(others))


def _without(axis):  # the ids with the joined axis emptied, so that the other axes can be treated as elementwise
    return lambda x: tuple(ids[:0] if k == axis % len(x) else ids for k, ids in enumerate(x))


def stack(u, shape, *xs, axis=0):
    """The new axis counts arguments, so it is pinned; on every other axis they meet."""
    k = axis % len(shape)
    others = elementwise(u, shape[:k] + shape[k + 1 :], *xs)
    return (*others[:k], u.pinned(shape[k]), *others[k:])


def reduction(u, shape, x, axis=None, keepdims=False):
    """A sum over an axis needs every index of it."""
    over = set(range(len(x))) if axis is None else {int(a) % len(x) for a in np.atleast_1d(axis)}
    out = []
    for k, ids in enumerate(x):
        if k not in over:
            out.append(ids)
            continue
        u.pin(ids)
        if keepdims:
            out.append(u.pinned(1))
    return tuple(out)


def pad(u, shape, x, width):
    """An axis that is padded grows by zeros, which can be made at any length: as removable as the axis itself."""
    out = []
    for ids, n, (before, _) in zip(x, shape, np.broadcast_to(width, (len(x), 2)).tolist(), strict=True):
        zeros = u.fresh if ids.any() else u.pinned
        out.append(np.concatenate([zeros(before), ids, zeros(n - before - len(ids))]) if len(ids) != n else ids)
    return tuple(out)


def _pin_all(u, shape, /, *args, **kwargs):
    for ids in args:
        for a in ids if isinstance(ids, tuple) else (ids,):
            if isinstance(a, np.ndarray):
                u.pin(a)
    several = bool(shape) and isinstance(shape[0], tuple)
    return tuple(tuple(u.pinned(n) for n in s) for s in shape) if several else tuple(u.pinned(n) for n in shape)


AXES = (
    {f: elementwise for f in rules.VJPS if isinstance(f, np.ufunc) and f.signature is None}
    | {
        rules.sigmoid: elementwise,
        rules.relu: elementwise,
        rules.erf: elementwise,
        rules.astype: elementwise,
        rules.clip: elementwise,
        np.where: elementwise,
        np.broadcast_to: lambda u, shape, x, _: elementwise(u, shape, x),
        np.matmul: matmul,
        np.reshape: reshape,
        np.expand_dims: reshape,
        np.squeeze: reshape,
        np.transpose: transpose,
        np.swapaxes: swapaxes,
        rules.getitem: getitem,
        rules.concatenate: concatenate,
        rules.stack: stack,
        np.sum: reduction,
        np.mean: reduction,
        np.max: reduction,
        np.min: reduction,
        rules.logsumexp: lambda u, shape, x, axis=-1, keepdims=False: reduction(u, shape, x, axis, keepdims),
        rules.norm: reduction,
        rules.product: lambda u, shape, x, axis=0, keepdims=False: reduction(u, shape, x, axis, keepdims),
        np.pad: pad,
    }
    | dict.fromkeys(  # indices change places or meet all others: none can go
        (np.flip, np.roll, np.cumsum, rules.gather, rules.scatter_along, rules.einsum), _pin_all
    )
)
"""function of rules.py -> its axis rule. NumPy's own elementwise functions are those without a core signature."""


def axis_rule(function):
    """The axis rule of a function or Op; of one that has none, the rule that pins everything."""
    return getattr(function, "axes", None) or AXES.get(function, _pin_all)
