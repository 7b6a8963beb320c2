"""Ternarise a gradient: every number becomes -1, 0 or +1 times one scale, without changing the expectation.

    s  = min(c sigma, max|g|)             the scale; c = 2.5 clips the rare large numbers, which halves the noise
    P  = |clip(g)| / s                    the probability that a number survives
    b  ~ Bernoulli(P)
    g~ = s sign(g) b                      E[g~] = clip(g),  Var[g~] = |g| (s - |g|),  E||g~||^2 = s ||g||_1

The draw is made in integers, so that it is exact, needs no branch, and gives the same bits in NumPy and in Numba:

    q = rint(clip(g) / s 2^24)            an integer in [-2^24, 2^24]
    U = a 24-bit integer from a hash of (seed, step, worker, tensor, element)
    t = (q + U) >> 24                     the trit: over all 2^24 values of U its mean is exactly q / 2^24

because (q + U) >> 24 is the floor of y + u with y in [-1, 1] and u uniform in [0, 1): dithered rounding.

Source: Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", NIPS 2017,
equations (2) to (5), and (10) for the clipping.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError

ONE = 2.0**24
"""The integer form's 1.0: gradients are divided by their scale and counted in units of 2^-24."""
LANES = 4096
"""Sums run in this many independent lanes, so that NumPy and a vectorised loop add in the same order."""
SMALL = 64
"""Below this many elements sigma says little: the scale is max|g|."""
LARGEST = float(np.finfo(np.float32).max)

GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = 2**64 - 1


# ---------------------------------------------------------------------------------------------------- the draws


def mix(x):
    """splitmix64's finaliser (Steele et al., OOPSLA 2014), on Python integers or uint64 arrays."""
    x = ((x ^ (x >> 30)) * MIX_1) & MASK
    x = ((x ^ (x >> 27)) * MIX_2) & MASK
    return x ^ (x >> 31)


def draw_key(seed: int, step: int, worker: int, tensor: int) -> np.uint64:
    """The 64-bit key of one tensor's draws at one step on one (virtual) worker.

    All four belong in it. Without the worker every worker would draw the same U and their errors would not average
    out; without the tensor the draws would repeat from tensor to tensor. Threads, chunks and ranks are not in it.
    """
    key = 0
    for part in (seed, step, worker, tensor):
        key = mix((key + GOLDEN + int(part)) & MASK)
    return np.uint64(key)


def draws(key: np.uint64, first: int, count: int) -> np.ndarray:
    """U of elements first .. first + count: (count,) int32, uniform in [0, 2^24)."""
    element = np.arange(first, first + count, dtype=np.uint64)
    return (mix(element * np.uint64(GOLDEN) + key) >> 40).astype(np.int32)


# ---------------------------------------------------------------------------------------------------- the trits


