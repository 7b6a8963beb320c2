"""gradcheck: is a derivative right? Compare it with finite differences along random directions.

For a function f and a random projection p of its output, L(x) = sum(p * f(x)). The engine gives dL/dx; the central
difference (L(x + eps v) - L(x - eps v)) / (2 eps) gives its product with a direction v. Both must agree in float64.
If they do not, every element of every argument is differenced, and the worst one is named.
"""

from __future__ import annotations

import numpy as np

from minidl.errors import MinidlError
from minidl.tensor import Tensor, grad


class GradientError(MinidlError, AssertionError):
    """A derivative disagrees with finite differences; the text names function, argument, index and both numbers."""


def gradcheck(function, *arrays, rng, eps=1e-6, rtol=1e-6, atol=1e-8, directions=3, order=1) -> None:
    """Check d function / d arrays in float64; order=2 checks the derivative of the derivative as well.

    function(*Tensors) -> Tensor or tuple of Tensors; arrays: float64 ndarrays; rng: numpy Generator.
    Raises GradientError.
    """
    if any(a.dtype != np.float64 for a in arrays):
        raise MinidlError(f"gradcheck needs float64: got {[str(a.dtype) for a in arrays]}; pass x.astype(np.float64)")
    outs = function(*map(Tensor, arrays))
    outs = outs if isinstance(outs, tuple) else (outs,)
    projections = [rng.standard_normal(o.shape) for o in outs]

    def loss(*tensors):
        result = function(*tensors)
        result = result if isinstance(result, tuple) else (result,)
        return sum(((r * p).sum() for r, p in zip(result, projections, strict=True)), start=Tensor(0.0, dtype=float))

    _compare(loss, arrays, rng, eps, rtol, atol, directions, getattr(function, "__name__", "function"))
    if order == 2:
        again = [rng.standard_normal(a.shape) for a in arrays]

        def slope(*tensors):  # sum(v * dL/dx): its derivative is the Hessian-vector product
            parts = grad(loss(*tensors), tensors, create_graph=True)
            return sum(((g * v).sum() for g, v in zip(parts, again, strict=True)), start=Tensor(0.0, dtype=float))

        name = f"derivative of {getattr(function, '__name__', 'function')}"
        _compare(slope, arrays, rng, eps, rtol * 10, atol * 10, directions, name)


def _compare(loss, arrays, rng, eps, rtol, atol, directions, name):
    tensors = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    total = loss(*tensors)
    claimed = grad(total, tensors) if total.requires_grad else [np.zeros_like(a) for a in arrays]

    def value(moved):
        return loss(*[Tensor(m, requires_grad=True) for m in moved]).item()

    for k, a in enumerate(arrays):
        for _ in range(directions):
            v = rng.standard_normal(a.shape)
            up, down = ([b + s * eps * v if j == k else b for j, b in enumerate(arrays)] for s in (1, -1))
            measured, said = (value(up) - value(down)) / (2 * eps), float(np.sum(claimed[k] * v))
            scale = max(abs(measured), abs(said), float(np.sqrt(np.sum(np.square(claimed[k])))))
            if not abs(measured - said) <= atol + rtol * scale:  # NaN fails as well
                raise GradientError(_worst(value, arrays, claimed, k, eps, name))


def _worst(value, arrays, claimed, k, eps, name) -> str:
    """Difference every element of argument k and describe the one that is most wrong."""
    measured = np.empty_like(arrays[k])
    for index in np.ndindex(arrays[k].shape):
        ends = []
        for s in (1, -1):
            moved = [b.copy() for b in arrays]
            moved[k][index] += s * eps
            ends.append(value(moved))
        measured[index] = (ends[0] - ends[1]) / (2 * eps)
    error = np.abs(measured - claimed[k])
    index = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape))
    relative = error[index] / max(abs(measured[index]), abs(claimed[k][index]), 1e-300)
    return (
        f"{name}, argument {k}, index {index}: the rule gives {claimed[k][index]:.10g}, "
        f"finite differences {measured[index]:.10g} (relative error {relative:.1e})"
    )
