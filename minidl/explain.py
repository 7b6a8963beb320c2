"""explain: walk the tape of a loss forwards and backwards, as text, and in a notebook as a page with a picture.

    >>> y = w * x + b
    >>> print(explain((y * y).sum(), w=w, b=b, y=y))
    forward: every call on the tape, arguments before results
      w     a leaf                          (2,) float32       [0.5 -1]
      #1    = multiply(w, [3 2])   [x * y]  (2,) (2,) -> (2,)  [1.5 -2]
      ...
    backward: from the loss to the leaves; each call hands the gradient of its result on to its arguments
      ...
      multiply: dL/d#3 = [1 1] arrives
          dL/dy = [1.6 -1.9]
          dL/dy = [1.6 -1.9] so far + [1.6 -1.9] = [3.2 -3.8]

It reads what `backward` reads (the nodes, their rules or their Op's backward, `topological`) and therefore knows no
list of operations. It writes nothing: no `.grad` changes, no graph is freed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidl import explain_html
from minidl.errors import GraphError
from minidl.tensor import Tensor, _key, _vjps, topological


@dataclass(frozen=True)
class Explanation:
    """The two walks as lines of text, and the boxes of the picture. print() it; a notebook shows it as a page.

    svg(): the picture alone; html(): the page, as a notebook shows it.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]
    boxes: tuple[explain_html.Box, ...]

    def svg(self) -> str:
        return explain_html.svg(self.boxes)

    def html(self) -> str:
        return explain_html.page(self.boxes, self.forward, self.backward)

    _repr_html_ = html

    def __str__(self) -> str:
        return "\n".join([
            "forward: every call on the tape, arguments before results", *self.forward,
            "backward: from the loss to the leaves; each call hands the gradient of its result on to its arguments",
            *self.backward,
        ])  # fmt: skip

    __repr__ = __str__


def explain(loss: Tensor, names: dict[str, Tensor] | None = None, **more: Tensor) -> Explanation:
    """The tape of a scalar loss, forwards and backwards: one line a call, then the gradients that each call hands on.

    names: what to call Tensors, as explain(loss, x=x, w=w) or explain(loss, dict(model.named_parameters())); a leaf
    without a name is leaf1, leaf2, ... Call it before backward(), which frees the tape. Raises GraphError.
    """
    if not loss.requires_grad or loss.node is None:
        raise GraphError("nothing to explain: no recorded call on a Tensor that requires a gradient led to this loss")
    if loss.data.size != 1:
        raise GraphError(f"explain needs a scalar loss; this Tensor has shape {loss.shape}: sum it first")
    tape = topological(loss)
    if any(node.values is None for node in tape):
        raise GraphError("backward has freed this tape: explain the loss first, or call backward(retain_graph=True)")
    given = {"loss": loss, **(names or {}), **more}
    labels = _labels(tape, {_key(t): name for name, t in given.items()})
    arrived: dict = {}  # the whole gradient of every Tensor, which the walk back fills in
    backward = tuple(_backward(loss, tape, labels, arrived))
    return Explanation(tuple(_aligned(_forward(tape, labels))), backward, tuple(_boxes(tape, labels, arrived)))


def _labels(tape, named) -> dict:
    """A short name for every Tensor on the tape: the given one, or #number (a result), leaf1, leaf2, ... (a leaf)."""
    labels, leaves = dict(named), 0
    for number, node in enumerate(tape, 1):
        for a in node.args:
            if isinstance(a, Tensor) and a.requires_grad and _key(a) not in labels:
                leaves += 1
                labels[_key(a)] = f"leaf{leaves}"
        several = isinstance(node.out, tuple)
        for i in range(len(node.out) if several else 1):
            labels.setdefault((id(node), i), f"#{number}" + (f".{i}" if several else ""))
    return labels


