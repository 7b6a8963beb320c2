"""gradcheck: is a derivative right? Compare it with finite differences along random directions.

For a function f and a random projection p of its output, L(x) = sum(p * f(x)). The engine gives dL/dx; the central
difference (L(x + eps v) - L(x - eps v)) / (2 eps) gives its product with a direction v. Both must agree in float64.
If they do not, every element of every argument is differenced, and the worst one is named: with both numbers, and with
what the wrong gradient looks like beside the right one (its sign flipped, twice too large, shifted by one ...).

Where a wrong hand-written backward goes wrong first: `locate`, in locate.py.
"""

from __future__ import annotations

import warnings

import numpy as np

from minidl.errors import MinidlError
from minidl.tensor import Op, Tensor, grad


class GradientError(MinidlError, AssertionError):
    """A derivative disagrees with finite differences; the text names function, argument, index and both numbers."""


def gradcheck(function, *arrays, rng, eps=1e-6, rtol=1e-6, atol=1e-8, directions=3, order=1) -> None:
    """Check d function / d arrays in float64; order=2 checks the derivative of the derivative as well.

    function(*Tensors) -> Tensor or tuple of Tensors; arrays: float64 ndarrays, and integers (labels), passed on;
    rng: numpy Generator. float32 arrays are checked in float64 copies, with a warning. Raises GradientError.
    """
    name = getattr(function, "__name__", "function")
    arrays = tuple(_float64(name, k, np.asarray(a)) for k, a in enumerate(arrays))
    outs = _tuple(function(*map(Tensor, arrays)) if isinstance(function, Op) else function(*map(_given, arrays)))
    projections = [rng.standard_normal(o.shape) for o in outs]

    def loss(*tensors):
        outs = _tuple(function(*tensors))
        return sum(((r * p).sum() for r, p in zip(outs, projections, strict=True)), start=Tensor(0.0, dtype=float))

    names = argument_names(function, len(arrays))
    _compare(loss, arrays, rng, eps, rtol, atol, directions, name, names)
    if order == 2:
        again = {k: rng.standard_normal(a.shape) for k, a in enumerate(arrays) if a.dtype.kind == "f"}

        def slope(*tensors):  # sum(v * dL/dx): its derivative is the Hessian-vector product
            parts = grad(loss(*tensors), [tensors[k] for k in again], create_graph=True)
            pairs = zip(parts, again.values(), strict=True)
            return sum(((g * v).sum() for g, v in pairs), start=Tensor(0.0, dtype=float))

        _compare(slope, arrays, rng, eps, rtol * 10, atol * 10, directions, f"derivative of {name}", names)


def argument_names(function, count: int) -> list[str]:
    """ "argument 0 (x)", "argument 1 (weight)", ... by the names in the function's own signature, where it has them."""
    plain = function.forward if isinstance(function, Op) else getattr(function, "plain", function)
    plain = getattr(plain, "numpy", plain)
    code = getattr(plain, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    return [f"argument {k} ({names[k]})" if k < len(names) else f"argument {k}" for k in range(count)]


def resemblance(said, right) -> str:
    """What a wrong gradient looks like beside the right one, in words; "" where nothing simple is found."""
    same = lambda a: a.shape == said.shape and bool(np.allclose(a, said, rtol=1e-4, atol=1e-6 * np.max(np.abs(right))))
    if not right.size or not np.isfinite(said).all():
        return ""
    if not said.any():
        return "nothing arrives: it is 0 everywhere"
    if same(-right):
        return "the sign is flipped"
    factor = float(np.vdot(said, right) / max(float(np.vdot(right, right)), 1e-300))
    if same(right * factor):
        return f"it is {factor:.4g} times the right one"
    for axis in range(right.ndim):
        for shift in (1, -1):
            if right.shape[axis] > 2 and same(np.roll(right, shift, axis)):
                return f"it is the right one shifted by {shift} along axis {axis}"
            moved = np.roll(right, shift, axis)
            edge = (slice(None),) * axis + (0 if shift > 0 else -1,)
            moved[edge] = 0
            if right.shape[axis] > 2 and same(moved):
                return f"it is the right one shifted by {shift} along axis {axis}"
        if right.shape[axis] > 1 and same(np.flip(right, axis)):
            return f"it is the right one reversed along axis {axis}"
    if right.ndim == 2 and same(right.T):
        return "it is the right one transposed"
    return ""


def _tuple(x) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _given(a):
    return Tensor(a) if a.dtype.kind == "f" else a


def _float64(name, k, a):
    if a.dtype.kind != "f" or a.dtype == np.float64:
        return a
    warnings.warn(
        f"gradcheck of {name}: argument {k} is {a.dtype}, with 7 digits, of which a difference of two results that "
        "differ by a millionth leaves none; checked in a float64 copy instead",
        stacklevel=3,
    )
    return a.astype(np.float64)


def _compare(loss, arrays, rng, eps, rtol, atol, directions, name, names):
    tensors = [Tensor(a.copy(), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    total = loss(*tensors)
    floats = [k for k, t in enumerate(tensors) if isinstance(t, Tensor)]
    parts = (
        grad(total, [tensors[k] for k in floats]) if total.requires_grad else [np.zeros_like(arrays[k]) for k in floats]
    )
    claimed = dict(zip(floats, parts, strict=True))

    def value(moved):
        return loss(*[Tensor(m, requires_grad=True) if m.dtype.kind == "f" else m for m in moved]).item()

    for k in floats:
        for _ in range(directions):
            v = rng.standard_normal(arrays[k].shape)
            up, down = ([b + s * eps * v if j == k else b for j, b in enumerate(arrays)] for s in (1, -1))
            measured, said = (value(up) - value(down)) / (2 * eps), float(np.sum(claimed[k] * v))
            scale = max(abs(measured), abs(said), float(np.sqrt(np.sum(np.square(claimed[k])))))
            if not abs(measured - said) <= atol + rtol * scale:  # NaN fails as well
                raise GradientError(_worst(value, arrays, claimed[k], k, eps, f"{name}, {names[k]}"))


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
    return describe(name, claimed, measured, "finite differences")


def describe(name, said, right, whose: str) -> str:
    """One sentence on the element of `said` that is farthest from `right`, and on the whole."""
    error = np.abs(right - said)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape))
    relative = error[index] / max(abs(right[index]), abs(said[index]), 1e-300)
    alike = resemblance(said, right)
    return (
        f"{name}, index {index}: the rule gives {said[index]:.10g}, "
        f"{whose} {right[index]:.10g} (relative error {relative:.1e})" + (f"; {alike}" if alike else "")
    )
