"""The derivative table: one line per argument of each function, in plain NumPy.

A rule answers one question: if `out = f(x, y)` and `g` is dL/d(out), what is dL/dx? That product of `g` with the
Jacobian is the *vector-Jacobian product*, vjp:

    np.multiply:  out = x * y      dL/dx = g * y      dL/dy = g * x

The lines use only NumPy functions that are in the table themselves. Called with arrays they compute a gradient (the
fast path); called with Tensors they record it, and the gradient can be differentiated again. Three things are kept out
of the lines, because they are the same for all: broadcasting and dtype (`fit`), accumulation (`tensor.backpropagate`).

Functions that NumPy does not have (`getitem`, `scatter`, ...) are defined here with `@primitive`, beside their rule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from minidl.backend import twin
from minidl.errors import UnsupportedOp


def fit(g, x):
    """Sum g over the axes along which x was broadcast, and give it x's dtype: once, for every rule below."""
    if g.shape != x.shape:
        extra = g.ndim - x.ndim
        stretched = tuple(i + extra for i, n in enumerate(x.shape) if n == 1 and g.shape[i + extra] != 1)
        g = np.reshape(np.sum(g, axis=tuple(range(extra)) + stretched), x.shape)
    return g if g.dtype == x.dtype else g.astype(x.dtype)


def promote(function, args):
    """PyTorch's dtypes: integers, and floats without axes, take the dtype of the floats that have axes.

    NumPy makes float64 of float32 * int64. Its functions do as the operators here: array * t is np.multiply(array, t).
    """
    arrays = [a for a in args if hasattr(a, "ndim") and not isinstance(a, np.generic)]
    floats = [a for a in arrays if a.dtype.kind == "f"]
    dtypes = {a.dtype for a in floats if a.ndim} or {a.dtype for a in floats}
    if not dtypes and (function is np.divide or any(isinstance(a, (float, np.floating)) for a in args)):
        dtypes = {np.dtype(np.float32)}  # no float but a number: PyTorch's default
    if not dtypes or {a.dtype for a in arrays} == dtypes:
        return args
    to, other = np.result_type(*dtypes), lambda a: a.dtype.kind in "iu" or (a.dtype.kind == "f" and not a.ndim)
    return tuple(a.astype(to) if hasattr(a, "ndim") and other(a) else a for a in args)


VJPS: dict[Callable, tuple[Callable | None, ...] | Callable] = {}
"""function -> one vjp per array argument; or, for any number of arguments, one callable (argument number, g, ...)."""

FORMULA: dict[Callable, str] = {}
"""function -> its formula as text, for explain."""


def rule(function: Callable, formula: str, *vjps: Callable | None) -> None:
    """Enter one line: None stands for an argument without a derivative (a condition, an index)."""
    VJPS[function], FORMULA[function] = vjps, formula


