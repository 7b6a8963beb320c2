"""Tensor: an ndarray that remembers how it was made, and the backward pass through that memory.

Every function of Tensors leaves a `Node`: which function, on what, with what result. A loss holds its node, the node
holds the arguments, they hold their nodes: the *tape*. `backward` walks it from the loss to the leaves, asks the rule
of each function for its vector-Jacobian product, and adds up what arrives at each Tensor. That is the chain rule.

A Tensor answers NumPy's own protocols, so `np.exp(t)` is recorded; its methods have PyTorch's names and semantics.
What has no rule refuses by name instead of cutting the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidl import rules
from minidl.backend import calls, current_form
from minidl.errors import GraphError, ShapeError, UnsupportedOp

_grad_enabled: ContextVar[bool] = ContextVar("minidl_grad_enabled", default=True)
_trace: ContextVar[list | None] = ContextVar("minidl_trace", default=None)


class Node:
    """One line of the tape: out = function(*args, **kwargs). It never points to the Tensor it made: no cycles."""

    __slots__ = ("function", "args", "values", "kwargs", "out", "saved", "needs")

    def __init__(self, function, args, values, kwargs, out, saved, needs):
        self.function = function  # a NumPy function, a @primitive, or an Op
        self.args = args  # as they were given: Tensors, arrays, numbers
        self.values = values  # the same with each Tensor's array of that moment
        self.kwargs = kwargs
        self.out = out  # an array, or a tuple of arrays
        self.saved = saved  # what an Op's forward keeps for its backward
        self.needs = needs  # whether a gradient can pass

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def formula(self) -> str:
        return self.function.formula if isinstance(self.function, Op) else rules.FORMULA[self.function]


class Op:
    """A kernel op: all that the framework knows of one hand-written function, said once.

    forward(*arrays, **kwargs) -> (out, saved)                       readable NumPy, perhaps with a Numba twin
    backward(g, out, saved, needs, *arrays, **kwargs) -> gradients   one per array; None where needs[i] is False
    composed(*tensors, **kwargs) -> Tensor(s)                        the same from small ops: twice differentiable
    axes(u, shape, *ids, **kwargs) -> ids of the output              which indices belong to one removable unit
    macs(shape, *shapes, **kwargs) -> int                            multiply-adds of the forward pass
    `out`, `g`, `shape` and the ids are tuples where the op has several results; a g is None where no gradient came.
    """

    def __init__(self, name: str, formula: str, *, forward, backward, composed, axes=None, macs=None):
        self.__name__, self.formula = name, formula
        self.forward, self.backward, self.composed, self.axes, self.macs = forward, backward, composed, axes, macs

    def __call__(self, *args, **kwargs):
        args = [Tensor(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]  # not the labels
        if current_form() == "composed":
            calls[self.__name__, "composed"] += 1
            return self.composed(*args, **kwargs)
        return record(self, args, kwargs)


def record(function, args, kwargs):
    """Call a function on the arrays of its arguments and write the line on the tape if anything may need it."""
    values = tuple(
        a.data if isinstance(a, Tensor) else a.item() if isinstance(a, np.generic) else a for a in args
    )  # np.float64(2) would turn float32 into float64; a Python number does not
    if isinstance(function, Op):
        out, saved = function.forward(*values, **kwargs)
    else:
        out, saved = getattr(function, "plain", function)(*values, **kwargs), None
    needs = _grad_enabled.get() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
    tape = _trace.get()
    if not needs and tape is None:
        return tuple(map(Tensor, out)) if isinstance(out, tuple) else Tensor(out)
    node = Node(function, args, values, kwargs, out, saved, needs)
    if tape is not None:
        tape.append(node)
    return tuple(_result(o, node, i) for i, o in enumerate(out)) if isinstance(out, tuple) else _result(out, node, 0)


def _result(array, node, index):
    t = Tensor(array)
    t.node, t.index, t.requires_grad = node, index, node.needs
    return t


def _key(t: Tensor):  # results of one node are told apart by index; a leaf is its own key
    return (id(t.node), t.index) if t.node is not None else (id(t), 0)


def topological(root: Tensor, stop: frozenset = frozenset()) -> list[Node]:
    """The nodes below `root` that carry a gradient, arguments before results. Iterative: depth is no limit."""
    order: list[Node] = []
    seen = set()
    stack: list[tuple[Node, bool]] = [(root.node, False)] if root.node is not None else []
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [
                (a.node, False)
                for a in node.args
                if isinstance(a, Tensor) and a.requires_grad and a.node is not None and _key(a) not in stop
            ]
    return order


def fit(g, x):
    """Sum g over the axes along which x was broadcast, and give it x's dtype: once, for every rule."""
    if g.shape != x.shape:
        extra = g.ndim - x.ndim
        stretched = tuple(i + extra for i, n in enumerate(x.shape) if n == 1 and g.shape[i + extra] != 1)
        g = np.reshape(np.sum(g, axis=tuple(range(extra)) + stretched), x.shape)
    return g if g.dtype == x.dtype else g.astype(x.dtype)