@twin
def trits_of(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    """t = (q + U) >> 24, the function at the heart of it. q: int32 in [-2^24, 2^24], u: int32 in [0, 2^24) -> int8."""
    return ((q + u) >> 24).astype(np.int8)


@twin
def ternarise(g: np.ndarray, s: np.ndarray, key: np.uint64, own: np.ndarray, block: int, first: int = 0) -> np.ndarray:
    """The trits of a gradient: int8 in {-1, 0, 1} with E[t] = clip(g, -own, own) / s.

    g:   (D,) float32 or float64, finite
    s:   (B,) float32, the scale of each block of `block` elements (the largest of all workers, where they share it);
         s = 0 makes every trit of its block 0
    own: (B,) float32, this worker's own scale: its gradient is clipped there, also when another worker's is larger
    first: where g begins in the whole tensor, if it is a chunk of one: its trits are then those of the whole, there
    """
    y, limit = _in_units(g, s, own, block)
    q = np.rint(np.clip(y, -limit, limit)).astype(np.int32)
    return trits_of.numpy(q, draws(key, first, g.size))


def _in_units(g, s, own, block):
    """g / s and own / s, per element in units of 2^-24, in float64: there s * (2^24 / s) rounds to 2^24 exactly."""
    s = s.astype(np.float64)
    inverse = np.divide(ONE, s, out=np.zeros_like(s), where=s > 0)
    limit = np.minimum(own * inverse, ONE)
    if s.size == 1:
        return g * inverse, limit
    return g * np.repeat(inverse, block)[: g.size], np.repeat(limit, block)[: g.size]


# ---------------------------------------------------------------------------------------------------- the scale


@twin
def moments(g: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """max|g|, and the sums of d and d^2 for d = g - g[0], each in LANES lanes of float64 at most. g: (D,), D >= 1.

    Subtracting the first element keeps sigma exact where it matters: of a constant gradient it is 0, not 1e-18.
    """
    lanes = min(LANES, g.size)
    d = np.full(-(-g.size // lanes) * lanes, g[0], np.float64)
    d[: g.size] = g
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, scale_of says in words
        d = (d - d[0]).reshape(-1, lanes)
        return float(np.abs(g).max()), d.sum(axis=0), np.square(d).sum(axis=0)


def scale_of(g: np.ndarray, clip: float | None = 2.5, name: str = "the gradient", rule: str = "exact") -> np.float32:
    """The scale of one gradient: s = min(clip * sigma, max|g|), float32, rounded up.

    sigma is the population deviation, mean-subtracted. The scale is max|g| where clip is None, below 64 elements, and
    where sigma is 0: the plain rule would give a constant gradient the scale 0, and it would never learn.
    rule="published" is that plain rule: clip * sigma, whatever max|g| and however few the elements.

    g: any shape; in the gradient's own unit. Raises InputError, naming the tensor, for NaN, infinity, or > 3.4e38.
    """
    g = np.ascontiguousarray(g).reshape(-1)
    if g.size == 0:
        return np.float32(0)
    largest, d, d2 = moments(g)
    d, d2 = float(d.sum()), float(d2.sum())
    if not (largest <= LARGEST and np.isfinite(d2)):
        bad = int(np.flatnonzero(~(np.abs(g) <= LARGEST))[0])
        raise InputError(
            f"{name} has {g[bad]} at element {bad} of {g.size}: a ternary gradient must be finite in float32. "
            "Lower the learning rate, or find where the network overflowed."
        )
    published = rule == "published"
    if clip is not None and (published or g.size >= SMALL):
        sigma = np.sqrt(max(d2 - d * d / g.size, 0.0) / g.size)
        if published or sigma > 0:
            return _round_up(min(clip * sigma, LARGEST if published else largest))
    return _round_up(largest)


def _round_up(x: float) -> np.float32:
    """The smallest float32 >= x, so that |g| <= s still holds after rounding."""
    s = np.float32(x)
    return s if float(s) >= x else np.nextafter(s, np.float32(np.inf))  # beside float32, x would be rounded too


# ---------------------------------------------------------------------------------------------------- the object


class Ternariser:
    """One choice of scale and clipping, for gradients of any shape.

    scale: over which elements one scale holds.
        "tensor"  each parameter by itself, weights and biases separately: the paper's "layer-wise ternarising"
        "layer"   all parameters of one layer share a scale (DataParallel groups them by name; one array: as "tensor")
        an int    each block of that many elements; 1 gives the float gradient back
    clip: c in s = min(c sigma, max|g|); None does not clip.
    seed: of the draws; with step, worker and tensor it makes the key.
    rule: "published" is what the authors' code does: s = c sigma also above max|g|, and each worker clipped at the
        shared scale, not at its own (`scale_of`, `trits`).
    """

    def __init__(self, scale: str | int = "tensor", clip: float | None = 2.5, seed: int = 0, rule: str = "exact"):
        if scale not in ("tensor", "layer") and not (isinstance(scale, int) and scale >= 1):
            raise InputError(f"scale={scale!r} is not 'tensor', 'layer' or a block length of at least 1")
        if clip is not None and not clip > 0:
            raise InputError(f"clip={clip!r} must be above 0, or None for no clipping")
        if rule not in ("exact", "published"):
            raise InputError(f"rule={rule!r} is not 'exact' or 'published'")
        self.scale, self.clip, self.seed, self.rule = scale, clip, seed, rule

    def block(self, size: int) -> int:
        """How many neighbouring elements of a tensor of `size` elements share a scale."""
        return self.scale if isinstance(self.scale, int) else max(size, 1)

    def scales(self, g: np.ndarray, name: str = "the gradient") -> np.ndarray:
        """One scale per block: (B,) float32, B = ceil(D / block), at least 1."""
        g = np.ascontiguousarray(g).reshape(-1)
        starts = range(0, max(g.size, 1), self.block(g.size))
        return np.array(
            [scale_of(g[at : at + self.block(g.size)], self.clip, name, self.rule) for at in starts], np.float32
        )

    def trits(self, g, s=None, *, step: int = 0, worker: int = 0, tensor: int = 0, own=None) -> np.ndarray:
        """The trits of g under the scales s, (B,); both default to the gradient's own. (D,) int8."""
        g = np.ascontiguousarray(g).reshape(-1)
        own = self.scales(g) if own is None else own
        s = own if s is None else s
        own = s if self.rule == "published" else own
        return ternarise(g, s, draw_key(self.seed, step, worker, tensor), own, self.block(g.size))

    def bias(self, g) -> float:
        """What the clip takes away, as a share of the gradient's length: ||g - clip(g)|| / ||g||, 0 of a zero g."""
        g = np.ascontiguousarray(g).reshape(-1).astype(np.float64)
        s = np.repeat(self.scales(g), self.block(g.size))[: g.size]
        length = np.linalg.norm(g)
        return float(np.linalg.norm(np.maximum(np.abs(g) - s, 0)) / length) if length > 0 else 0.0

    def steps(self, g, *, step: int = 0, worker: int = 0, tensor: int = 0):
        """Walk through one ternarisation: yields (name, array) for s, sign, P, b and g~, the talk's own names.

        >>> for name, value in Ternariser().steps([0.30, -1.20, 0.60, 0.9]): print(name, value)
        """
        g = np.asarray(g, None if isinstance(g, np.ndarray) else np.float32)
        own, block, flat = self.scales(g), self.block(g.size), np.ascontiguousarray(g).reshape(-1)
        s = np.repeat(own, block)[: g.size].reshape(g.shape)
        yield "s", own[0] if own.size == 1 else s
        sign = np.sign(g)
        yield "sign", sign
        y, limit = _in_units(flat, own, own, block)
        yield "P", (np.rint(np.clip(np.abs(y), 0, limit)) / ONE).reshape(g.shape)
        b = np.abs(self.trits(g, own, own=own, step=step, worker=worker, tensor=tensor)).reshape(g.shape)
        yield "b", b
        yield "g~", s * sign.astype(np.float32) * b
