"""PyTorch's names for what a Tensor can do, each in terms of the NumPy function that is recorded.

    t.sum(dim=1, keepdim=True)  is  np.sum(t, axis=1, keepdims=True)

`axis` and `keepdims` are accepted wherever PyTorch says `dim` and `keepdim`. Where NumPy and PyTorch differ in meaning,
the method has PyTorch's and the function NumPy's:

    t.var()            divides by n - 1                   np.var(t)            by n
    t.max(dim)         values and positions               np.max(t, axis)      the values
    t.transpose(0, 1)  swaps two axes                     np.transpose(t, ..)  permutes all
    t.repeat(2, 3)     the whole array, as np.tile        np.repeat(t, 2)      each element
    t.split(2)         parts of two                       np.split(t, 2)       two parts

Dtypes are PyTorch's in both: a float32 Tensor stays float32 beside numbers, arrays without axes and integers.
"""

from __future__ import annotations

import functools
from collections import namedtuple

import numpy as np

from minidl import rules
from minidl.errors import InputError, ShapeError

ValuesIndices = namedtuple("ValuesIndices", "values indices")


def _unary(function):
    def method(self):
        return function(self)

    method.__doc__ = f"{function.__name__} of every element."
    return method


def _binary(function):
    def method(self, other):
        return function(self, other)

    method.__doc__ = f"np.{function.__name__}(self, other), broadcast."
    return method


def dims(method):
    """Let a method take axis=, dims= and keepdims= for dim= and keepdim=, and a list of dims for a tuple."""

    every = None if method.__name__ in ("sum", "mean", "var", "std", "norm", "amax", "amin") else ()

    def dim_of(value):
        return tuple(value) or every  # a reduction over no dims is one over all, as in PyTorch

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        for ours, numpys in (("dim", "axis"), ("dim", "dims"), ("keepdim", "keepdims")):
            if numpys in kwargs:
                kwargs[ours] = kwargs.pop(numpys)
        if isinstance(kwargs.get("dim"), list | tuple):
            kwargs["dim"] = dim_of(kwargs["dim"])
        if args and isinstance(args[0], list | tuple):
            args = (dim_of(args[0]), *args[1:])
        return method(self, *args, **kwargs)

    return call


def _sizes(sizes):  # t.reshape(2, 3) and t.reshape((2, 3)) mean the same
    return tuple(sizes[0]) if len(sizes) == 1 and np.ndim(sizes[0]) else sizes


def _integers(index) -> np.ndarray:
    return np.asarray(getattr(index, "data", index))


