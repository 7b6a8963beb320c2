"""Columns: positions (c, k, l) that no filter of a convolution uses are not gathered any more.

W as a matrix (O, C K L) has a column for each position. Where a whole column is 0, the row of im2col's columns that it
meets need not exist: `Conv2d(kept=(c, k, l))` holds the other columns alone, (O, n), and gathers n rows in place of
C K L. That is a smaller matrix product, a *reduced GEMM*, not a dense convolution: the gathering is slower per row than
im2col's, which copies whole windows. (Wen et al. 2016, section 3.2)
"""

from __future__ import annotations

import numpy as np

from minidl.layers import Conv2d
from minidl.sparsity.branches import named_modules


def used_columns(model) -> dict[str, np.ndarray]:
    """{convolution: whether each column of its matrix is used}, for those that do not use all; one stays at least."""
    found: dict[str, np.ndarray] = {}
    for name, module in named_modules(model):
        if isinstance(module, Conv2d) and module.kept is None and module.options["groups"] == 1:
            used = np.any(module.weight.data.reshape(len(module.weight.data), -1), axis=0)
            used[0] |= not used.any()
            if not used.all():
                found[name] = used
    return found


def drop_columns(model, used: dict[str, np.ndarray]) -> None:
    """Let every convolution named in `used` go on with these columns of its matrix alone."""
    modules = dict(named_modules(model))
    for name, mask in used.items():
        conv = modules[name]
        conv.keep(np.nonzero(mask.reshape(conv.weight.shape[1:])))
