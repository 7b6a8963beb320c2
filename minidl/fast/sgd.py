"""Numba twin of minidl/optim/sgd.py: one pass over weight, gradient and velocity instead of five, by all threads.

No sum is fused with its product here: the bits are those of the NumPy form, so that a run can be resumed in either.
"""

from __future__ import annotations

from numba import njit

from minidl.fast import buffers
from minidl.fast.pool_of_threads import in_parts

LEAST = 1 << 12  # elements below which NumPy's form is as fast
COST = 4  # an element of five arrays, in multiply-adds: the memory is what is waited for, and it is shared


@njit(cache=True, nogil=True, error_model="numpy")
def _step(w, g, v, before, after, mu, keep, decay, decays, new_w, new_v):
    for i in range(w.size):
        d = g[i] + decay * w[i] if decays else g[i]
        memory = mu * v[i] + keep * (before * d)
        new_v[i] = memory
        new_w[i] = w[i] - after * memory


def sgd_step(w, g, v, lr, momentum, dampening, weight_decay, nesterov, form):
    if v is None or nesterov or w.size < LEAST or w.dtype.char not in "fd":
        return NotImplemented
    if any(a.dtype != w.dtype or a.shape != w.shape or not a.flags.c_contiguous for a in (w, g, v)):
        return NotImplemented
    new = [buffers.empty(w.shape, w.dtype) for _ in "wv"]
    flat = [a.reshape(-1) for a in (w, g, v, *new)]
    before, after = (lr, 1) if form == "caffe" else (1, lr)
    numbers = [w.dtype.type(n) for n in (before, after, momentum, 1 - dampening, weight_decay)]

    def part(_, i, j):
        w, g, v, new_w, new_v = (a[i:j] for a in flat)
        _step(w, g, v, *numbers, weight_decay != 0, new_w, new_v)

    in_parts(w.size, part, w.size * COST)
    return tuple(new)
