"""Numba twins of layers/lstm.py and layers/gru.py: a cell in one pass, in float32 with a tanh that vectorises.

Both are in this file because Numba's cache does not notice an edit in another one, and both use the tanh below. In
float64 NumPy's tanh is faster than the C library's, one element at a time: these loops run only where "numba" is asked
for by name.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from minidl.backend import current_form
from minidl.fast.jit import FLAGS, jit

f4 = np.float32


def _rational_tanh(x):
    """Odd over even polynomial on [-7.9, 7.9], error below 3e-7; the clamp is written so that NaN passes."""
    x = f4(-7.90531110763549805) if x < f4(-7.90531110763549805) else x
    x = f4(7.90531110763549805) if x > f4(7.90531110763549805) else x
    s = x * x
    p = f4(-2.76076847742355e-16)
    p = p * s + f4(2.00018790482477e-13)
    p = p * s + f4(-8.60467152213735e-11)
    p = p * s + f4(5.12229709037114e-08)
    p = p * s + f4(1.48572235717979e-05)
    p = p * s + f4(6.37261928875436e-04)
    p = p * s + f4(4.89352455891786e-03)
    q = f4(1.19825839466702e-06)
    q = q * s + f4(1.18534705686654e-04)
    q = q * s + f4(2.26843463243900e-03)
    q = q * s + f4(4.89352518554385e-03)
    return x * p / q


def _tanh(x):  # without compilation; with it, the type of x decides once
    return np.tanh(x) if isinstance(x, float) else _rational_tanh(x)


@overload(_tanh, jit_options={"fastmath": FLAGS, "error_model": "numpy"})
def _tanh_of(x):
    return _rational_tanh if x is types.float32 else lambda x: np.tanh(x)


@njit(fastmath=FLAGS, error_model="numpy", inline="always")
def _sigmoid(x):
    return f4(0.5) * _tanh(f4(0.5) * x) + f4(0.5)


@jit
def _cell(z, c_before, gates, c, tanh_c, h):
    width = c.shape[1]
    for b in range(c.shape[0]):
        zi, zf, zg, zo = z[b, :width], z[b, width : 2 * width], z[b, 2 * width : 3 * width], z[b, 3 * width :]
        gi, gf = gates[b, :width], gates[b, width : 2 * width]
        gg, go = gates[b, 2 * width : 3 * width], gates[b, 3 * width :]
        before, after, squashed, out = c_before[b], c[b], tanh_c[b], h[b]
        for j in range(width):
            i, f, g, o = _sigmoid(zi[j]), _sigmoid(zf[j]), _tanh(zg[j]), _sigmoid(zo[j])
            memory = f * before[j] + i * g
            t = _tanh(memory)
            gi[j], gf[j], gg[j], go[j] = i, f, g, o
            after[j], squashed[j], out[j] = memory, t, o * t


@jit
def _cell_backward(dh, dc, gates, c_before, tanh_c, dz, dc_before):
    width = dh.shape[1]
    one = f4(1)
    for b in range(dh.shape[0]):
        gi, gf = gates[b, :width], gates[b, width : 2 * width]
        gg, go = gates[b, 2 * width : 3 * width], gates[b, 3 * width :]
        di, df, dg, do = dz[b, :width], dz[b, width : 2 * width], dz[b, 2 * width : 3 * width], dz[b, 3 * width :]
        for j in range(width):
            i, f, g, o, t, d = gi[j], gf[j], gg[j], go[j], tanh_c[b, j], dh[b, j]
            memory = dc[b, j] + d * o * (one - t * t)
            di[j] = memory * g * i * (one - i)
            df[j] = memory * c_before[b, j] * f * (one - f)
            dg[j] = memory * i * (one - g * g)
            do[j] = d * t * o * (one - o)
            dc_before[b, j] = memory * f


@jit
def _gru_cell(zx, zh, h_before, gates, h):
    width = h.shape[1]
    one = f4(1)
    for b in range(h.shape[0]):
        xr, xz, xn = zx[b, :width], zx[b, width : 2 * width], zx[b, 2 * width :]
        hr, hz, hn = zh[b, :width], zh[b, width : 2 * width], zh[b, 2 * width :]
        gr, gz, gn = gates[b, :width], gates[b, width : 2 * width], gates[b, 2 * width :]
        before, out = h_before[b], h[b]
        for j in range(width):
            r, z = _sigmoid(xr[j] + hr[j]), _sigmoid(xz[j] + hz[j])
            n = _tanh(xn[j] + r * hn[j])
            gr[j], gz[j], gn[j] = r, z, n
            out[j] = (one - z) * n + z * before[j]


@jit
def _gru_cell_backward(dh, gates, h_before, zh_n, dzx, dzh, dh_before):
    width = dh.shape[1]
    one = f4(1)
    for b in range(dh.shape[0]):
        gr, gz, gn = gates[b, :width], gates[b, width : 2 * width], gates[b, 2 * width :]
        xr, xz, xn = dzx[b, :width], dzx[b, width : 2 * width], dzx[b, 2 * width :]
        hr, hz, hn = dzh[b, :width], dzh[b, width : 2 * width], dzh[b, 2 * width :]
        for j in range(width):
            r, z, n, d = gr[j], gz[j], gn[j], dh[b, j]
            dn = d * (one - z) * (one - n * n)
            dz = d * (h_before[b, j] - n) * z * (one - z)
            dr = dn * zh_n[b, j] * r * (one - r)
            xr[j], xz[j], xn[j] = dr, dz, dn
            hr[j], hz[j], hn[j] = dr, dz, dn * r
            dh_before[b, j] = d * z


def _fits(*arrays):
    dtype = np.float64 if current_form() == "numba" and arrays[0].dtype == np.float64 else np.float32
    return all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)


def lstm_cell(z, c_before):
    if not _fits(z, c_before):
        return NotImplemented
    gates, c, tanh_c, h = np.empty_like(z), *(np.empty_like(c_before) for _ in range(3))
    _cell(z, c_before, gates, c, tanh_c, h)
    return gates, c, tanh_c, h


def lstm_cell_backward(dh, dc, gates, c_before, tanh_c):
    if not _fits(dh, dc, gates, c_before, tanh_c):
        return NotImplemented
    dz, dc_before = np.empty_like(gates), np.empty_like(dc)
    _cell_backward(dh, dc, gates, c_before, tanh_c, dz, dc_before)
    return dz, dc_before


def gru_cell(zx, zh, h_before):
    if not _fits(zx, zh, h_before):
        return NotImplemented
    gates, h = np.empty_like(zx), np.empty_like(h_before)
    _gru_cell(zx, zh, h_before, gates, h)
    return gates, h


def gru_cell_backward(dh, gates, h_before, zh_n):
    if not _fits(dh, gates, h_before, zh_n):
        return NotImplemented
    dzx, dzh, dh_before = np.empty_like(gates), np.empty_like(gates), np.empty_like(dh)
    _gru_cell_backward(dh, gates, h_before, zh_n, dzx, dzh, dh_before)
    return dzx, dzh, dh_before
