"""Recurrent: layers of one recurrent op on top of each other, each in one direction or both. LSTM, GRU, RNN are these.

    x: (T, B, I) -> y: (T, B, D H), the state after the last step       L layers, D directions, H hidden units

Layer k + 1 reads what layer k says; in two directions a second cell reads the sequence backwards, and their outputs
stand side by side. The state goes in and comes out, nothing is hidden: truncated back-propagation detaches it between.

A single layer in one direction has weight_ih, weight_hh, bias_ih, bias_hh and a state of shape (B, H). A stack has
PyTorch's names (weight_ih_l0, weight_ih_l0_reverse, weight_ih_l1, ...) and a state of shape (L D, B, H), or a list with
one array (B, H) for each cell: then its cells need not be equally wide, which they no longer are when units were
taken out of them. A state comes out as it went in.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.layers.dropout import Dropout
from minidl.layers.linear import product
from minidl.layers.module import Module, Parameter
from minidl.tensor import Tensor

TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def check_shapes(name: str, gates: int, x, h, w_ih, w_hh) -> None:
    """Refuse shapes that do not fit an op with so many gates."""
    width = w_hh.shape[-1]
    if x.ndim != 3 or (w_ih.shape, w_hh.shape, h.shape) != (
        (gates * width, x.shape[-1]), (gates * width, width), (x.shape[1], width)
    ):  # fmt: skip
        rows = f"{gates}H" if gates > 1 else "H"
        raise ShapeError(
            f"{name}: x {x.shape}, h {h.shape}, w_ih {w_ih.shape}, w_hh {w_hh.shape} do not fit; "
            f"they must be (T, B, I), (B, H), ({rows}, I), ({rows}, H)"
        )


@twin
def recurrent_weights(w_hh, batch):
    """W_hh^T for the products of all time steps, laid out as they read it.  w_hh: (G, H) -> (H, G), batch: B."""
    return np.ascontiguousarray(w_hh.T)  # BLAS reads it twice as fast


@twin
def recurrent_product(h, weights):
    """h W_hh^T of one time step.  h: (B, H), weights: (H, G) from recurrent_weights -> (B, G)."""
    return product(h, weights)


class Recurrent(Module):
    """Base of LSTM, GRU and RNN: `run(x, state, weights)` is one layer in one direction.

    dropout: on what each layer but the last says, in training. batch_first: x and y are (B, T, ...), the state is not.
    Everything starts at U(-1/sqrt(H), 1/sqrt(H)).
    """

    gates = 1  # blocks of H rows in the weights
    parts = 1  # arrays in a state: h, or h and c

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, rng: np.random.Generator,
        bidirectional: bool = False, dropout: float = 0.0, batch_first: bool = False,
    ):  # fmt: skip
        self.num_layers, self.directions, self.batch_first = num_layers, 2 if bidirectional else 1, batch_first
        bound, rows = hidden_size**-0.5, self.gates * hidden_size
        for cell in range(num_layers * self.directions):
            width = input_size if cell < self.directions else self.directions * hidden_size
            shapes: tuple[tuple[int, ...], ...] = (rows, width), (rows, hidden_size), (rows,), (rows,)
            for name, shape in zip(self.names(cell), shapes, strict=True):
                setattr(self, name, Parameter(rng.uniform(-bound, bound, shape).astype(np.float32)))
        self.dropout = Dropout(dropout, rng=rng) if dropout else None

    @property
    def single(self) -> bool:
        return self.num_layers == self.directions == 1

    def names(self, cell: int) -> list[str]:
        """The names of the four tensors of one cell, counted layer by layer, forwards before backwards."""
        layer, backwards = divmod(cell, self.directions)
        return [name if self.single else f"{name}_l{layer}" + "_reverse" * backwards for name in TENSORS]

    def weights(self, cell: int = 0) -> list[Parameter]:
        return [getattr(self, name) for name in self.names(cell)]

    def run(self, x: Tensor, state: tuple[Tensor, ...], weights: list[Parameter]) -> tuple[Tensor, ...]:
        """(y, *state after the last step) of one layer in one direction."""
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def forward(self, x: Tensor, state=None):
        x = x.transpose(0, 1) if self.batch_first else x
        together = self.equally_wide if state is None else False  # a state of zeros is made cell by cell
        state = self.zero_state(x.shape[1], cells=not self.single) if state is None else state
        state = (state,) if self.parts == 1 else state if isinstance(state, (tuple, list)) else (state,)
        if len(state) != self.parts:
            raise InputError(f"{type(self).__name__}: its state has {self.parts} arrays; got {len(state)}")
        if self.single:
            y, *after = self.run(x, state, self.weights())
        else:
            y, after = self._stack(x, state, together)
        return y.transpose(0, 1) if self.batch_first else y, tuple(after) if self.parts > 1 else after[0]

    @property
    def equally_wide(self) -> bool:
        """Whether all cells have as many units, so that one array can hold their state."""
        return len({self.weights(cell)[1].shape for cell in range(self.num_layers * self.directions)}) == 1

    def _stack(self, x, state, together):
        widths = [self.weights(cell)[1].shape[1] for cell in range(self.num_layers * self.directions)]
        for part in state:
            each = isinstance(part, (tuple, list))
            shapes = [p.shape for p in part] if each else part.shape
            fits = [(x.shape[1], width) for width in widths] if each else (len(widths), x.shape[1], widths[0])
            if shapes != fits or not (each or self.equally_wide):
                raise ShapeError(
                    f"{type(self).__name__}: a state has shape {shapes} for x {x.shape}; it must be (layers x "
                    f"directions, B, H) = ({len(widths)}, {x.shape[1]}, {widths[0]})"
                    + ("" if self.equally_wide else f", as a list of {len(widths)}, for H = {widths}")
                )
            together = together or not each
        after = []
        for layer in range(self.num_layers):
            said = []
            for backwards in range(self.directions):
                cell = layer * self.directions + backwards
                own = tuple(part[cell] for part in state)
                y, *end = self.run(x[::-1] if backwards else x, own, self.weights(cell))
                said.append(y[::-1] if backwards else y)
                after.append(end)
            x = np.concatenate(said, axis=2) if self.directions > 1 else said[0]
            if self.dropout is not None and layer < self.num_layers - 1:
                x = self.dropout(x)
        return x, [np.stack(part) if together else list(part) for part in zip(*after, strict=True)]

    def zero_state(self, batch: int, cells: bool | None = None):
        """The state of zeros that a sequence starts from: (B, H), of a stack (L D, B, H); for an LSTM twice, (h, c).

        cells: of a stack, one array (B, H) for each cell; by default where they are not equally wide.
        """
        widths = [self.weights(cell)[1].shape[1] for cell in range(self.num_layers * self.directions)]
        dtype = self.weights()[1].dtype

        def zeros():
            each = [Tensor(np.zeros((batch, width), dtype)) for width in widths]
            if self.single:
                return each[0]
            apart = not self.equally_wide if cells is None else cells
            return each if apart else Tensor(np.zeros((len(widths), batch, widths[0]), dtype))

        return tuple(zeros() for _ in range(self.parts)) if self.parts > 1 else zeros()

    def extra_repr(self) -> str:
        w_ih, w_hh, *_ = self.weights()
        layers = f", {self.num_layers} layers" if self.num_layers > 1 else ""
        return f"{w_ih.shape[1]}, {w_hh.shape[1]}{layers}" + ", bidirectional" * (self.directions > 1)
