"""Minibatches: shuffle the indices, cut them into pieces, take those rows of every array.

batches(...)       one epoch, a generator
DataLoader(...)    many epochs, with augmentation, preparation in a thread, and a position that can be saved
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

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


class DataLoader:
    """The minibatches of one epoch, every time it is iterated over.

    data, batch, drop_last: as in `batches`. rng: shuffles, and is passed to the transform; give it a Generator of its
    own: while an epoch runs, nobody else may draw from it.
    transform: (first array's rows, rng) -> rows, for instance data.augment.crop_and_mirror.
    prefetch: how many minibatches a thread prepares ahead; 0: none. The batches are the same, bit for bit.
    epoch, position: epochs finished, and minibatches handed out of the present one; state_dict() holds both with the
    Generator's state, so that iterating after load_state_dict() goes on behind the last minibatch that was handed out.

        for x, y in DataLoader((images, labels), 64, rng=rng, transform=crop_and_mirror, prefetch=2): ...
    """

    def __init__(
        self,
        data: np.ndarray | Sequence[np.ndarray],
        batch: int,
        *,
        rng: np.random.Generator | None = None,
        drop_last: bool = False,
        transform: Callable[[np.ndarray, Any], np.ndarray] | None = None,
        prefetch: int = 0,
    ):
        if prefetch < 0:
            raise InputError(f"DataLoader: prefetch={prefetch} minibatches; it must be at least 0")
        batches(data, batch, drop_last=drop_last)  # refuses what cannot be cut
        self.arrays = (data,) if isinstance(data, np.ndarray) else tuple(data)
        self.batch, self.rng, self.drop_last = batch, rng, drop_last
        self.transform, self.prefetch = transform, prefetch
        self.epoch = self.position = 0
        self._begin = self._now = self._state()  # of the Generator: before this epoch, and after the last minibatch
        self._resumed = False
        self._running: object | None = None  # the iteration that began last, until it is complete

    def __len__(self) -> int:
        """Minibatches in an epoch."""
        n = len(self.arrays[0])
        return n // self.batch if self.drop_last else -(-n // self.batch)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        skip, self._resumed = self.position if self._resumed else 0, False
        self._running = running = object()
        if not skip:
            self._begin = self._now = self._state()
        order = np.arange(len(self.arrays[0]))
        if self.rng is not None:
            self.rng.bit_generator.state = self._begin  # the order of a resumed epoch is drawn again
            order = self.rng.permutation(order)
            if skip:
                self.rng.bit_generator.state = self._now
        self.position = skip
        pieces = [order[k * self.batch : (k + 1) * self.batch] for k in range(skip, len(self))]
        made: Any = self._ahead(pieces) if self.prefetch else map(self._make, pieces)
        try:
            for minibatch, now in made:
                self.position, self._now = self.position + 1, now
                yield minibatch
            self.epoch, self.position, self._running = self.epoch + 1, 0, None
        finally:
            if self.prefetch:
                made.close()  # a consumer that stops early ends the thread
                if self.rng is not None and self._running is running:  # what was drawn ahead counts as not drawn
                    self.rng.bit_generator.state = self._now

    def _make(self, rows):
        """(minibatch, the Generator's state after it)."""
        first, *others = (array[rows] for array in self.arrays)
        if self.transform is not None:
            first = self.transform(first, self.rng)
        return (first, *others), self._state()

    def _ahead(self, pieces) -> Iterator:
        """Like map(self._make, pieces), prepared in one thread, which sees this thread's context variables."""
        context, waiting = copy_context(), deque[Future]()
        pool = ThreadPoolExecutor(1, "minidl-prefetch")
        try:
            for rows in pieces:
                waiting.append(pool.submit(context.run, self._make, rows))
                if len(waiting) > self.prefetch:
                    yield waiting.popleft().result()  # raises here what was raised there
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _state(self):
        return None if self.rng is None else self.rng.bit_generator.state

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: a few numbers, to be stored in a checkpoint."""
        shape = {"rows": len(self.arrays[0]), "batch": self.batch, "drop_last": self.drop_last}
        if self.position == len(self):  # the last one was handed out: the next to come is the next epoch's first
            return {"epoch": self.epoch + 1, "position": 0, "begin": self._now, "now": self._now, **shape}
        begin = self._begin if self._running or self.position else self._state()
        return {"epoch": self.epoch, "position": self.position, "begin": begin, "now": self._now, **shape}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what state_dict() gave. Raises InputError if the rows or the batch are not the same."""
        shape = {"rows": len(self.arrays[0]), "batch": self.batch, "drop_last": self.drop_last}
        theirs = {name: state[name] for name in shape}
        if theirs != shape or (state["begin"] is None) != (self.rng is None):
            raise InputError(
                f"DataLoader: the saved position is one in {theirs} {'un' * (state['begin'] is None)}shuffled, "
                f"this loader has {shape} {'un' * (self.rng is None)}shuffled"
            )
        if self.rng is not None:
            self.rng.bit_generator.state = state["begin"]
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._begin, self._now = state["begin"], state["now"]
        self._resumed, self._running = self.position > 0, None