def primitive(function: Callable) -> Callable:
    """Let a plain NumPy function of ours accept Tensors too, as NumPy's own functions do by their protocols."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        for a in args:
            if hasattr(a, "__minidl_record__"):
                return a.__minidl_record__(call, args, kwargs)
        return function(*args, **kwargs)

    call.plain = function  # type: ignore[attr-defined]
    return call


_LN2, _LN10 = math.log(2), math.log(10)


# -- elementwise, one argument ---------------------------------------------------------------------------------------
rule(np.negative, "-x", lambda g, out, x: -g)
rule(np.positive, "x", lambda g, out, x: g)
rule(np.exp, "exp(x)", lambda g, out, x: g * out)
rule(np.log, "log(x)", lambda g, out, x: g / x)
rule(np.log1p, "log(1 + x)", lambda g, out, x: g / (1 + x))
rule(np.sqrt, "sqrt(x)", lambda g, out, x: g / (2 * out))
rule(np.square, "x^2", lambda g, out, x: g * (2 * x))
rule(np.sin, "sin(x)", lambda g, out, x: g * np.cos(x))
rule(np.cos, "cos(x)", lambda g, out, x: g * -np.sin(x))
rule(np.tanh, "tanh(x)", lambda g, out, x: g * (1 - out * out))
rule(np.absolute, "|x|", lambda g, out, x: g * np.sign(x))
rule(np.exp2, "2^x", lambda g, out, x: g * (out * _LN2))
rule(np.expm1, "exp(x) - 1", lambda g, out, x: g * (out + 1))
rule(np.log2, "log2(x)", lambda g, out, x: g / (x * _LN2))
rule(np.log10, "log10(x)", lambda g, out, x: g / (x * _LN10))
rule(np.reciprocal, "1 / x", lambda g, out, x: g * -(out * out))
rule(np.tan, "tan(x)", lambda g, out, x: g * (1 + out * out))
rule(np.arcsin, "arcsin(x)", lambda g, out, x: g / np.sqrt(1 - x * x))
rule(np.arccos, "arccos(x)", lambda g, out, x: g / -np.sqrt(1 - x * x))
rule(np.arctan, "arctan(x)", lambda g, out, x: g / (1 + x * x))
rule(np.sinh, "sinh(x)", lambda g, out, x: g * np.cosh(x))
rule(np.cosh, "cosh(x)", lambda g, out, x: g * np.sinh(x))
rule(np.arcsinh, "arcsinh(x)", lambda g, out, x: g / np.sqrt(x * x + 1))
rule(np.arccosh, "arccosh(x)", lambda g, out, x: g / np.sqrt(x * x - 1))
rule(np.arctanh, "arctanh(x)", lambda g, out, x: g / (1 - x * x))
for _step in (np.sign, np.floor, np.ceil, np.trunc, np.rint):
    rule(_step, f"{_step.__name__}(x): a step, its derivative 0", lambda g, out, x: g * 0)


@primitive
def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh so that no exponential overflows."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


@primitive
@twin
def relu(x):
    """max(x, 0); the derivative at 0 is 0, as in PyTorch."""
    return np.maximum(x, 0)


@twin
def relu_gradient(g, x):
    """g where x is above 0. Arrays, or Tensors, which have no twin."""
    return g * (x > 0)


rule(sigmoid, "1 / (1 + exp(-x))", lambda g, out, x: g * (out * (1 - out)))
rule(relu, "max(x, 0)", lambda g, out, x: relu_gradient(g, x))

_math_erf = np.frompyfunc(math.erf, 1, 1)


@primitive
def erf(x):
    """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x, by the C library, element by element."""
    return np.asarray(_math_erf(x), np.asarray(x).dtype)  # frompyfunc gives Python objects


rule(erf, "erf(x)", lambda g, out, x: g * np.exp(-x * x) * (2 / math.sqrt(math.pi)))


@primitive
def clip(x, low=None, high=None):
    """np.clip(x, low, high)."""
    return np.clip(x, low, high)


rule(
    clip, "x between low and high",
    lambda g, out, x, low=None, high=None: g * (x == out),  # at a bound the gradient passes, as in PyTorch
    lambda g, out, x, low=None, high=None: g * ((x < low) & (out == low)),
    lambda g, out, x, low=None, high=None: g * ((x > high) & (out == high)),
)  # fmt: skip


@primitive
def astype(x, dtype=None):
    """x in another float type."""
    return x.astype(dtype)


rule(astype, "x in another float type", lambda g, out, x, dtype=None: g)  # fit() gives g the type of x

# -- elementwise, two arguments --------------------------------------------------------------------------------------
rule(np.add, "x + y", lambda g, out, x, y: g, lambda g, out, x, y: g)
rule(np.subtract, "x - y", lambda g, out, x, y: g, lambda g, out, x, y: -g)
rule(np.multiply, "x * y", lambda g, out, x, y: g * y, lambda g, out, x, y: g * x)
rule(np.divide, "x / y", lambda g, out, x, y: g / y, lambda g, out, x, y: -g * out / y)
rule(
    np.power, "x^y",
    lambda g, out, x, y: g * y * np.power(x, y - 1),
    lambda g, out, x, y: g * out * np.log(np.where(x > 0, x, 1.0)),  # 0^y does not change with y > 0
)  # fmt: skip


def _share(x, y, out):  # max and min split the gradient evenly between equals, as PyTorch does
    return (x == out) / ((x == out).astype(out.dtype) + (y == out))


rule(np.maximum, "max(x, y)", lambda g, out, x, y: g * _share(x, y, out), lambda g, out, x, y: g * _share(y, x, out))
rule(np.minimum, "min(x, y)", lambda g, out, x, y: g * _share(x, y, out), lambda g, out, x, y: g * _share(y, x, out))
rule(
    np.logaddexp, "log(exp(x) + exp(y))",
    lambda g, out, x, y: g * np.exp(x - out), lambda g, out, x, y: g * np.exp(y - out),
)  # fmt: skip
rule(
    np.arctan2, "angle of (y, x)",
    lambda g, out, y, x: g * x / (x * x + y * y), lambda g, out, y, x: g * -y / (x * x + y * y),
)  # fmt: skip
rule(
    np.where, "x where condition else y",
    None, lambda g, out, c, x, y: np.where(c, g, 0), lambda g, out, c, x, y: np.where(c, 0, g),
)  # fmt: skip


# -- products --------------------------------------------------------------------------------------------------------
def _swap(x):
    return np.swapaxes(x, -1, -2)


def _matmul_x(g, out, x, y):
    if np.ndim(y) == 1:  # (..., n) . (n,) -> (...)
        return np.expand_dims(g, -1) * y
    if np.ndim(x) == 1:  # (n,) @ (..., n, m) -> (..., m)
        return np.sum(np.expand_dims(g, -2) * y, axis=(*range(np.ndim(y) - 2), -1))
    return g @ _swap(y)


def _matmul_y(g, out, x, y):
    if np.ndim(x) == 1:
        return np.expand_dims(g, -1) * x if np.ndim(y) == 1 else np.expand_dims(x, -1) * np.expand_dims(g, -2)
    if np.ndim(y) == 1:
        return np.sum(np.expand_dims(g, -1) * x, axis=tuple(range(np.ndim(x) - 1)))
    return _swap(x) @ g


rule(np.matmul, "x @ y", _matmul_x, _matmul_y)


@primitive
def einsum(text, *xs):
    """np.einsum(text, *xs), e.g. "bij,bjk->bik", "...i,i", "ij,jk"; no letter twice in one argument."""
    return np.einsum(text, *xs, optimize=len(xs) > 2)


def _letters(text, ndims):
    """The letters of every argument and of the result, with "..." spelled out in capitals."""
    text = text.replace(" ", "").replace("...", ".")
    ins, arrow, result = text.partition("->")
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in text][::-1]
    dots = [n - len(l) + 1 if "." in l else 0 for l, n in zip(ins.split(","), ndims, strict=True)]
    spell = lambda l, n: l.replace(".", "".join(free[len(free) - n :]))
    if not arrow:  # implicit: the dots, then the letters that occur once, sorted
        result = "." * ("." in ins) + "".join(sorted(c for c in set(ins) - {",", "."} if ins.count(c) == 1))
    letters = [spell(l, n) for l, n in zip(ins.split(","), dots, strict=True)]
    if any(len(set(l)) < len(l) for l in letters):
        raise UnsupportedOp(f"einsum {text!r}: a letter twice in one argument (a diagonal) has no derivative here")
    return letters, spell(result, max(dots))


def _einsum(i, g, out, text, *xs):  # i counts the text too: xs[i - 1] is differentiated
    letters, result = _letters(text, [np.ndim(x) for x in xs])
    mine, others = letters[i - 1], [(l, x) for k, (l, x) in enumerate(zip(letters, xs, strict=True)) if k != i - 1]
    known = [c for c in mine if c in set(result).union(*(l for l, _ in others))]
    back = f"{','.join([result, *(l for l, _ in others)])}->{''.join(known)}"
    got = einsum(back, g, *(x for _, x in others))
    sizes = iter(got.shape)
    got_sizes = tuple(next(sizes) if c in known else 1 for c in mine)
    full = tuple(n if m == 1 else m for m, n in zip(got_sizes, xs[i - 1].shape, strict=True))
    if got.shape == full:
        return got
    return np.broadcast_to(np.reshape(got, got_sizes), full)  # alike along a letter that only this argument has


VJPS[einsum], FORMULA[einsum] = _einsum, "sum of products over the letters the result leaves out"


# -- shapes ----------------------------------------------------------------------------------------------------------
@primitive
def getitem(x, index=None):
    """x[index]; index is not differentiated."""
    return x[index]


@primitive
def scatter(g, index=None, shape=None):
    """The transpose of getitem: an array of zeros of the given shape to which g is added at index."""
    out = np.zeros(shape, g.dtype)
    np.add.at(out, index, g) if _repeats(index) else out.__setitem__(index, g)
    return out


def _repeats(index):  # slices and integers name every element at most once; integer arrays may name one twice
    return any(isinstance(i, (list, np.ndarray)) for i in (index if isinstance(index, tuple) else (index,)))


rule(getitem, "x[index]", lambda g, out, x, index=None: scatter(g, index=index, shape=x.shape))
rule(scatter, "zeros with x added at index", lambda g, out, x, index=None, shape=None: getitem(g, index=index))
rule(np.reshape, "x in another shape", lambda g, out, x, shape: np.reshape(g, x.shape), None)
rule(np.swapaxes, "x with two axes swapped", lambda g, out, x, a, b: np.swapaxes(g, a, b), None, None)
rule(
    np.transpose, "x with its axes permuted",
    lambda g, out, x, axes=None: np.transpose(g, axes=axes and tuple(np.argsort(np.asarray(axes) % x.ndim))),
)  # fmt: skip
rule(np.expand_dims, "x with an axis of length 1 more", lambda g, out, x, axis: np.reshape(g, x.shape), None)
rule(np.squeeze, "x without axes of length 1", lambda g, out, x, axis=None: np.reshape(g, x.shape), None)
rule(np.broadcast_to, "x repeated along new or length-1 axes", lambda g, out, x, shape: g, None)
rule(
    np.pad,
    "x with zeros around it",
    lambda g, out, x, width: getitem(g, index=tuple(slice(a, a + n) for (a, _), n in zip(width, x.shape, strict=True))),
    None,
)
rule(np.flip, "x in reverse order", lambda g, out, x, axis=None: np.flip(g, axis=axis), None)
rule(
    np.roll, "x shifted around",
    lambda g, out, x, shift, axis=None: np.roll(g, -np.asarray(shift) if np.ndim(shift) else -shift, axis=axis),
    None, None,
)  # fmt: skip


@primitive
def gather(x, index=None, axis=0):
    """out[i, j, ...] = x[index[i, j, ...], j, ...] for axis 0: torch.gather; the index may be smaller than x."""
    return x[_along(index, axis)]


def _along(index, axis):
    where = list(np.ogrid[tuple(map(slice, index.shape))])
    where[axis] = index
    return tuple(where)


@primitive
def scatter_along(g, index=None, axis=0, shape=None):
    """The transpose of gather: zeros of the given shape to which g is added at index along one axis."""
    out = np.zeros(shape, g.dtype)
    np.add.at(out, _along(index, axis), g)
    return out


rule(
    gather, "x[index] along an axis",
    lambda g, out, x, index=None, axis=0: scatter_along(g, index=index, axis=axis, shape=x.shape),
)  # fmt: skip
rule(
    scatter_along, "zeros with x added at index along an axis",
    lambda g, out, x, index=None, axis=0, shape=None: gather(g, index=index, axis=axis),
)  # fmt: skip


@primitive
def concatenate(*xs, axis=0):
    """np.concatenate with the arrays as arguments."""
    return np.concatenate(xs, axis=axis)


def _concatenate(i, g, out, *xs, axis=0):
    start = sum(x.shape[axis] for x in xs[:i])
    return getitem(g, index=(slice(None),) * (axis % xs[i].ndim) + (slice(start, start + xs[i].shape[axis]),))


VJPS[concatenate], FORMULA[concatenate] = _concatenate, "x1, x2, ... joined along an axis"


@primitive
def stack(*xs, axis=0):
    """np.stack with the arrays as arguments."""
    return np.stack(xs, axis=axis)


VJPS[stack] = lambda i, g, out, *xs, axis=0: getitem(g, index=(slice(None),) * (axis % g.ndim) + (i,))
FORMULA[stack] = "x1, x2, ... as slices along a new axis"


# -- reductions: g has lost the axes that were summed; expand() puts them back ---------------------------------------
def expand(g, x, axis, keepdims):
    """g, reduced over `axis`, broadcast to the shape of x again."""
    if axis is not None and not keepdims:
        axes = (axis,) if np.ndim(axis) == 0 else axis
        g = np.reshape(g, tuple(1 if i in {a % x.ndim for a in axes} else n for i, n in enumerate(x.shape)))
    return np.broadcast_to(g, x.shape)


def _extremum(g, out, x, axis=None, keepdims=False):  # equal extrema share the gradient, as torch.amax does
    hit = x == expand(out, x, axis, keepdims)
    return expand(g, x, axis, keepdims) * (hit / np.sum(hit, axis=axis, keepdims=True))


rule(np.sum, "sum of x", lambda g, out, x, axis=None, keepdims=False: expand(g, x, axis, keepdims))
rule(
    np.mean, "mean of x",
    lambda g, out, x, axis=None, keepdims=False: expand(g, x, axis, keepdims) * (np.size(out) / max(np.size(x), 1)),
)  # fmt: skip
rule(np.max, "largest of x", _extremum)
rule(np.min, "smallest of x", _extremum)


@primitive
def logsumexp(x, axis=-1, keepdims=False):
    """log(sum(exp(x))), the maximum taken out first so that nothing overflows."""
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, top.dtype.type(0))  # all -inf: log(0), not -inf - -inf
    with np.errstate(divide="ignore"):
        out = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return out if keepdims else np.squeeze(out, axis)


rule(
    logsumexp, "log(sum(exp(x)))",
    lambda g, out, x, axis=-1, keepdims=False:
        expand(g, x, axis, keepdims) * np.exp(x - expand(out, x, axis, keepdims)),
)  # fmt: skip
rule(
    np.cumsum, "running sum of x",
    lambda g, out, x, axis=None: np.reshape(np.flip(np.cumsum(np.flip(g, axis=axis), axis=axis), axis=axis), x.shape),
)  # fmt: skip


@primitive
def product(x, axis=0, keepdims=False):
    """The product of x along one axis."""
    return np.prod(x, axis=axis, keepdims=keepdims)


def _product(g, out, x, axis=0, keepdims=False):
    """g times the product of all the others: from the left and from the right, so that a zero needs no division."""
    before = (slice(None),) * (axis % x.ndim)
    slices = [getitem(x, index=(*before, slice(k, k + 1))) for k in range(x.shape[axis])]
    if not slices:
        return x * 0
    one = np.ones_like(slices[0])
    left, right = [one], [one]
    for first, last in zip(slices[:-1], slices[:0:-1], strict=True):
        left.append(left[-1] * first)
        right.append(right[-1] * last)
    others = concatenate(*(a * b for a, b in zip(left, reversed(right), strict=True)), axis=axis)
    return expand(g, x, axis, keepdims) * others


rule(product, "product of x", _product)


@primitive
def norm(x, axis=None, keepdims=False):
    """sqrt(sum of x^2); its derivative at 0 is 0, as in PyTorch."""
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


rule(
    norm, "sqrt(sum of x^2)",
    lambda g, out, x, axis=None, keepdims=False: x * expand(g / np.where(out == 0, np.inf, out), x, axis, keepdims),
)  # fmt: skip
