"""Minibatches: every row once an epoch, arrays together, the order decided by the Generator that is passed in."""

import numpy as np
import pytest

from minidl.data.loader import batches
from minidl.errors import InputError, ShapeError


def test_every_row_comes_once_and_arrays_stay_together():
    x = np.arange(10) * 1.0
    seen = list(batches((x, x * 2), 4, np.random.default_rng(0)))
    assert [len(a) for a, _ in seen] == [4, 4, 2]
    assert sorted(np.concatenate([a for a, _ in seen])) == x.tolist()
    assert all(np.array_equal(b, 2 * a) for a, b in seen)


def test_drop_last():
    assert [len(rows) for rows in batches(10, 4, drop_last=True)] == [4, 4]


def test_without_a_generator_the_order_is_kept():
    assert np.concatenate(list(batches(5, 2))).tolist() == [0, 1, 2, 3, 4]


def test_one_generator_gives_one_order_and_the_next_epoch_another():
    def epoch(rng):
        return np.concatenate(list(batches(50, 7, rng))).tolist()

    rng = np.random.default_rng(3)
    first, second = epoch(rng), epoch(rng)
    assert first == epoch(np.random.default_rng(3)) and first != second


def test_one_array_comes_as_a_tuple_of_one():
    ((rows,),) = batches(np.eye(3), 3)
    assert np.array_equal(rows, np.eye(3))


def test_bad_input_is_refused_at_once():
    with pytest.raises(ShapeError, match=r"\[3, 4\]"):
        batches((np.zeros(3), np.zeros(4)), 2)
    for batch in (0, 11):
        with pytest.raises(InputError, match="1 to 10"):
            batches(10, batch, drop_last=True)
