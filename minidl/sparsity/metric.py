"""The proximal step behind Adam: the same penalty, but distance is measured with Adam's own scale of every weight.

    prox(v) = argmin_w  1/2 sum_i D_i (w_i - v_i)^2 + sum_g t_g ||w_g||          D = sqrt(vhat) + eps

Shrinking norms by t / D or by t would be the proximal step of another problem: its fixed point is no minimum of E.
Where no weight lies in two groups, w_i = v_i D_i r / (D_i r + t) with r = ||w_g||, and r is the root of one equation,

    phi(r) = sum_i (D_i v_i / (D_i r + t))^2 = 1        w_g = 0 where phi(0) <= 1, that is ||D v|| <= t

1 / sqrt(phi) is concave and rises, so that Newton's steps from r = 0 rise to the root and never beyond it.
(Deleu and Bengio 2021, "Structured sparsity inducing adaptive optimizers for deep learning")
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.sparsity.prox import Blocks, group_norms


def shrink_in_metric(blocks: list[Blocks], data: list[np.ndarray], metric: list[np.ndarray], t: np.ndarray) -> list:
    """prox(v) of each parameter. data: v, metric: D, of the same shapes; t: a threshold for each group."""
    if not all(cut.disjoint for cut in blocks):
        raise InputError(
            "groups that share weights have no exact proximal step behind Adam, where every weight has a rate of its "
            "own: take SGD, groups that do not overlap, or rule='published'"
        )
    t = np.append(t, 0.0)  # label -1: never shrunk
    full = [np.asarray(d, np.float64) for d in metric]
    pulled = [d * v for d, v in zip(full, data, strict=True)]

    def per_weight(values):
        return [
            cut.spread(sum(np.where(labels < 0, 0, values[labels]) for labels in cut.faces), d)
            for cut, d in zip(blocks, full, strict=True)
        ]

    def root_of_phi(parts):
        norms = [[cut.norms(a)] * len(cut.faces) for cut, a in zip(blocks, parts, strict=True)]
        return group_norms(blocks, norms, len(t) - 1)

    def ratio(a, b):
        return np.divide(a, b, out=np.zeros_like(b), where=b > 0)

    alive, force = root_of_phi(pulled) > t, per_weight(t)
    r = np.where(t > 0, 0.0, 1.0)  # where nothing is asked, any r gives w = v
    for _ in range(50):
        below = [d * s + f for d, s, f in zip(full, per_weight(r), force, strict=True)]
        parts = [ratio(a, b) for a, b in zip(pulled, below, strict=True)]
        phi = np.square(root_of_phi(parts))
        bent = [q * np.sqrt(ratio(d, b)) for q, d, b in zip(parts, full, below, strict=True)]
        slope = np.square(root_of_phi(bent))  # -phi' / 2
        step = np.divide(phi * (np.sqrt(phi) - 1), slope, out=np.zeros_like(phi), where=alive & (t > 0))
        r = r + np.maximum(step, 0)
        if (step <= 1e-14 * r).all():
            break
    keep = [
        np.divide(d * s, d * s + f, out=np.ones_like(d), where=f > 0)
        for d, s, f in zip(full, per_weight(np.where(alive, r, 0)), force, strict=True)
    ]
    return [(v * k).astype(v.dtype) for v, k in zip(data, keep, strict=True)]
