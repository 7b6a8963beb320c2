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
from types import SimpleNamespace
from typing import Any

import numpy as np

from minidl import numpy_names, rules
from minidl.arguments import by_position
from minidl.backend import calls, current_form
from minidl.errors import GraphError, ShapeError, UnsupportedOp
from minidl.methods import Methods

_grad_enabled: ContextVar[bool] = ContextVar("minidl_grad_enabled", default=True)
_trace: ContextVar[list | None] = ContextVar("minidl_trace", default=None)


class Node:
    """One line of the tape: out = function(*args, **kwargs). It never points to the Tensor it made: no cycles."""

    __slots__ = ("function", "args", "values", "kwargs", "out", "saved", "needs", "hooks")

    def __init__(self, function, args, values, kwargs, out, saved, needs):
        self.function = function  # a NumPy function, a @primitive, or an Op
        self.args = args  # as they were given: Tensors, arrays, numbers
        self.values = values  # the same with each Tensor's array of that moment
        self.kwargs = kwargs
        self.out = out  # an array, or a tuple of arrays
        self.saved = saved  # what an Op's forward keeps for its backward
        self.needs = needs  # whether a gradient can pass
        self.hooks = None  # [(number of the result, function of its gradient)]

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
    arrays(args, given) -> args                                      PyTorch's order of arguments, see arguments.py
    `out`, `g`, `shape` and the ids are tuples where the op has several results; a g is None where no gradient came.
    """

    def __init__(self, name: str, formula: str, *, forward, backward, composed, axes=None, macs=None, arrays=None):
        self.__name__, self.formula, self.arrays = name, formula, arrays or by_position(name, forward)
        self.forward, self.backward, self.composed, self.axes, self.macs = forward, backward, composed, axes, macs

    def __call__(self, *args, **given):
        args = [Tensor(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in self.arrays(args, given)]
        if current_form() == "composed":
            calls[self.__name__, "composed"] += 1
            return self.composed(*args, **given)
        return record(self, args, given)


def record(function, args, kwargs):
    """Call a function on the arrays of its arguments and write the line on the tape if anything may need it."""
    if isinstance(function, np.ufunc) or function is np.where:
        args = rules.promote(function, args)
    values = tuple([a.data if isinstance(a, Tensor) else a.item() if not getattr(a, "ndim", 1) else a for a in args])
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


def backpropagate(
    roots, root_grads, *, leaves=None, create_graph=False, retain_graph=False, stop=False, arrived=None
) -> dict:
    """Walk the tape backwards; return {key of a Tensor: its gradient} for the leaves, or for the Tensors `leaves`.

    With create_graph the rules are called with Tensors and so recorded. With stop, the walk ends at `leaves`.
    arrived(leaf, gradient) is called as soon as a leaf's gradient is complete, while the walk goes on.
    """
    wanted = frozenset(map(_key, leaves or ()))
    pending: dict = {}  # what has arrived so far at each Tensor not yet visited
    order: list[Node] = []
    seen: set[int] = set()
    for root, g in zip(roots, root_grads, strict=True):
        pending[_key(root)] = pending[_key(root)] + g if _key(root) in pending else g
        below = topological(root, wanted if stop else frozenset())
        order += [n for n in below if id(n) not in seen]
        seen.update(map(id, below))
    last: dict[int, list[Tensor]] = {}  # node -> the leaves that no node visited later takes
    for node in order:
        for a in node.args:
            if isinstance(a, Tensor) and a.node is None and a.requires_grad and id(a) not in seen:
                seen.add(id(a))
                last.setdefault(id(node), []).append(a)
    found: dict = {}
    for node in reversed(order):
        several = isinstance(node.out, tuple)
        g = tuple([pending.pop((id(node), i), None) for i in range(len(node.out) if several else 1)])
        if g[0] is not None or any([part is not None for part in g]):
            if node.values is None:
                raise GraphError(
                    f"backward a second time through {node.name}: its saved arrays were freed by the first; "
                    "call the first with retain_graph=True"
                )
            if node.hooks:
                g = tuple(_hooked([f for k, f in node.hooks if k == i], part) for i, part in enumerate(g))
            if wanted:
                found |= {(id(node), i): p for i, p in enumerate(g) if p is not None and (id(node), i) in wanted}
            for arg, part in _vjps(node, g if several else g[0], create_graph):
                key = _key(arg)
                if arg.node is None and not create_graph and (part.base is not None or any([part is x for x in g])):
                    part = part.copy()  # a leaf owns its gradient: nobody else may see it change
                pending[key] = pending[key] + part if key in pending else part
            if not (retain_graph or create_graph):
                node.values = node.saved = None
        for leaf in last.get(id(node), ()):
            key = _key(leaf)
            if key in pending and (leaves is None or key in wanted):
                pending[key] = found[key] = leaf._arrived(pending[key]) if leaf.hooks else pending[key]
                if arrived is not None:
                    arrived(leaf, found[key])
    return found | {key: g for key, g in pending.items() if key in wanted or not order}


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
        return [(node.args[i], rules.fit(parts[i], node.values[i])) for i in chosen if parts[i] is not None]
    values, out = (node.args, _result(node.out, node, 0)) if create_graph else (node.values, node.out)
    table, pairs = rules.VJPS[node.function], []
    for i in chosen:
        vjp = (lambda *a, i=i, **k: table(i, *a, **k)) if callable(table) else table[i]
        if vjp is not None:
            pairs.append((node.args[i], rules.fit(vjp(g, out, *values, **node.kwargs), values[i])))
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
    """dloss/d(input) for each input: arrays of its own; with create_graph, Tensors to be differentiated again."""
    inputs, wrap = list(inputs), Tensor if create_graph else np.asarray
    own = (lambda g: g) if create_graph else np.array  # inside the graph, one array may be several gradients
    found = backpropagate(
        [loss], [wrap(np.ones_like(loss.data))], leaves=inputs, create_graph=create_graph, retain_graph=retain_graph
    )
    return [own(found[_key(t)]) if _key(t) in found else wrap(np.zeros_like(t.data)) for t in inputs]


def _binary(function):  # the operator, and its reflection for a number or an array on the left
    return (
        lambda self, other: record(function, (self, Tensor(other) if isinstance(other, list) else other), {}),
        lambda self, other: record(function, (Tensor(other) if isinstance(other, list) else other, self), {}),
    )


class Tensor(Methods):
    """An ndarray that remembers how it was made.

    data: the ndarray, replaced (never written into) by optimizers; grad: an ndarray of its shape, or None.
    A list of Python floats becomes float32; an ndarray keeps its dtype.
    """

    __slots__ = ("data", "grad", "requires_grad", "node", "index", "hooks", "__weakref__")

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
        self.hooks: list | None = None  # of a leaf: [(function, whether after .grad is set)]

    # -- NumPy's protocols: its semantics, recorded ------------------------------------------------------------------
    def __minidl_record__(self, function, args, kwargs):
        return record(function, args, kwargs)

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if method == "__call__" and not kwargs:
            if ufunc in rules.VJPS:
                return record(ufunc, args, {})
            if ufunc in _QUESTIONS:
                return ufunc(*[a.data if isinstance(a, Tensor) else a for a in args])
        what = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
        with_ = f" with {', '.join(kwargs)}=" if kwargs else ""
        raise UnsupportedOp(f"np.{what}{with_} is not recorded by minidl; use t.detach().numpy() for its value")

    def __array_function__(self, function, types, args, kwargs):
        own, names, least, most = numpy_names.signature(function)
        if most is None or not least <= len(args) + len(kwargs) or len(args) > most or not kwargs.keys() <= names:
            strange = ", ".join(f"{k}=" for k in sorted(kwargs.keys() - names))
            with_ = f" with {strange or f'{len(args)} arguments'}" if most is not None else ""
            what = f"{function.__module__.replace('numpy', 'np')}.{function.__name__}{with_}"
            raise UnsupportedOp(f"{what} is not recorded by minidl; use t.detach().numpy() for its value")
        return own(*args, **kwargs) if own else record(function, args, kwargs)

    def __array__(self, dtype=None, copy=None):
        raise UnsupportedOp(
            "a Tensor would lose its history as an ndarray; say t.detach().numpy() if that is what you want"
        )

    # -- what it is; its methods under PyTorch's names are in methods.py -----------------------------------------------
    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    T = property(lambda self: record(np.transpose, (self,), {}))
    is_leaf = property(lambda self: self.node is None)

    def size(self, dim=None):
        return self.data.shape if dim is None else self.data.shape[dim]

    def numel(self) -> int:
        return self.data.size

    def dim(self) -> int:
        return self.data.ndim

    def tolist(self):
        return self.data.tolist()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        if self.node is not None:
            raise GraphError("requires_grad_ is for leaves: this Tensor was made by a recorded function; detach() it")
        if requires_grad and self.dtype.kind != "f":
            raise UnsupportedOp(f"only floats have a gradient: this Tensor is {self.dtype}")
        self.requires_grad = requires_grad
        return self

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
        options = dict(create_graph=create_graph, retain_graph=retain_graph)
        found = backpropagate([self], [Tensor(g) if create_graph else g], arrived=Tensor._accumulate, **options)
        if self.node is None:
            self._accumulate(self._arrived(found[_key(self)]))

    def _arrived(self, g):
        return _hooked([f for f, after in self.hooks or () if not after], g)

    def _accumulate(self, g) -> None:
        total = g if self.grad is None else self.grad + g
        self.grad = (
            total if isinstance(total, (np.ndarray, Tensor)) else np.asarray(total)
        )  # NumPy makes 0-d arrays numbers
        for hook in [f for f, after in self.hooks if after] if self.hooks else ():
            hook(self)

    def register_hook(self, hook: Callable):
        """Call hook(gradient) when this Tensor's gradient is complete; what it returns, unless None, takes its place.

        The gradient is an ndarray (a Tensor with create_graph) that others may share: return a changed copy instead of
        writing into it. Returns a handle: handle.remove().
        """
        if not self.requires_grad:
            raise GraphError("register_hook: no gradient will come here, this Tensor does not require one")
        if self.node is None:
            return self._hook((hook, False))
        self.node.hooks = self.node.hooks if self.node.hooks is not None else []
        return _handle(self.node.hooks, (self.index, hook))

    def register_post_accumulate_grad_hook(self, hook: Callable):
        """Call hook(leaf) as soon as a leaf's .grad is complete, while the walk back goes on. Returns a handle."""
        if self.node is not None or not self.requires_grad:
            raise GraphError("register_post_accumulate_grad_hook takes a leaf that requires a gradient")
        return self._hook((hook, True))

    def _hook(self, entry):
        self.hooks = self.hooks if self.hooks is not None else []
        return _handle(self.hooks, entry)

    __add__, __radd__ = _binary(np.add)
    __sub__, __rsub__ = _binary(np.subtract)
    __mul__, __rmul__ = _binary(np.multiply)
    __truediv__, __rtruediv__ = _binary(np.divide)
    __matmul__, __rmatmul__ = _binary(np.matmul)
    _power, __rpow__ = _binary(np.power)
    __neg__ = lambda self: record(np.negative, (self,), {})
    __abs__ = lambda self: record(np.absolute, (self,), {})

    def __pow__(self, other):
        return self.square() if isinstance(other, (int, float)) and other == 2 else self._power(other)

    def __getitem__(self, index):
        return rules.getitem(self, index=index)

    def __setitem__(self, index, value):
        raise UnsupportedOp(
            "a Tensor is not written into: its history would be wrong. Take np.where, masked_fill or scatter_add; "
            "for a leaf without history write into t.data"
        )

    def astype(self, dtype):
        """The values in another dtype; recorded between floats, refused where it would cut the graph."""
        if self.requires_grad and np.dtype(dtype).kind != "f":
            raise UnsupportedOp(f"astype from {self.dtype} to {np.dtype(dtype)} has no gradient; say t.detach() first")
        return self if np.dtype(dtype) == self.dtype else rules.astype(self, dtype=np.dtype(dtype))

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.data)

    def __float__(self):
        return float(self.data)

    def __int__(self):
        return int(self.data)

    def __repr__(self):
        made = f", made by {self.node.name}" if self.node is not None else ", requires_grad" * self.requires_grad
        return f"Tensor({np.array2string(self.data, precision=4, threshold=20)}, {self.dtype}{made})"

    __hash__ = object.__hash__


def _hooked(hooks, g):
    for hook in hooks if g is not None else ():
        changed = hook(g)
        g = g if changed is None else changed
    return g


def _handle(hooks: list, entry):
    hooks.append(entry)
    return SimpleNamespace(remove=lambda: hooks.remove(entry))


_QUESTIONS = {
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.isnan, np.isfinite, np.isinf,
    np.signbit,
}  # fmt: skip  # their answer is a plain ndarray