def _forward(tape, labels):
    """Each leaf before the first call that takes it; each call with its formula, shapes and result: rows of a table."""
    shown = set()
    for node in tape:
        for a in node.args:
            if isinstance(a, Tensor) and a.node is None and _key(a) in labels and _key(a) not in shown:
                shown.add(_key(a))
                yield labels[_key(a)], "a leaf" if a.requires_grad else "data", f"{a.shape} {a.dtype}", _short(a.data)
        outs = node.out if isinstance(node.out, tuple) else (node.out,)
        options = [f"{k}={_short(v)}" for k, v in node.kwargs.items() if v is not None and v is not False]
        call = f"{node.name}({', '.join([_argument(a, labels) for a in node.args] + options)})"
        made = ", ".join(labels[id(node), i] for i in range(len(outs)))
        shapes = " ".join(str(a.shape) for a in node.values if isinstance(a, np.ndarray))
        shapes += f" -> {' '.join(str(np.shape(o)) for o in outs)}"
        yield made, f"= {call}   [{node.formula}]", shapes, "; ".join(map(_short, outs))


def _aligned(rows):
    """Columns as wide as their widest cell, but at most 44: a longer cell pushes its own line only."""
    rows = list(rows)
    widths = [min(44, max(len(row[k]) for row in rows)) for k in range(3)]
    return ["  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, (*widths, 0), strict=True)) for row in rows]


def _boxes(tape, labels, arrived):
    """Every leaf and every call, arguments first."""
    number: dict = {}  # key of a Tensor -> its box
    count = 0
    for node in tape:
        parents = []
        for a in node.args:
            if isinstance(a, Tensor) and _key(a) in labels:
                if _key(a) not in number:
                    number[_key(a)] = count
                    count += 1
                    yield _box(a.data, [_key(a)], "leaf", _short(a.data), labels, arrived, ())
                parents.append(number[_key(a)])
        outs = node.out if isinstance(node.out, tuple) else (node.out,)
        keys = [(id(node), i) for i in range(len(outs))]
        detail = f"{node.formula}\n{'; '.join(map(_short, outs))}"
        yield _box(outs[0], keys, node.name, detail, labels, arrived, tuple(dict.fromkeys(parents)))
        number |= dict.fromkeys(keys, count)
        count += 1


def _box(array, keys, title, detail, labels, arrived, parents):
    gradient = "; ".join(_short(arrived[k]) for k in keys if k in arrived)
    shape = f"{np.shape(array)} {np.asarray(array).dtype}"
    name = ", ".join(labels[k] for k in keys)
    return explain_html.Box(name, title, shape, detail, f"gradient {gradient}" if gradient else "", parents)


def _backward(loss, tape, labels, pending):
    """The walk of `backpropagate`: `pending` holds the gradient that has arrived at each Tensor so far."""
    pending[_key(loss)] = np.ones_like(loss.data)
    for node in reversed(tape):
        several = isinstance(node.out, tuple)
        g = tuple(pending.get((id(node), i)) for i in range(len(node.out) if several else 1))
        if all(part is None for part in g):  # a rule without a derivative (sign) stopped the gradient above
            continue
        came = ", ".join(f"dL/d{labels[id(node), i]} = {_short(p)}" for i, p in enumerate(g) if p is not None)
        yield f"  {node.name}: {came} arrives"
        for arg, part in _vjps(node, g if several else g[0], False):
            key, line = _key(arg), f"      dL/d{labels[_key(arg)]} = "
            if key in pending:  # used in several places: the gradients of all of them add up
                yield f"{line}{_short(pending[key])} so far + {_short(part)} = {_short(pending[key] + part)}"
            else:
                yield f"{line}{_short(part)}"
            pending[key] = pending[key] + part if key in pending else part


def _argument(a, labels) -> str:
    return labels[_key(a)] if isinstance(a, Tensor) and _key(a) in labels else _short(getattr(a, "data", a))


def _short(x) -> str:
    """At most five numbers of three digits, and how many more there are: [0.5 -1 2 ... 97 more]."""
    if x is None or isinstance(x, (bool, int, str, tuple, slice)):
        return str(x)
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        return str(x)
    numbers = [f"{v:.3g}" if x.dtype.kind == "f" else str(v) for v in x.ravel()[:5].tolist()]
    more = [f"... {x.size - 5} more"] if x.size > 5 else []
    return numbers[0] if x.ndim == 0 else f"[{' '.join(numbers + more)}]"