class Methods:
    """What Tensor inherits; see the module's docstring."""

    __slots__ = ()
    data: np.ndarray

    def __getattr__(self, name):  # called only for what is not here
        why = "nothing here works in place" if name.endswith("_") and not name.startswith("_") else "it is not recorded"
        raise AttributeError(f"Tensor has no {name!r}: {why}; t.detach().numpy() gives the values")

    # -- elementwise --------------------------------------------------------------------------------------------------
    exp, exp2, expm1 = map(_unary, (np.exp, np.exp2, np.expm1))
    log, log2, log10, log1p = map(_unary, (np.log, np.log2, np.log10, np.log1p))
    sqrt, square, reciprocal, abs, neg = map(_unary, (np.sqrt, np.square, np.reciprocal, np.absolute, np.negative))
    sin, cos, tan, asin, acos, atan = map(_unary, (np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan))
    sinh, cosh, tanh, asinh, acosh, atanh = map(_unary, (np.sinh, np.cosh, np.tanh, np.arcsinh, np.arccosh, np.arctanh))
    sign, floor, ceil, trunc, round = map(_unary, (np.sign, np.floor, np.ceil, np.trunc, np.rint))
    __pos__ = _unary(np.positive)
    erf, relu, sigmoid = map(_unary, (rules.erf, rules.relu, rules.sigmoid))
    add, sub, mul, div, pow = map(_binary, (np.add, np.subtract, np.multiply, np.divide, np.power))
    maximum, minimum, atan2, logaddexp = map(_binary, (np.maximum, np.minimum, np.arctan2, np.logaddexp))
    matmul = _binary(np.matmul)
    __floordiv__, __mod__ = map(_binary, (np.floor_divide, np.remainder))  # refused by name
    # questions: a step has no derivative, their answer is a plain ndarray: (a == b).mean(), without .float()
    eq, ne, lt, le, gt, ge = map(
        _binary, (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
    )
    __eq__, __ne__, __lt__, __le__, __gt__, __ge__ = eq, ne, lt, le, gt, ge  # type: ignore[assignment]
    __hash__ = object.__hash__

    def rsqrt(self):
        return np.reciprocal(np.sqrt(self))

    def clip(self, min=None, max=None):
        return rules.clip(self, min, max)

    clamp = clip

    def masked_fill(self, mask, value):
        return np.where(mask, value, self)

    def where(self, condition, other):
        return np.where(condition, self, other)

    # -- reductions ---------------------------------------------------------------------------------------------------
    @dims
    def sum(self, dim=None, keepdim=False):
        return np.sum(self, axis=dim, keepdims=keepdim)

    @dims
    def mean(self, dim=None, keepdim=False):
        return np.mean(self, axis=dim, keepdims=keepdim)

    @dims
    def var(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
        """The sum of squared differences from the mean, divided by n - 1; by n with unbiased=False or correction=0."""
        correction = int(unbiased) if correction is None else correction
        centred = np.square(self - self.mean(dim, True)).mean(dim, keepdim)
        count = self.numel() // max(centred.numel(), 1)
        return centred * (count / (count - correction) if count > correction else float("nan"))

    @dims
    def std(self, dim=None, unbiased=True, keepdim=False, *, correction=None):
        """The root of var; its derivative where all values are equal is 0, as in PyTorch."""
        correction = int(unbiased) if correction is None else correction
        spread = rules.norm(self - self.mean(dim, True), axis=dim, keepdims=keepdim)
        count = self.numel() // max(spread.numel(), 1)
        return spread * ((count - correction) ** -0.5 if count > correction else float("nan"))

    @dims
    def norm(self, p=2, dim=None, keepdim=False):
        """(sum |x|^p)^(1/p) over dim, or over all: p = 2 or "fro", 1, another number, inf."""
        if p in (2, "fro"):
            return rules.norm(self, axis=dim, keepdims=keepdim)
        if isinstance(p, str) or p <= 0:
            raise InputError(f"norm: p is {p!r}; it must be a number above 0, inf, or 'fro'")
        if p == float("inf"):
            return np.max(abs(self), axis=dim, keepdims=keepdim)
        total = np.sum(abs(self) if p == 1 else abs(self) ** p, axis=dim, keepdims=keepdim)
        return total if p == 1 else total ** (1 / p)

    @dims
    def prod(self, dim=None, keepdim=False):
        """The product over one dim, several, or all."""
        every = range(self.ndim) if dim is None else {d % self.ndim for d in (dim if np.ndim(dim) else (dim,))}
        out = self
        for d in every:
            out = rules.product(out, axis=d, keepdims=True)
        return out if keepdim else out.reshape([n for d, n in enumerate(self.shape) if d not in every])

    @dims
    def amax(self, dim=None, keepdim=False):
        return np.max(self, axis=dim, keepdims=keepdim)

    @dims
    def amin(self, dim=None, keepdim=False):
        return np.min(self, axis=dim, keepdims=keepdim)

    @dims
    def max(self, dim=None, keepdim=False):
        """The largest element; along a dim (values, indices), and there the gradient goes to the index alone.

        Given another Tensor or array instead of a dim: the larger of the two, element by element.
        """
        return self._extremum(np.max, np.maximum, self.data.argmax, dim, keepdim)

    @dims
    def min(self, dim=None, keepdim=False):
        """The smallest element, as max."""
        return self._extremum(np.min, np.minimum, self.data.argmin, dim, keepdim)

    def _extremum(self, of_all, of_two, position, dim, keepdim):
        if dim is None or isinstance(dim, (Methods, np.ndarray)):
            return of_all(self) if dim is None else of_two(self, dim)
        index = position(dim)
        wide = np.expand_dims(index, dim)
        values = rules.gather(self, index=wide, axis=dim)
        return ValuesIndices(values if keepdim else values.squeeze(dim), wide if keepdim else index)

    @dims
    def argmax(self, dim=None, keepdim=False) -> np.ndarray:
        return self.data.argmax(dim, keepdims=keepdim)

    @dims
    def argmin(self, dim=None, keepdim=False) -> np.ndarray:
        return self.data.argmin(dim, keepdims=keepdim)

    @dims
    def logsumexp(self, dim=-1, keepdim=False):
        return rules.logsumexp(self, axis=dim, keepdims=keepdim)

    @dims
    def softmax(self, dim=-1):
        return np.exp(self.log_softmax(dim))

    @dims
    def log_softmax(self, dim=-1):
        return self - self.logsumexp(dim, True)

    @dims
    def cumsum(self, dim):
        return np.cumsum(self, axis=dim)

    # -- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, *shape):
        return np.reshape(self, _sizes(shape))

    view = reshape

    def flatten(self, start_dim=0, end_dim=-1):
        """Join the dims start_dim ... end_dim into one."""
        first, last = (d % max(self.ndim, 1) for d in (start_dim, end_dim))
        joined = int(np.prod(self.shape[first : last + 1]))
        return self.reshape(*self.shape[:first], joined, *self.shape[last + 1 :])

    def transpose(self, dim0, dim1):
        return np.swapaxes(self, dim0, dim1)

    def t(self):
        """The transpose of a matrix."""
        if self.ndim > 2:
            raise ShapeError(f"t() takes a matrix, this Tensor has shape {self.shape}; take transpose(dim0, dim1)")
        return np.transpose(self)

    swapaxes = transpose

    def permute(self, *dims):
        return np.transpose(self, axes=_sizes(dims))

    @dims
    def squeeze(self, dim=None):
        if dim is not None:
            dim = tuple(d for d in (dim if isinstance(dim, tuple) else (dim,)) if self.shape[d] == 1)
        return np.squeeze(self, axis=dim) if dim is None or dim else self

    def unsqueeze(self, dim):
        return np.expand_dims(self, dim)

    def expand(self, *shape):
        shape = _sizes(shape)
        own = (1,) * (len(shape) - self.ndim) + self.shape
        return np.broadcast_to(self, tuple(o if n == -1 else n for n, o in zip(shape, own, strict=True)))

    def repeat(self, *times):
        """The whole array times[k] times along dim k: np.tile."""
        times = _sizes(times)
        if len(times) < self.ndim:
            raise ShapeError(f"repeat needs a number for each of the {self.ndim} dims, got {len(times)}: {times}")
        shape = (1,) * (len(times) - self.ndim) + self.shape
        wide = self.reshape(*(m for n in shape for m in (1, n)))
        wide = wide.expand(*(m for t, n in zip(times, shape, strict=True) for m in (t, n)))
        return wide.reshape(*(t * n for t, n in zip(times, shape, strict=True)))

    def expand_as(self, other):
        return self.expand(other.shape)

    def view_as(self, other):
        return self.reshape(other.shape)

    def contiguous(self):
        """The Tensor itself: every function here takes any memory order."""
        return self

    def clone(self):
        """A copy that the gradient passes through."""
        return self * 1

    @dims
    def flip(self, *several, dim=()):
        return np.flip(self, axis=_sizes(several or (dim,)))

    @dims
    def roll(self, shifts, dim=None):
        return np.roll(self, shifts, axis=dim)

    @dims
    def split(self, size, dim=0):
        """Parts of `size` along dim, the last perhaps smaller; or parts of the listed sizes."""
        length = self.shape[dim]
        if np.ndim(size) == 0 and size < 1:
            raise InputError(f"split: parts of {size} elements; give at least 1")
        sizes = size if np.ndim(size) else [min(size, length - a) for a in range(0, max(length, 1), size)]
        if sum(sizes) != length:
            raise ShapeError(f"split: the sizes {list(sizes)} add up to {sum(sizes)}, dim {dim} has {length}")
        ends = np.cumsum(sizes)
        before = (slice(None),) * (dim % self.ndim)
        return tuple(self[(*before, slice(int(e) - n, int(e)))] for e, n in zip(ends, sizes, strict=True))

    @dims
    def chunk(self, chunks, dim=0):
        """At most `chunks` parts of equal size along dim, the last perhaps smaller."""
        return self.split(max(1, -(-self.shape[dim] // chunks)), dim)

    def unbind(self, dim=0):
        """The slices along dim, as a tuple."""
        return tuple(self.select(dim, k) for k in range(self.shape[dim]))

    def select(self, dim, index):
        """One slice along dim."""
        return self[(*(slice(None),) * (dim % self.ndim), index)]

    def narrow(self, dim, start, length):
        """`length` slices along dim, from `start`."""
        if not 0 <= start <= start + length <= self.shape[dim]:
            raise ShapeError(f"narrow: {start} to {start + length} does not fit dim {dim} of {self.shape[dim]}")
        return self[(*(slice(None),) * (dim % self.ndim), slice(start, start + length))]

    def pad(self, pad, value=0.0):
        """Constants around it: pad = (left, right) of the last dim, then of the one before, as torch's F.pad."""
        if len(pad) % 2 or len(pad) > 2 * self.ndim:
            raise InputError(f"pad takes pairs, at most {self.ndim} for shape {self.shape}; got {tuple(pad)}")
        pairs = [(0, 0)] * (self.ndim - len(pad) // 2) + [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)][::-1]
        if any(n < 0 for pair in pairs for n in pair):
            raise InputError(f"pad: {tuple(pad)} would cut; take slices for that")
        inside = np.pad(self, pairs)
        if value == 0:
            return inside
        return np.where(np.pad(np.ones(self.shape, bool), pairs), inside, inside.dtype.type(value))

    # -- indexing -----------------------------------------------------------------------------------------------------
    def gather(self, dim, index):
        index = _integers(index)
        if index.ndim != self.ndim:
            raise ShapeError(f"gather: the index has {index.ndim} dims, the Tensor {self.ndim}; they must be equal")
        if any(n > m for d, (n, m) in enumerate(zip(index.shape, self.shape, strict=True)) if d != dim % self.ndim):
            raise ShapeError(
                f"gather: the index has shape {index.shape}, the Tensor {self.shape}: longer beside dim {dim}"
            )
        return rules.gather(self, index=index, axis=dim)

    def index_select(self, dim, index):
        """The slices along dim that a 1-D index names, in its order."""
        return self[(*(slice(None),) * (dim % self.ndim), _integers(index))]

    def masked_select(self, mask):
        """The elements where mask is True, in one row."""
        return self[np.broadcast_to(_integers(mask), self.shape)]

    def scatter_add(self, dim, index, src):
        """self with src added at index along dim; src has the index's shape."""
        index = _integers(index)
        if index.shape != src.shape:
            raise ShapeError(f"scatter_add: the index has shape {index.shape}, src {src.shape}; they must be equal")
        if index.ndim != self.ndim:
            raise ShapeError(
                f"scatter_add: the index has {index.ndim} dims, the Tensor {self.ndim}; they must be equal"
            )
        return self + rules.scatter_along(src, index=index, axis=dim, shape=self.shape)

    # -- dtypes -------------------------------------------------------------------------------------------------------
    def float(self):
        return self.astype(np.float32)

    def double(self):
        return self.astype(np.float64)

    def long(self):
        return self.astype(np.int64)


# -- functions of several Tensors, under PyTorch's names --------------------------------------------------------------
def cat(tensors, dim=0):
    """The Tensors joined along dim."""
    return rules.concatenate(*tensors, axis=dim)


def stack(tensors, dim=0):
    """The Tensors as slices along a new dim."""
    return rules.stack(*tensors, axis=dim)


def where(condition, x, y):
    """x where condition else y, broadcast."""
    return np.where(condition.data if isinstance(condition, Methods) else condition, x, y)


def one_hot(labels, num_classes: int = -1) -> np.ndarray:
    """(..., num_classes) zeros with a 1 at each label; labels: integers in 0..num_classes-1. Raises InputError.

    -1: one class more than the largest label.
    """
    labels = _integers(labels)
    num_classes = int(labels.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    if labels.size and not (0 <= labels.min() and labels.max() < num_classes):
        raise InputError(f"one_hot: labels run from {labels.min()} to {labels.max()}, there are {num_classes} classes")
    return np.eye(num_classes, dtype=np.int64)[labels]


def pad(x, pad, mode: str = "constant", value=0.0):
    """Constants around x: (left, right) of the last dim, then of the one before. Raises InputError."""
    if mode != "constant":
        raise InputError(f"pad: mode {mode!r} is not recorded; 'constant' is")
    return x.pad(pad, value)
