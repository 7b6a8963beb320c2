"""Ways to run a sparse layer: scattered zeros break the parallelism of a product, zeros in rows and columns keep it.

    dense        W cols, zeros and all
    csr          W holds only its nonzeros (compressed sparse rows, SciPy): any zeros help, but each costs an address
    removed      W without its zero rows and columns, the columns' pixels never copied: a dense product, then the rows
                 go back to their places (Caffe's "CCN" mode, with which the paper was timed)
    compacted    a smaller layer: zero filters and zero channels are gone from it and from its neighbours

    W: (O, C K L)   cols: (C K L, N P Q)   y: (O, N P Q)

An FC layer is a convolution of one pixel. A density d is the part of the weights that is not 0: for csr scattered at
random, for removed sqrt(d) of the rows and of the columns, for compacted sqrt(d) of the filters and of the channels.
As in the paper only the product is timed, unless `lowering`: then copying the windows into columns, too. SciPy's
product runs on one thread; give BLAS one as well (OPENBLAS_NUM_THREADS=1). (Wen et al. 2016, figure 7, table 4)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minidl.errors import InputError, MissingExtra
from minidl.layers.conv import im2col


@dataclass(frozen=True)
class Layer:
    """A convolution: its weight is (filters, channels, kernel, kernel), its images (N, channels, size, size)."""

    filters: int
    channels: int
    kernel: int = 1
    size: int = 1
    stride: int = 1
    padding: int = 0

    weight_shape = property(lambda self: (self.filters, self.channels, self.kernel, self.kernel))


CAFFENET = {  # conv2, conv4 and conv5: one of their two groups
    "conv1": Layer(96, 3, 11, 227, 4), "conv2": Layer(128, 48, 5, 27, 1, 2), "conv3": Layer(384, 256, 3, 13, 1, 1),
    "conv4": Layer(192, 192, 3, 13, 1, 1), "conv5": Layer(128, 192, 3, 13, 1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A layer made ready once. lower() -> cols, multiply(cols) -> y, of which `rows` says the filters."""

    lower: Callable[[], np.ndarray]
    multiply: Callable[[np.ndarray], np.ndarray]
    rows: np.ndarray


def _columns(x, layer):  # (C K L, N P Q)
    pairs = ((n, n) for n in (layer.kernel, layer.stride, layer.padding, 1))
    cols = im2col(x, *pairs)
    return cols.reshape(-1, cols[0, 0, 0].size)


def _dense(weight, x, layer):
    matrix = weight.reshape(len(weight), -1)
    return Prepared(lambda: _columns(x, layer), lambda cols: matrix @ cols, np.arange(len(matrix)))


def _csr(weight, x, layer):
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingExtra("compressed sparse rows come from SciPy: pip install 'minidl[jit]'") from error
    matrix = csr_array(weight.reshape(len(weight), -1))
    return Prepared(lambda: _columns(x, layer), lambda cols: matrix @ cols, np.arange(len(weight)))


def _removed(weight, x, layer):
    matrix = weight.reshape(len(weight), -1)
    rows, columns = np.flatnonzero(matrix.any(1)), np.flatnonzero(matrix.any(0))
    small = np.ascontiguousarray(matrix[np.ix_(rows, columns)])
    c, k, l = np.unravel_index(columns, weight.shape[1:])
    edge = (0, 0), (0, 0), (layer.padding,) * 2, (layer.padding,) * 2

    def lower():
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, edge), weight.shape[2:], (2, 3))
        image = windows[:, :, :: layer.stride, :: layer.stride]  # (N, C, P, Q, K, L), nothing copied yet
        return image.transpose(1, 4, 5, 0, 2, 3)[c, k, l].reshape(len(columns), -1)

    def multiply(cols):
        y = np.zeros((len(weight), cols.shape[1]), cols.dtype)
        y[rows] = small @ cols
        return y

    return Prepared(lower, multiply, np.arange(len(weight)))


def _compacted(weight, x, layer):
    filters, channels = np.flatnonzero(weight.any((1, 2, 3))), np.flatnonzero(weight.any((0, 2, 3)))
    small = _dense(np.ascontiguousarray(weight[np.ix_(filters, channels)]), x[:, channels], layer)
    return Prepared(small.lower, small.multiply, filters)


WAYS = {"dense": _dense, "csr": _csr, "removed": _removed, "compacted": _compacted}


def prepare(way: str, weight: np.ndarray, x: np.ndarray, layer: Layer) -> Prepared:
    """The layer with this weight, ready to run on x: (N, channels, size, size) in one of the WAYS."""
    if way not in WAYS:
        raise InputError(f"way {way!r} is not one of {', '.join(WAYS)}")
    return WAYS[way](weight, x, layer)


