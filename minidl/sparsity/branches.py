"""Layer removal: a branch around which a shortcut leads, and whose result is constant, is replaced by that constant.

    y = shortcut(x) + branch(x)      branch(x) = c whatever x is      y = shortcut(x) + c

A branch is constant if all weights of one of its layers are 0. What that layer says then depends on no data, nor does
what follows, up to the sum: c is its last module's result, in evaluation beta - mean gamma / sqrt(var + eps) of a
BatchNorm. That module becomes a `Constant`, and the modules before it that nobody hears any more become `Nothing`:
convolutions and BatchNorms of the branch leave physically, while the forward of the block stays as it was written.

If the branch's first layer is the one that is 0, zeros around its constant make the border of the second layer's result
differ: c is then a map for one image size, which is kept only if asked for (`maps`). (Wen et al. 2016, section 3)
"""

from __future__ import annotations

import numpy as np

from minidl.axes import axis_rule, elementwise
from minidl.layers import Module, Parameter
from minidl.sparsity.units import Network, key, layer_of, tensors_in
from minidl.tensor import Tensor, no_grad

BRANCH = "branch: it is constant, and a shortcut leads around it"


class Constant(Module):
    """What is left of a layer that says the same whatever it is given. x: any -> bias, its axes of length 1 or full."""

    def __init__(self, value: np.ndarray):
        self.bias = Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.bias

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.bias.shape))


class Nothing(Module):
    """The place of a layer that left, where nobody hears what it says. x: any -> one 0."""

    def forward(self, x: Tensor) -> Tensor:
        return Tensor(np.zeros((1,) * x.ndim, x.dtype))