def backpropagate(roots, root_grads, *, leaves=None, create_graph=False, retain_graph=False, stop=False) -> dict:
    """Walk the tape backwards; return {key of a Tensor: its gradient} for the leaves, or for the Tensors `leaves`.

    With create_graph the rules are called with Tensors and so recorded. With stop, the walk ends at `leaves`.
    """
    wanted = frozenset(map(_key, leaves or ()))
    pending: dict = {}
    order: list[Node] = []
    seen: set[int] = set()
    for root, g in zip(roots, root_grads, strict=True):
        pending[_key(root)] = pending[_key(root)] + g if _key(root) in pending else g
        below = topological(root, wanted if stop else frozenset())
        order += [n for n in below if id(n) not in seen]
        seen.update(map(id, below))
    found: dict = {_key(r): pending[_key(r)] for r in roots if r.node is None or _key(r) in wanted}
    for node in reversed(order):
        several = isinstance(node.out, tuple)
        g = tuple(pending.pop((id(node), i), None) for i in range(len(node.out) if several else 1))
        if all(part is None for part in g):
            continue
        if node.values is None:
            raise GraphError(
                f"backward a second time through {node.name}: its saved arrays were freed by the first; "
                "call the first with retain_graph=True"
            )
        for arg, part in _vjps(node, g if several else g[0], create_graph):
            key = _key(arg)
            if arg.node is None and not create_graph and (any(part is x for x in g) or part.base is not None):
                part = part.copy()  # a leaf owns its gradient: nobody else may see it change
            pending[key] = pending[key] + part if key in pending else part
            if (key in wanted) if leaves is not None else (arg.node is None):
                found[key] = pending[key]
        if not (retain_graph or create_graph):
            node.values = node.saved = None
    return found


def _vjps(node: Node, g, create_graph: bool):
    """(argument, its gradient) for every Tensor argument of a node through which a gradient can pass."""
    needs = [isinstance(a, Tensor) and a.requires_grad for a in node.args]
    chosen = [i for i, n in enumerate(needs) if n]
    if isinstance(node.function, Op):
        if create_graph:  # differentiate the composed form instead: it consists of rules
            outs = node.function.composed(*node.args, **node.kwargs)
            pairs = [(o, p) for o, p in zip(_tuple(outs), _tuple(g), strict=True) if p is not None]
            args = list({_key(node.args[i]): node.args[i] for i in chosen}.values())  # each once: parts add up inside
            found = backpropagate(*zip(*pairs, strict=True), leaves=args, create_graph=True, stop=True)
            return [(a, found[_key(a)]) for a in args if _key(a) in found]
        parts = node.function.backward(g, node.out, node.saved, needs, *node.values, **node.kwargs)
        return [(node.args[i], fit(parts[i], node.values[i])) for i in chosen if parts[i] is not None]
    values, out = (node.args, _result(node.out, node, 0)) if create_graph else (node.values, node.out)
    table, pairs = rules.VJPS[node.function], []
    for i in chosen:
        vjp = (lambda *a, i=i, **k: table(i, *a, **k)) if callable(table) else table[i]
        if vjp is not None:
            pairs.append((node.args[i], fit(vjp(g, out, *values, **node.kwargs), values[i])))
    return pairs


