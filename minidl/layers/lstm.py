"""LSTM: a layer that reads a sequence and carries a memory.

    x: (T, B, I)   h0, c0: (B, H)   w_ih: (4H, I)   w_hh: (4H, H)   bias: (4H,)   -> h: (T, B, H), h_T, c_T: (B, H)

    z = x_t W_ih^T + h_{t-1} W_hh^T + b               the four blocks of z, in PyTorch's order:
    i = sigmoid(z_i)   f = sigmoid(z_f)   g = tanh(z_g)   o = sigmoid(z_o)
    c_t = f c_{t-1} + i g          h_t = o tanh(c_t)

Backwards in time, with dh = dL/dh_t (from above and from t + 1) and dc = dL/dc_t from t + 1:

    dc += dh o (1 - tanh(c)^2)
    dz = [dc g i (1 - i),  dc c_{t-1} f (1 - f),  dc i (1 - g^2),  dh tanh(c) o (1 - o)]
    dh_{t-1} = dz W_hh      dc_{t-1} = dc f

The input's product with W_ih needs no recurrence: it is one matrix product for all time steps, and so are the two
weight gradients. (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl import rules
from minidl.backend import current_form, twin
from minidl.layers.linear import product
from minidl.layers.recurrent import Recurrent, check_shapes, recurrent_product, recurrent_weights
from minidl.tensor import Op, Tensor


@twin
def lstm_cell(z, c_before):
    """One time step after the products: (gates, c, tanh(c), h).

    z: (B, 4H), c_before: (B, H) -> gates: (B, 4H) holding i, f, g, o; c, tanh(c), h: (B, H).
    """
    width = c_before.shape[1]
    gates = rules.sigmoid.plain(z)
    gates[:, 2 * width : 3 * width] = np.tanh(z[:, 2 * width : 3 * width])
    i, f, g, o = np.split(gates, 4, axis=1)
    c = f * c_before + i * g
    tanh_c = np.tanh(c)
    return gates, c, tanh_c, o * tanh_c


@twin
def lstm_cell_backward(dh, dc, gates, c_before, tanh_c):
    """One step back: (dz, dc of the step before).

    dh, dc, c_before, tanh_c: (B, H), gates: (B, 4H) -> dz: (B, 4H), dc: (B, H).
    """
    i, f, g, o = np.split(gates, 4, axis=1)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    dz = np.concatenate(
        [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)], axis=1
    )
    return dz, dc * f


def _forward(x, h, c, w_ih, w_hh, bias):
    check_shapes("lstm", 4, x, h, w_ih, w_hh)
    (steps, batch, features), width = x.shape, w_hh.shape[1]
    z = product(x.reshape(-1, features), w_ih.T, bias).reshape(steps, batch, 4 * width)
    hs, cs = np.empty((2, steps + 1, batch, width), x.dtype)
    hs[0], cs[0] = h, c
    gates, tanh_c = np.empty_like(z), np.empty((steps, batch, width), x.dtype)
    weights = recurrent_weights(w_hh, batch)
    for t in range(steps):
        z[t] += recurrent_product(hs[t], weights)
        gates[t], cs[t + 1], tanh_c[t], hs[t + 1] = lstm_cell(z[t], cs[t])
    return (hs[1:], hs[-1], cs[-1]), (hs, cs, gates, tanh_c)


def _backward(g, out, saved, needs, x, h, c, w_ih, w_hh, bias):
    hs, cs, gates, tanh_c = saved
    steps, batch, features = x.shape
    zero = np.zeros_like(h)
    g_h, dh, dc = (zero if part is None else part for part in g)
    dz = np.empty_like(gates)
    for t in reversed(range(steps)):
        if g[0] is not None:
            dh = dh + g_h[t]
        dz[t], dc = lstm_cell_backward(dh, dc, gates[t], cs[t], tanh_c[t])
        dh = product(dz[t], w_hh)
    rows = dz.reshape(steps * batch, dz.shape[2])
    return (
        product(rows, w_ih).reshape(x.shape) if needs[0] else None,
        dh,
        dc,
        product(rows.T, x.reshape(-1, features)),
        product(rows.T, hs[:-1].reshape(rows.shape[0], h.shape[1])),
        rows.sum(0),
    )


def _composed_step(x, h, c, w_ih, w_hh, bias):
    """(z, i, f, o, g, c, tanh(c), h) of one time step from small ops.  x: (B, I)."""
    width = w_hh.shape[1]
    z = x @ w_ih.T + h @ w_hh.T + bias
    i, f, o = (rules.sigmoid(z[:, k * width : (k + 1) * width]) for k in (0, 1, 3))
    g = np.tanh(z[:, 2 * width : 3 * width])
    c = f * c + i * g
    tanh_c = np.tanh(c)
    return z, i, f, o, g, c, tanh_c, o * tanh_c


def _composed(x, h, c, w_ih, w_hh, bias):
    hs = []
    for t in range(x.shape[0]):
        *_, c, _, h = _composed_step(x[t], h, c, w_ih, w_hh, bias)
        hs.append(h)
    return np.stack(hs), h, c


def lstm_steps(x, h, c, w_ih, w_hh, bias) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of one time step in the chosen form: z, i, f, o, u, c, tanh c, h.

    x: (B, I), h, c: (B, H), the weights as in lstm; Tensors or arrays. u is what the equations above call g.
    """
    given = [Tensor(a) for a in (x, h, c, w_ih, w_hh, bias)]
    x, h, c, w_ih, w_hh, bias = (t.data for t in given)
    check_shapes("lstm_steps", 4, x[None], h, w_ih, w_hh)
    if current_form() == "composed":
        found = [t.data for t in _composed_step(*given)]
    else:
        z = x @ w_ih.T + h @ w_hh.T + bias
        gates, c, tanh_c, h = lstm_cell(z, c)
        i, f, u, o = np.split(gates, 4, axis=1)
        found = [z, i, f, o, u, c, tanh_c, h]
    yield from zip(("z", "i", "f", "o", "u", "c", "tanh c", "h"), found, strict=True)