class Branches:
    """The constant branches of a traced network.

    constants: {module: what it says, float64}; nothing: the modules before them; refused: rows as Certificate.stays.
    """

    def __init__(self, net: Network, maps: bool = False):
        self.net, self.maps = net, maps
        self.layers = {name: m for name, m in named_modules(net.model) if m.state_dict() and not list(m.children())}
        self.constants: dict[str, np.ndarray] = {}
        self.refused: list[tuple[str, str, int]] = []
        self.readers: dict[tuple, list] = {}
        self.dataless: set[tuple] = set()
        for node in net.tape:
            for a in node.args:
                if isinstance(a, Tensor):
                    self.readers.setdefault(key(a), []).append(node)
            if not isinstance(node.out, tuple) and self._is_dataless(node):
                self.dataless.add((id(node), 0))
        heard = self._heard()
        unheard = set(self.layers) - {self._layer(node) for node in net.tape if id(node) in heard}
        self.nothing = [name for name in self.layers if name in unheard - set(self.constants)] if self.constants else []

    def _moving(self, node) -> list[tuple]:
        """(place, argument) of a node's arguments that do not depend on weights alone."""
        pairs = enumerate(node.args)
        return [(k, a) for k, a in pairs if isinstance(a, (Tensor, np.ndarray)) and not self.net.is_fixed(a)]

    def _layer(self, node) -> str | None:
        """The module whose parameters a node holds."""
        return next((layer_of(name) for name in map(self.net.name_of, node.args) if name), None)

    def _is_dataless(self, node) -> bool:
        """Whether no data reach the result: every argument is dataless, or multiplied by nothing but zeros."""
        silent = {r.data for r in self.net.reads if r.node is node and r.weights and not node.values[r.reader].any()}
        if node.function is np.multiply:
            silent |= {1 - k for k, a in enumerate(node.args) if self.net.is_fixed(a) and not np.any(node.values[k])}
        moving = self._moving(node)
        return bool(moving) and all(
            k in silent or (isinstance(a, Tensor) and key(a) in self.dataless) for k, a in moving
        )

    def _heard(self) -> set[int]:
        """The nodes on the way to an output on which no constant takes over; finds the constants."""
        nodes = {id(node): node for node in self.net.tape}
        last = {self._layer(node): id(node) for node in self.net.tape if self._moving(node)}
        heard: set[int] = set()
        todo: list[tuple[Tensor, str | None]] = []
        for t in tensors_in(self.net.out):  # no shortcut leads around a chain: no line for each of its layers
            todo.append((t, "cut off" if key(t) in self.dataless else None))
        while todo:
            t, refused = todo.pop()
            if t.node is None or id(t.node) in heard:
                continue
            name = self._layer(nodes[id(t.node)])
            if name is not None and name in self.layers and last[name] == id(t.node) and key(t) in self.dataless:
                reason = self._enter(name, t.node)
                if reason is None:
                    continue
                if refused is None:  # what comes before it in the same branch is not worth a line
                    self.refused.append((name, reason, t.shape[1]))
                refused = reason
            heard.add(id(t.node))
            todo += [(a, refused) for a in t.node.args if isinstance(a, Tensor)]
        return heard

    def _enter(self, name: str, node) -> str | None:
        """Enter what this module says as a constant; or the reason why it cannot take the module's place."""
        own = [id(p) for p in self.layers[name].parameters()]
        value = node.out
        for axis in range(value.ndim):
            first = value.take([0], axis)
            value = first if np.abs(value - first).max() <= 1e-12 * max(1, np.abs(first).max()) else value
        if not self._meets_sums((id(node), 0)):
            return "constant, but no shortcut leads around it"
        if sum(n > 1 for n in value.shape) > 1 and not self.maps:
            return "constant, but not the same at every place: it needs a map for one image size (maps=True)"
        if any(sum(id(a) == p for line in self.net.tape for a in line.args) > 1 for p in own):
            return "constant, but run several times"
        self.constants[name] = value
        return None

    def _meets_sums(self, value: tuple) -> bool:
        """Whether a dataless value may have axes of length 1: all it meets are sums with data, which restore them."""
        if value in {key(t) for t in tensors_in(self.net.out)}:
            return False
        for node in self.readers.get(value, []):
            others = [a for a in node.args if isinstance(a, Tensor) and key(a) != value]
            if axis_rule(node.function) is not elementwise:
                return False
            if not ((id(node), 0) in self.dataless or any(a.shape == node.out.shape for a in others)):
                return False
            if (id(node), 0) in self.dataless and not self._meets_sums((id(node), 0)):
                return False
        return value in self.readers

    def rows(self) -> list[tuple[str, str, int]]:
        """(layer, reason, filters) of every layer that leaves."""
        shapes = {layer_of(name): p.shape for name, p in self.net.model.named_parameters() if p.ndim > 1}
        leave = [*self.nothing, *self.constants]
        return [(name, BRANCH, shapes[name][0]) for name in self.layers if name in leave and name in shapes]

    def leave(self, model):
        """Put Constant and Nothing in their places, in `model` itself, which is returned."""
        dtypes = {layer_of(name): p.dtype for name, p in model.named_parameters()}
        for name, value in self.constants.items():
            replace(model, name, Constant(value.astype(dtypes[name])))
        for name in self.nothing:
            replace(model, name, Nothing())
        return model

    def hold(self, model) -> bool:
        """Whether `model`, whose branches have left, still runs and gives the same outputs; notes it if not."""
        try:
            with no_grad():
                out = tensors_in(model(*self.net.args))
            pairs = [(a.data, b.data) for a, b in zip(tensors_in(self.net.out), out, strict=True)]
            same = all(np.abs(a - b).max(initial=0) <= 1e-12 * max(1, np.abs(a).max(initial=0)) for a, b in pairs)
        except Exception:  # whatever a forward may raise between the layers that are gone
            same = False
        if not same:
            reason = "constant, but the forward does not run without it"
            self.refused += [(name, reason, max(value.shape)) for name, value in self.constants.items()]
        return same


def named_modules(module, prefix: str = ""):
    """(dotted name, module) of all modules below this one."""
    for name, child in module.children():
        yield prefix + name, child
        yield from named_modules(child, f"{prefix}{name}.")


def replace(model, name: str, module) -> None:
    """Put a module in the place of the one with this dotted name."""
    old = dict(named_modules(model))[name]
    for owner in model.modules():
        for attribute, value in list(vars(owner).items()):
            if value is old:
                setattr(owner, attribute, module)
            elif isinstance(value, (list, tuple)) and any(v is old for v in value):
                setattr(owner, attribute, type(value)(module if v is old else v for v in value))