def _tuple(x) -> tuple:
    return x if isinstance(x, tuple) else (x,)


@contextmanager
def no_grad():
    """Inside the block nothing is recorded for a backward pass."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


@contextmanager
def trace():
    """Yield a list that receives the Node of every op in the block, whether or not anything requires a gradient."""
    token = _trace.set([])
    try:
        yield _trace.get()
    finally:
        _trace.reset(token)


def grad(loss: Tensor, inputs: Iterable[Tensor], *, create_graph=False, retain_graph=False) -> list:
    """dloss/d(input) for each input, as arrays; as Tensors that can be differentiated again with create_graph."""
    inputs = list(inputs)
    wrap = Tensor if create_graph else np.asarray
    found = backpropagate(
        [loss], [wrap(np.ones_like(loss.data))], leaves=inputs, create_graph=create_graph, retain_graph=retain_graph
    )
    return [found[_key(t)] if _key(t) in found else wrap(np.zeros_like(t.data)) for t in inputs]


def _unary(function):
    return lambda self: record(function, (self,), {})


def _binary(function):  # the operator, and its reflection for a number or an array on the left
    return (
        lambda self, other: record(function, (self, Tensor(other) if isinstance(other, list) else other), {}),
        lambda self, other: record(function, (Tensor(other) if isinstance(other, list) else other, self), {}),
    )


def _reduction(function, over=None):  # PyTorch's dim (an int, a tuple or a list) and keepdim are NumPy's axis, keepdims
    options = lambda dim, keepdim: {"axis": tuple(dim) if isinstance(dim, list) else dim, "keepdims": keepdim}
    return lambda self, dim=over, keepdim=False: record(function, (self,), options(dim, keepdim))


def _compare(function):  # step functions have no derivative: their result is a plain ndarray
    return lambda self, other: function(self.data, other.data if isinstance(other, Tensor) else other)


class Tensor:
    """An ndarray that remembers how it was made.

    data: the ndarray, replaced (never written into) by optimizers; grad: an ndarray of its shape, or None.
    A list of Python floats becomes float32; an ndarray keeps its dtype.
    """

    __slots__ = ("data", "grad", "requires_grad", "node", "index", "__weakref__")

    def __init__(self, data, requires_grad: bool = False, dtype=None):
        if isinstance(data, Tensor):
            data = data.data
        array = np.asarray(data, dtype=dtype)
        if dtype is None and array.dtype == np.float64 and not isinstance(data, (np.ndarray, np.generic)):
            array = array.astype(np.float32)
        if requires_grad and array.dtype.kind != "f":
            raise UnsupportedOp(f"only floats have a gradient: this Tensor is {array.dtype}; pass dtype=np.float32")
        self.data: np.ndarray = array
        self.grad: Any = None
        self.requires_grad = requires_grad
        self.node: Node | None = None
        self.index = 0

    # -- NumPy's protocols: its semantics, recorded ------------------------------------------------------------------
    def __minidl_record__(self, function, args, kwargs):
        return record(function, args, kwargs)

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if method != "__call__" or kwargs or (ufunc not in rules.VJPS and ufunc not in _NOT_DIFFERENTIATED):
            what = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
            with_ = f" with {', '.join(kwargs)}=" if kwargs else ""
            raise UnsupportedOp(f"np.{what}{with_} is not recorded by minidl; use t.detach().numpy() for its value")
        if ufunc in _NOT_DIFFERENTIATED:
            return ufunc(*[a.data if isinstance(a, Tensor) else a for a in args])
        return record(ufunc, args, {})

    def __array_function__(self, function, types, args, kwargs):
        own = _NUMPY_SIGNATURE.get(function)
        call = own or next(filter(None, rules.VJPS.get(function, ())), None)
        names = call.__code__.co_varnames[0 if own else 2 : call.__code__.co_argcount] if call else ()
        strange = ", ".join(f"{k}=" for k in sorted(set(kwargs) - set(names)))
        if call is None or strange or len(args) > len(set(names) - {"keepdims", "ddof"}):
            with_ = f" with {strange or f'{len(args)} arguments'}" if call else ""
            what = f"{function.__module__.replace('numpy', 'np')}.{function.__name__}{with_}"
            raise UnsupportedOp(f"{what} is not recorded by minidl; use t.detach().numpy() for its value")
        return own(*args, **kwargs) if own else record(function, args, kwargs)

    def __array__(self, dtype=None, copy=None):
        raise UnsupportedOp(
            "a Tensor would lose its history as an ndarray; say t.detach().numpy() if that is what you want"
        )

    # -- PyTorch's names and semantics ---------------------------------------------------------------------------------
    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    T = property(lambda self: record(np.transpose, (self,), {}))
    is_leaf = property(lambda self: self.node is None)

    def size(self, dim=None):
        return self.data.shape if dim is None else self.data.shape[dim]

    def numel(self) -> int:
        return self.data.size

    def item(self):
        return self.data.item()

    def numpy(self) -> np.ndarray:
        if self.requires_grad:
            raise GraphError("this Tensor carries a gradient; say t.detach().numpy()")
        return self.data

    def detach(self) -> Tensor:
        return Tensor(self.data)

    def backward(self, gradient=None, retain_graph=False, create_graph=False) -> None:
        """Add dself/d(leaf) to .grad of every leaf: as an ndarray, or as a Tensor with create_graph."""
        if not self.requires_grad:
            raise GraphError("nothing to differentiate: no Tensor that requires a gradient led here (or under no_grad)")
        if gradient is None and self.data.size != 1:
            raise GraphError(f"backward needs a scalar; this Tensor has shape {self.shape}: sum it, or pass gradient=")
        g = np.ones_like(self.data) if gradient is None else np.array(Tensor(gradient).data, self.dtype)
        if g.shape != self.shape:
            raise ShapeError(f"gradient has shape {g.shape}, the Tensor {self.shape}; they must be equal")
        nodes = topological(self)
        seed = Tensor(g) if create_graph else g
        found = backpropagate([self], [seed], create_graph=create_graph, retain_graph=retain_graph)
        leaves = {id(a): a for n in nodes for a in n.args if isinstance(a, Tensor) and a.node is None}
        for leaf in leaves.values() if nodes else [self]:
            if leaf.requires_grad and _key(leaf) in found:
                total = found[_key(leaf)] if leaf.grad is None else leaf.grad + found[_key(leaf)]
                leaf.grad = total if isinstance(total, Tensor) else np.asarray(total)  # NumPy makes 0-d arrays numbers

    __add__, __radd__ = _binary(np.add)
    __sub__, __rsub__ = _binary(np.subtract)
    __mul__, __rmul__ = _binary(np.multiply)
    __truediv__, __rtruediv__ = _binary(np.divide)
    __matmul__, __rmatmul__ = _binary(np.matmul)
    _power, __rpow__ = _binary(np.power)
    __neg__, __abs__ = _unary(np.negative), _unary(np.absolute)
    __lt__, __le__, __gt__, __ge__ = map(_compare, (np.less, np.less_equal, np.greater, np.greater_equal))
    __eq__, __ne__ = _compare(np.equal), _compare(np.not_equal)  # type: ignore[assignment]
    exp, log, sqrt, square = _unary(np.exp), _unary(np.log), _unary(np.sqrt), _unary(np.square)
    sin, cos, tanh, abs = _unary(np.sin), _unary(np.cos), _unary(np.tanh), _unary(np.absolute)
    relu, sigmoid = _unary(rules.relu), _unary(rules.sigmoid)
    sum, mean, amax, amin = map(_reduction, (np.sum, np.mean, np.max, np.min))
    logsumexp = _reduction(rules.logsumexp, -1)

    def __pow__(self, other):
        return self.square() if isinstance(other, (int, float)) and other == 2 else self._power(other)

    def reshape(self, *shape):
        return record(np.reshape, (self, shape[0] if len(shape) == 1 and np.ndim(shape[0]) else shape), {})

    view = reshape

    def flatten(self, start_dim=0, end_dim=-1):
        end = end_dim % max(self.ndim, 1)
        return self.reshape(*self.shape[:start_dim], -1, *self.shape[end + 1 :])

    def transpose(self, dim0, dim1):
        return record(np.swapaxes, (self, dim0, dim1), {})

    def permute(self, *dims):
        return record(np.transpose, (self,), {"axes": dims[0] if len(dims) == 1 and np.ndim(dims[0]) else dims})

    def squeeze(self, dim=None):
        if dim is not None and self.shape[dim] != 1:
            return self
        return record(np.squeeze, (self,), {"axis": dim})

    def unsqueeze(self, dim):
        return record(np.expand_dims, (self, dim), {})

    def expand(self, *shape):
        shape = tuple(shape[0]) if len(shape) == 1 and np.ndim(shape[0]) else shape
        own = (1,) * (len(shape) - self.ndim) + self.shape
        return record(np.broadcast_to, (self, tuple(o if n == -1 else n for n, o in zip(shape, own, strict=True))), {})

    def var(self, dim=None, keepdim=False, correction=1):
        centred = np.square(self - self.mean(dim, keepdim=True)).mean(dim, keepdim)
        count = self.data.size // max(centred.data.size, 1)
        return centred * (count / (count - correction) if count > correction else float("nan"))

    def argmax(self, dim=None) -> np.ndarray:
        return self.data.argmax(dim)

    def __getitem__(self, index):
        return rules.getitem(self, index=index)

    def astype(self, dtype):
        if self.requires_grad and np.dtype(dtype) != self.dtype:
            raise UnsupportedOp(f"astype from {self.dtype} to {np.dtype(dtype)} is not recorded; detach() first")
        return Tensor(self.data.astype(dtype))

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.data)

    def __float__(self):
        return float(self.data)

    def __repr__(self):
        made = f", made by {self.node.name}" if self.node is not None else ", requires_grad" * self.requires_grad
        return f"Tensor({np.array2string(self.data, precision=4, threshold=20)}, {self.dtype}{made})"

    __hash__ = object.__hash__


_NOT_DIFFERENTIATED = {
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.isnan, np.isfinite, np.isinf,
    np.floor, np.ceil, np.rint,
}  # fmt: skip  # step functions: their result is a plain ndarray

_NUMPY_SIGNATURE: dict[Callable, Callable] = {
    np.concatenate: lambda xs, axis=0: rules.concatenate(*xs, axis=axis),
    np.stack: lambda xs, axis=0: rules.stack(*xs, axis=axis),
    np.var: lambda x, axis=None, ddof=0, keepdims=False: x.var(axis, keepdims, correction=ddof),
    np.shape: lambda x: x.data.shape,
    np.ndim: lambda x: x.data.ndim,
    np.size: lambda x: x.data.size,
    np.zeros_like: lambda x: np.zeros_like(x.data),
    np.ones_like: lambda x: np.ones_like(x.data),
    np.argmax: lambda x, axis=None: x.data.argmax(axis),
}
