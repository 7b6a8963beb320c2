"""GRU: a recurrent layer whose memory is what it says, with a gate between keeping and renewing it.

    x: (T, B, I)   h0: (B, H)   w_ih: (3H, I)   w_hh: (3H, H)   b_ih, b_hh: (3H,)   -> h: (T, B, H), h_T: (B, H)

    zx = x_t W_ih^T + b_ih      zh = h_{t-1} W_hh^T + b_hh           three blocks each, in PyTorch's order:
    r = sigmoid(zx_r + zh_r)    z = sigmoid(zx_z + zh_z)    n = tanh(zx_n + r zh_n)
    h_t = (1 - z) n + z h_{t-1}

The reset gate r multiplies the product, not h_{t-1} (PyTorch and cuDNN; the paper's first version resets h before the
product). Backwards in time, with dh = dL/dh_t from above and from t + 1:

    dn = dh (1 - z) (1 - n^2)      dz = dh (h_{t-1} - n) z (1 - z)      dr = dn zh_n r (1 - r)
    dzx = [dr, dz, dn]             dzh = [dr, dz, dn r]
    dh_{t-1} = dh z + dzh W_hh

(Cho et al. 2014; Chung et al. 2014)
"""

from __future__ import annotations

import numpy as np

from minidl import rules
from minidl.backend import twin
from minidl.layers.recurrent import Recurrent, check_shapes, recurrent_product, recurrent_weights
from minidl.tensor import Op


@twin
def gru_cell(zx, zh, h_before):
    """One time step after the products: (gates, h).

    zx, zh: (B, 3H), h_before: (B, H) -> gates: (B, 3H) holding r, z, n; h: (B, H).
    """
    width = h_before.shape[1]
    gates = np.empty_like(zx)
    gates[:, : 2 * width] = rules.sigmoid.plain(zx[:, : 2 * width] + zh[:, : 2 * width])
    r, z, n = np.split(gates, 3, axis=1)
    n[...] = np.tanh(zx[:, 2 * width :] + r * zh[:, 2 * width :])
    return gates, (1 - z) * n + z * h_before


@twin
def gru_cell_backward(dh, gates, h_before, zh_n):
    """One step back: (dzx, dzh, the part of dh_{t-1} that does not pass W_hh).

    dh, h_before, zh_n: (B, H), gates: (B, 3H) -> (B, 3H), (B, 3H), (B, H).
    """
    r, z, n = np.split(gates, 3, axis=1)
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h_before - n) * z * (1 - z)
    dr = dn * zh_n * r * (1 - r)
    return np.concatenate([dr, dz, dn], axis=1), np.concatenate([dr, dz, dn * r], axis=1), dh * z


def _forward(x, h, w_ih, w_hh, b_ih, b_hh):
    check_shapes("gru", 3, x, h, w_ih, w_hh)
    (steps, batch, features), width = x.shape, w_hh.shape[1]
    zx = (x.reshape(steps * batch, features) @ w_ih.T + b_ih).reshape(steps, batch, 3 * width)
    hs, zh_n = np.empty((steps + 1, batch, width), x.dtype), np.empty((steps, batch, width), x.dtype)
    hs[0], gates, weights = h, np.empty_like(zx), recurrent_weights(w_hh, batch)
    for t in range(steps):
        zh = recurrent_product(hs[t], weights) + b_hh
        zh_n[t] = zh[:, 2 * width :]
        gates[t], hs[t + 1] = gru_cell(zx[t], zh, hs[t])
    return (hs[1:], hs[-1]), (hs, gates, zh_n)


def _backward(g, out, saved, needs, x, h, w_ih, w_hh, b_ih, b_hh):
    hs, gates, zh_n = saved
    steps, batch, features = x.shape
    zero = np.zeros_like(h)
    g_h, dh = (zero if part is None else part for part in g)
    dzx, dzh = np.empty_like(gates), np.empty_like(gates)
    for t in reversed(range(steps)):
        if g[0] is not None:
            dh = dh + g_h[t]
        dzx[t], dzh[t], dh = gru_cell_backward(dh, gates[t], hs[t], zh_n[t])
        dh = dh + dzh[t] @ w_hh
    rows_x, rows_h = (d.reshape(steps * batch, d.shape[2]) for d in (dzx, dzh))
    return (
        (rows_x @ w_ih).reshape(x.shape) if needs[0] else None,
        dh,
        rows_x.T @ x.reshape(steps * batch, features),
        rows_h.T @ hs[:-1].reshape(steps * batch, h.shape[1]),
        rows_x.sum(0),
        rows_h.sum(0),
    )


def _composed(x, h, w_ih, w_hh, b_ih, b_hh):
    hs, width = [], w_hh.shape[1]
    for t in range(x.shape[0]):
        zx, zh = x[t] @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        r, z = (rules.sigmoid((zx + zh)[:, k * width : (k + 1) * width]) for k in (0, 1))
        n = np.tanh(zx[:, 2 * width :] + r * zh[:, 2 * width :])
        h = (1 - z) * n + z * h
        hs.append(h)
    return np.stack(hs), h


def _axes(u, shape, x, h, w_ih, w_hh, b_ih, b_hh):
    u.reads(w_ih, 1, x, 2, fold=b_ih)
    u.reads(w_hh, 1, h, 1)  # what a unit says at time t is what the recurrent weights read at t + 1
    for block in (w_ih[0], w_hh[0], b_ih[0], b_hh[0]):
        for gate in np.split(block, 3):
            u.unite(h[1], gate)
    return (x[0], x[1], h[1]), (x[1], h[1])


def _macs(shape, x, h, w_ih, w_hh, b_ih, b_hh):
    return x[0] * x[1] * (int(np.prod(w_ih)) + int(np.prod(w_hh)))


gru = Op(
    "gru", "h_t = (1 - z) n + z h_{t-1}", forward=_forward, backward=_backward, composed=_composed, axes=_axes,
    macs=_macs,
)  # fmt: skip


class GRU(Recurrent):
    """GRU layers with PyTorch's four tensors each; see recurrent.py for stacks, directions and the state.

    x: (T, B, I), state: None (zeros) or h: (B, H) -> h of all steps: (T, B, H), h_T.
    """

    gates = 3

    def run(self, x, state, weights):
        return gru(x, *state, *weights)
