"""Module: parameters found by walking attributes; Sequential, modules one after the other; ModuleList.

A layer is an ordinary object. Its Parameters, its sub-modules and lists of them are its attributes; their names are the
attribute names joined by dots, as in PyTorch. Arrays that training changes without a gradient (BatchNorm's running
statistics) are named in the class's `buffers`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.errors import InputError, ShapeError
from minidl.tensor import Tensor


class Parameter(Tensor):
    """A Tensor that is trained: a leaf that requires a gradient."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(data, requires_grad=True)


class Module:
    """Base class of layers and models: write `forward`, call the module."""

    training = True
    buffers: tuple[str, ...] = ()
    forward: Callable[..., Any]
    __call__: Callable[..., Any]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.__call__ = cls.forward  # nothing happens between the call and forward: nothing to step over

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct sub-modules, in the order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Module))

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this one, whose own name is "", and all below."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(dotted name, Parameter), each Parameter once, own ones before those of sub-modules."""
        seen: set[int] = set()
        for name, p in self._named(prefix):
            if id(p) not in seen:
                seen.add(id(p))
                yield name, p

    def _named(self, prefix):
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._named(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True):
        """Switch dropout and BatchNorm to training (or, with False, to evaluation) in all sub-modules."""
        for m in self.modules():
            m.training = mode
        return self

    def eval(self):
        return self.train(False)

    def astype(self, dtype):
        """Change every parameter and buffer to a dtype, in place; exactness tests run in float64."""
        for m in self.modules():
            for name in m.buffers:
                if getattr(m, name).dtype.kind == "f":  # places stay integers
                    setattr(m, name, getattr(m, name).astype(dtype))
        for p in self.parameters():
            p.data, p.grad = p.data.astype(dtype), None
        return self

    def state_dict(self, prefix: str = "") -> dict[str, np.ndarray]:
        """{dotted name: array} of all parameters and buffers: references, not copies (steps replace p.data)."""
        state = {prefix + k: v.data for k, v in vars(self).items() if isinstance(v, Parameter)}
        state |= {prefix + k: getattr(self, k) for k in self.buffers}
        for name, child in self.children():
            state |= child.state_dict(f"{prefix}{name}.")
        return state

    def load_state_dict(self, state: dict[str, np.ndarray], strict: bool = True) -> tuple[list[str], list[str]]:
        """Take over the arrays of `state`; returns (missing names, names not known here), as PyTorch does.

        With strict, missing and unknown names raise InputError; wrong shapes always raise ShapeError; then nothing is
        changed. Without strict, what is missing keeps its array.
        """
        own = self.state_dict()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        extra = [k for k in extra if not k.endswith("num_batches_tracked")]  # PyTorch's BatchNorm counts its batches
        if strict and (missing or extra):
            raise InputError(f"state_dict does not fit: missing {missing or 'nothing'}, not known {extra or 'nothing'}")
        given = {k: state[k] for k in own if k in state}
        wrong = [f"{k}: {v.shape} for {own[k].shape}" for k, v in given.items() if v.shape != own[k].shape]
        if wrong:
            raise ShapeError(f"state_dict does not fit: {'; '.join(wrong)}")
        self._load(own | given, "")
        return missing, extra

    def _load(self, state, prefix):
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                value.data = np.array(state[prefix + name], dtype=value.dtype)
        for name in self.buffers:
            setattr(self, name, np.array(state[prefix + name], dtype=getattr(self, name).dtype))
        for name, child in self.children():
            child._load(state, f"{prefix}{name}.")

    def __repr__(self):
        lines = [f"({n}): {m!r}".replace("\n", "\n  ") for n, m in self.children()]
        inside = "\n  " + "\n  ".join(lines) + "\n" if lines else ""
        return f"{type(self).__name__}({self.extra_repr()}{inside})"

    def extra_repr(self) -> str:
        return ""


class _Members(Module):
    """What Sequential and ModuleList are: a list of modules, which are named "0", "1", ... by their places."""

    def __init__(self, members):
        self.members = list(members)
        self.numbers = range(len(self.members))

    def children(self) -> Iterator[tuple[str, Module]]:
        """As of any module, but for the members: their names are their numbers alone. A plain function counts too."""
        for name, child in super().children():
            place = name.removeprefix("members.")
            yield (name if place == name else str(self.numbers[int(place)])), child

    def append(self, module):
        return self.insert(len(self), module)

    def extend(self, modules):
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module):
        """Put a module before the one at `index`; all are numbered again, as after `del`."""
        self.members.insert(index, module)
        self.numbers = range(len(self.members))
        return self

    def __len__(self):
        return len(self.members)

    def __iter__(self):
        return iter(self.members)

    def __setitem__(self, index: int, module):
        self.members[operator.index(index)] = module

    def __delitem__(self, index):
        del self.members[index]
        self.numbers = range(len(self.members))


class Sequential(_Members):
    """Modules (or plain functions of one Tensor) one after the other: y = m_k(... m_1(x)).

    model[0], model[-1], len(model) and loops as of a list; append, extend, insert, `model[i] = m` and `del model[i]`
    change it. The parameters' names are PyTorch's: "0.weight", "0.bias", "2.weight". A slice is a Sequential of the
    same modules, which keep their numbers, as in PyTorch, until something is put in or taken out.
    """

    def __init__(self, *members):
        super().__init__(members)

    def forward(self, x: Tensor) -> Tensor:
        for member in self.members:
            x = member(x)
        return x

    def __getitem__(self, index):
        if not isinstance(index, slice):
            return self.members[index]
        part = Sequential(*self.members[index])
        part.numbers = self.numbers[index]
        return part


class ModuleList(_Members):
    """A list of modules whose parameters are found: under "0.", "1.", ... below the list's own name, as in PyTorch.

    A plain list attribute does the same; this is the name a PyTorch user looks for. It has no forward. Its slices are
    numbered from 0.
    """

    def __init__(self, modules=()):
        super().__init__(modules)

    def __getitem__(self, index):
        return ModuleList(self.members[index]) if isinstance(index, slice) else self.members[index]
