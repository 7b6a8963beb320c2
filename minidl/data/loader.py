"""Minibatches: shuffle the indices, cut them into pieces, take those rows of every array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from minidl.errors import InputError, ShapeError


def batches(
    data: int | np.ndarray | Sequence[np.ndarray],
    batch: int,
    rng: np.random.Generator | None = None,
    drop_last: bool = False,
) -> Iterator:
    """Yield the minibatches of one epoch.

    data:  an array or several of the same length n (yields a tuple with `batch` rows of each), or n itself
           (yields the indices).
    rng:   shuffles the rows, by one `permutation(n)` an epoch; None keeps their order.
    drop_last: leave out the last minibatch if it is smaller than the others.
    Raises ShapeError if the arrays' lengths differ, InputError for an unusable batch.

        for x, y in batches((images, labels), 64, rng): ...
    """
    arrays: tuple[np.ndarray, ...] | None
    if isinstance(data, int):
        arrays, n = None, data
    else:
        arrays = (data,) if isinstance(data, np.ndarray) else tuple(data)
        n = len(arrays[0])
        if any(len(array) != n for array in arrays):
            raise ShapeError(f"batches: the arrays hold {[len(a) for a in arrays]} rows; give arrays of one length")
    if batch < 1 or (drop_last and batch > n):
        raise InputError(f"batches: a batch of {batch} cannot be cut from {n} rows; choose 1 to {n}")
    order = np.arange(n) if rng is None else rng.permutation(n)
    last = n - n % batch if drop_last else n
    return _cut(arrays, order[:last], batch)


def _cut(arrays: tuple[np.ndarray, ...] | None, order: np.ndarray, batch: int) -> Iterator:
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        yield rows if arrays is None else tuple(array[rows] for array in arrays)
