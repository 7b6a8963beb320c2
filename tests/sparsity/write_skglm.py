"""Write skglm.npz anew:  pip install skglm, then  python tests/sparsity/write_skglm.py

A regression with 8 groups of 1 to 4 weights, of which the best solution leaves some dead, solved by skglm:
min 1/(2 n) ||y - X w||^2 + lambda sum_g ||w_g||.
"""

from pathlib import Path

import numpy as np
import skglm
from skglm.datafits import QuadraticGroup
from skglm.penalties import WeightedGroupL2
from skglm.solvers import GroupBCD
from skglm.utils.data import grp_converter

rng = np.random.default_rng(5)
sizes = [3, 2, 4, 1, 2, 3, 4, 1]
labels = np.repeat(np.arange(len(sizes)), sizes)
x = rng.standard_normal((60, len(labels)))
truth = rng.standard_normal(len(labels)) * (labels % 2 == 0)
y = x @ truth + 0.5 * rng.standard_normal(60)
lam, weights = 0.35, rng.uniform(0.6, 1.6, len(sizes))
indices, ends = grp_converter(sizes, len(labels))
penalty = WeightedGroupL2(lam, weights, ends, indices)
x = np.asfortranarray(x)
w, _, stop = GroupBCD(tol=1e-14, max_iter=10_000, max_epochs=100_000, fit_intercept=False).solve(
    x, y, QuadraticGroup(ends, indices), penalty
)
print(skglm.__version__, stop, np.round([np.linalg.norm(w[labels == g]) for g in range(len(sizes))], 3))
np.savez(
    Path(__file__).with_name("skglm.npz"), x=np.ascontiguousarray(x), y=y, labels=labels, weights=weights, lam=lam, w=w,
    version=skglm.__version__,
)  # fmt: skip