def _axes(u, shape, x, h, c, w_ih, w_hh, bias):
    u.reads(w_ih, 1, x, 2, fold=bias)
    u.reads(w_hh, 1, h, 1)  # what a unit says at time t is what the recurrent weights read at t + 1 ...
    u.unite(h[1], c[1])  # ... and its memory is its own
    for block in (w_ih[0], w_hh[0], bias[0]):
        for gate in np.split(block, 4):
            u.unite(h[1], gate)
    return (x[0], x[1], h[1]), (x[1], h[1]), (x[1], h[1])


def _macs(shape, x, h, c, w_ih, w_hh, bias):
    return x[0] * x[1] * (int(np.prod(w_ih)) + int(np.prod(w_hh)))


lstm = Op(
    "lstm", "h_t = o tanh(c_t), c_t = f c_{t-1} + i g", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes, macs=_macs,
)  # fmt: skip


class LSTM(Recurrent):
    """LSTM layers with PyTorch's four tensors each; see recurrent.py for stacks, directions and the state.

    x: (T, B, I), state: None (zeros) or (h, c), each (B, H) -> h of all steps: (T, B, H), (h_T, c_T).
    """

    gates, parts = 4, 2

    def run(self, x, state, weights):
        w_ih, w_hh, b_ih, b_hh = weights
        return lstm(x, *state, w_ih, w_hh, b_ih + b_hh)

    def steps(self, x, state=None):
        """(name, array) of one time step of the first layer; see lstm_steps. x: (B, I), state: (h, c), each (B, H)."""
        w_ih, w_hh, b_ih, b_hh = (p.data for p in self.weights())
        h, c = state or (np.zeros((x.shape[0], w_hh.shape[1]), w_hh.dtype),) * 2
        return lstm_steps(x, h, c, w_ih, w_hh, b_ih + b_hh)
