"""Augmentation: the same picture, shifted by a few pixels, mirrored or darker, is still the same class.

Every function takes the images of a minibatch and the Generator that draws, and returns new images; a DataLoader calls
it as its `transform`. (padding 4 and mirroring: He et al. 2016, CIFAR-10)
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minidl.errors import InputError, ShapeError


def random_crop(x: np.ndarray, rng: np.random.Generator, padding: int = 4) -> np.ndarray:
    """Surround every image with `padding` zeros and cut a window of the old size out of it, anywhere.

    y[n, ..., i, j] = padded x[n, ..., i + a_n, j + b_n];  a_n, b_n uniform in 0 ... 2 padding, an image its own.
    x: (N, H, W) or (N, C, H, W), any dtype -> the same shape. Raises ShapeError, InputError.
    """
    _check("random_crop", x, rng)
    if padding < 0:
        raise InputError(f"random_crop: a padding of {padding} pixels; it must be at least 0")
    down, right = rng.integers(0, 2 * padding + 1, (2, len(x)))
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(padding, padding)] * 2)
    windows = sliding_window_view(padded, x.shape[-2:], axis=(-2, -1))  # (N, ..., a, b, H, W), without a copy
    return np.ascontiguousarray(windows[np.arange(len(x)), ..., down, right, :, :])


def random_mirror(x: np.ndarray, rng: np.random.Generator, p: float = 0.5) -> np.ndarray:
    """Mirror each image left to right with probability p. x: (N, H, W) or (N, C, H, W) -> the same shape."""
    _check("random_mirror", x, rng)
    if not 0 <= p <= 1:
        raise InputError(f"random_mirror: p = {p} is no probability")
    chosen = rng.random(len(x)) < p
    return np.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x[..., ::-1], x)


def crop_and_mirror(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """random_crop with padding 4, then random_mirror: the usual augmentation of small colour pictures."""
    return random_mirror(random_crop(x, rng), rng)


def jitter(
    x: np.ndarray, rng: np.random.Generator, brightness: float = 63 / 255, contrast: tuple[float, float] = (0.2, 1.8)
) -> np.ndarray:
    """Make every image lighter or darker, then its contrast weaker or stronger: y = m + f (x + d - m).

    d uniform in [-brightness, brightness], in the pixels' unit (63 for 0 ... 255, 63/255 for 0 ... 1); f uniform in
    `contrast`; m the mean of each channel of x + d. d and f are an image's own, the same for its channels. Nothing is
    cut off at black or white. x: (N, H, W) or (N, C, H, W), floats -> the same shape and dtype.
    Raises ShapeError, InputError. (TensorFlow's tutorial on CIFAR-10)
    """
    _check("jitter", x, rng)
    if x.dtype.kind != "f":
        raise InputError(f"jitter: {x.dtype} cannot hold darker than black; divide by 255 first")
    if brightness < 0 or not 0 <= contrast[0] <= contrast[1]:
        raise InputError(f"jitter: brightness {brightness} and contrast {contrast}; give 0 <= b and 0 <= low <= high")
    each = (len(x), *[1] * (x.ndim - 1))
    lighter = x + rng.uniform(-brightness, brightness, each).astype(x.dtype)
    mean = lighter.mean((-2, -1), keepdims=True)
    return mean + rng.uniform(*contrast, each).astype(x.dtype) * (lighter - mean)


def _check(name: str, x: np.ndarray, rng) -> None:
    if x.ndim not in (3, 4):
        raise ShapeError(f"{name} takes images (N, H, W) or (N, C, H, W); got shape {x.shape}")
    if not isinstance(rng, np.random.Generator):
        raise InputError(f"{name} draws from a Generator; got {rng!r}: give DataLoader(..., rng=...)")
