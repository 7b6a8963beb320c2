"""Numba twin of minidl/layers/conv_steps.py: one window by counting its indices, as the loops of a textbook do."""

from __future__ import annotations

import numpy as np

from minidl.fast.jit import jit


@jit
def _one_window(x, weight, above, left, down, right, window, products, partial):
    channels, kh, kw = weight.shape
    total, at = weight.dtype.type(0), 0
    for c in range(channels):
        for k in range(kh):
            for l in range(kw):
                y, z = above + k * down, left + l * right
                if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                    window[c, k, l] = x[c, y, z]
                products[c, k, l] = window[c, k, l] * weight[c, k, l]
                total += products[c, k, l]
                partial[at] = total
                at += 1


def one_window(x, weight, n, o, p, q, stride, padding, dilation, groups):
    own = weight[o]
    first = o * groups // len(weight) * len(own)
    window, products, partial = np.zeros_like(own), np.empty_like(own), np.empty(own.size, own.dtype)
    above, left = p * stride[0] - padding[0], q * stride[1] - padding[1]
    _one_window(x[n, first : first + len(own)], own, above, left, *dilation, window, products, partial)
    return window, own, products, partial