def zeros_for(way: str, layer: Layer, density: float, rng: np.random.Generator) -> np.ndarray:
    """Which weights are not 0, at random: scattered for csr, else whole rows and columns, or filters and channels."""
    shape = layer.weight_shape
    if way in ("dense", "csr"):
        scattered = np.zeros(int(np.prod(shape)), bool)
        scattered[rng.permutation(len(scattered))[: max(1, round(density * len(scattered)))]] = True
        return scattered.reshape(shape)
    axes = (shape[0], shape[1]) if way == "compacted" else (shape[0], int(np.prod(shape[1:])))
    kept = [rng.permutation(n) < max(1, round(density**0.5 * n)) for n in axes]
    both = np.outer(*kept)
    return np.broadcast_to(both[:, :, None, None], shape) if way == "compacted" else both.reshape(shape)


@dataclass(frozen=True)
class Row:
    """One measurement; density as it came out (whole rows cannot give every density), seconds the least of all runs."""

    layer: str
    way: str
    density: float
    seconds: float
    speed_up: float


def time_ways(
    layers: dict[str, Layer] = CAFFENET, densities=(0.9, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01), *, batch: int = 1,
    repeats: int = 15, lowering: bool = False, dtype=np.float32, rng: np.random.Generator,
) -> list[Row]:  # fmt: skip
    """Time every way at every density, by turns; speed_up: the dense product's seconds over its own."""
    rows: list[Row] = []
    for name, layer in layers.items():
        x = rng.standard_normal((batch, layer.channels, layer.size, layer.size)).astype(dtype)
        runs: list = []
        for way, density in [("dense", 1.0), *((w, d) for d in densities for w in WAYS if w != "dense")]:
            kept = zeros_for(way, layer, density, rng)
            run = prepare(way, (kept * rng.standard_normal(kept.shape)).astype(dtype), x, layer)
            cols = None if lowering else run.lower()
            runs.append((way, float(kept.mean()), run, cols, []))
        for _ in range(repeats + 1):
            for *_, run, cols, seconds in runs:
                start = time.perf_counter()
                run.multiply(run.lower() if cols is None else cols)
                seconds.append(time.perf_counter() - start)
        least = [min(seconds[1:]) for *_, seconds in runs]  # the first turn warms the caches
        rows += [Row(name, way, d, s, least[0] / s) for (way, d, *_), s in zip(runs, least, strict=True)]
    return rows


def crossover(rows: list[Row], layer: str, way: str) -> float:
    """The density below which a way is faster than the dense product, between measured ones in logarithms; 0 if never.

    Where it is faster at every measured density, the largest of them.
    """
    curve = sorted((r.density, r.speed_up) for r in rows if (r.layer, r.way) == (layer, way))
    if not curve:
        raise InputError(f"no row is about {way!r} of layer {layer!r}")
    slower = next((k for k, (_, speed) in enumerate(curve) if speed <= 1), len(curve))
    if slower in (0, len(curve)):
        return curve[-1][0] if slower else 0.0
    (d0, s0), (d1, s1) = np.log(curve[slower - 1 : slower + 1])
    return float(np.exp(d0 + (d1 - d0) * s0 / (s0 - s1)))


def draw(fig, rows: list[Row]) -> None:
    """The talk's figure on an empty matplotlib Figure: speed-up against density, a panel per layer.

    Dotted: 1/d, what skipping every zero at no cost would give. A vertical line marks where csr begins to pay.
    """
    names = list(dict.fromkeys(r.layer for r in rows))
    for k, name in enumerate(names):
        ax = fig.add_subplot(1, len(names), k + 1)
        for way, mark in (("csr", "x"), ("removed", "o"), ("compacted", "s")):
            curve = sorted((r.density, r.speed_up) for r in rows if (r.layer, r.way) == (name, way))
            ax.loglog(*zip(*curve, strict=True), marker=mark, label=way)
        ideal = np.array(sorted({r.density for r in rows if r.layer == name}))
        ax.loglog(ideal, 1 / ideal, ":", color="grey", label="1/d")
        ax.axhline(1, color="black", linewidth=0.8)
        if pays := crossover(rows, name, "csr"):
            ax.axvline(pays, color="C0", linewidth=0.8, linestyle="--")
        ax.set_title(f"{name}: csr pays below {pays:.0%}" if pays else f"{name}: csr never pays")
        ax.set_xlabel("density d of the weights")
    fig.axes[0].set_ylabel("speed-up over the dense product")
    fig.axes[0].legend()
