"""RNN: the plain recurrent layer, a hidden layer that reads itself.

    x: (T, B, I)   h0: (B, H)   w_ih: (H, I)   w_hh: (H, H)   bias: (H,)   -> h: (T, B, H), h_T: (B, H)

    h_t = tanh(x_t W_ih^T + h_{t-1} W_hh^T + b)           or relu in tanh's place

Backwards in time, with dh = dL/dh_t from above and from t + 1:

    dz = dh (1 - h_t^2)        relu: dh where h_t > 0
    dh_{t-1} = dz W_hh

A gradient that passes many steps is multiplied by W_hh as often: it vanishes or explodes, which is why LSTM and GRU are
there. (Elman 1990)
"""

from __future__ import annotations

import numpy as np

from minidl import rules
from minidl.errors import InputError
from minidl.layers.recurrent import Recurrent, check_shapes
from minidl.tensor import Op

ACTIVATIONS = {"tanh": (np.tanh, lambda h: 1 - h * h), "relu": (rules.relu, lambda h: h > 0)}
"""name -> (the function, its derivative by its result)."""


def _forward(x, h, w_ih, w_hh, bias, *, nonlinearity="tanh"):
    check_shapes("rnn", 1, x, h, w_ih, w_hh)
    activation, _ = ACTIVATIONS[nonlinearity]
    steps, batch, features = x.shape
    z = (x.reshape(steps * batch, features) @ w_ih.T + bias).reshape(steps, batch, len(w_hh))
    hs = np.empty((steps + 1, batch, len(w_hh)), x.dtype)
    hs[0], recurrent = h, np.ascontiguousarray(w_hh.T)
    for t in range(steps):
        hs[t + 1] = activation(z[t] + hs[t] @ recurrent)
    return (hs[1:], hs[-1]), hs


def _backward(g, out, hs, needs, x, h, w_ih, w_hh, bias, *, nonlinearity="tanh"):
    _, slope = ACTIVATIONS[nonlinearity]
    steps, batch, features = x.shape
    zero = np.zeros_like(h)
    g_h, dh = (zero if part is None else part for part in g)
    dz = np.empty_like(hs[1:])
    for t in reversed(range(steps)):
        if g[0] is not None:
            dh = dh + g_h[t]
        dz[t] = dh * slope(hs[t + 1])
        dh = dz[t] @ w_hh
    rows = dz.reshape(steps * batch, dz.shape[2])
    return (
        (rows @ w_ih).reshape(x.shape) if needs[0] else None,
        dh,
        rows.T @ x.reshape(steps * batch, features),
        rows.T @ hs[:-1].reshape(rows.shape),
        rows.sum(0),
    )


def _composed(x, h, w_ih, w_hh, bias, *, nonlinearity="tanh"):
    activation, _ = ACTIVATIONS[nonlinearity]
    hs = []
    for t in range(x.shape[0]):
        h = activation(x[t] @ w_ih.T + h @ w_hh.T + bias)
        hs.append(h)
    return np.stack(hs), h


def _axes(u, shape, x, h, w_ih, w_hh, bias, **kwargs):
    u.reads(w_ih, 1, x, 2, fold=bias)
    u.reads(w_hh, 1, h, 1)  # what a unit says at time t is what the recurrent weights read at t + 1
    for rows in (w_ih[0], w_hh[0], bias[0]):
        u.unite(h[1], rows)
    return (x[0], x[1], h[1]), (x[1], h[1])


def _macs(shape, x, h, w_ih, w_hh, bias, **kwargs):
    return x[0] * x[1] * (int(np.prod(w_ih)) + int(np.prod(w_hh)))


rnn = Op(
    "rnn", "h_t = tanh(x_t W_ih^T + h_{t-1} W_hh^T + b)", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes, macs=_macs,
)  # fmt: skip


class RNN(Recurrent):
    """Plain recurrent layers with PyTorch's four tensors each; see recurrent.py for stacks, directions and the state.

    x: (T, B, I), state: None (zeros) or h: (B, H) -> h of all steps: (T, B, H), h_T. nonlinearity: "tanh" or "relu".
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity="tanh", **options):
        if nonlinearity not in ACTIVATIONS:
            raise InputError(f"nonlinearity {nonlinearity!r} is none of {', '.join(ACTIVATIONS)}")
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.nonlinearity = nonlinearity

    def run(self, x, state, weights):
        w_ih, w_hh, b_ih, b_hh = weights
        return rnn(x, *state, w_ih, w_hh, b_ih + b_hh, nonlinearity=self.nonlinearity)
