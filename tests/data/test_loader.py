"""Minibatches: every row once an epoch, arrays together, the order decided by the Generator that is passed in."""

import threading
from itertools import islice

import numpy as np
import pytest

from minidl import backend
from minidl.data.augment import crop_and_mirror, jitter, random_crop, random_mirror
from minidl.data.loader import DataLoader, batches
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


ROWS = np.arange(23)
PICTURES = np.random.default_rng(1).random((23, 1, 6, 5), dtype=np.float32)


def loader(prefetch=0, **options):
    rng = np.random.default_rng(5)
    return DataLoader((PICTURES, ROWS), 4, rng=rng, transform=crop_and_mirror, prefetch=prefetch, **options)


def same(one, other):
    return len(one) == len(other) and all(
        a.tobytes() == c.tobytes() and b.tolist() == d.tolist() for (a, b), (c, d) in zip(one, other, strict=True)
    )


def test_a_loader_without_a_transform_hands_out_what_batches_does():
    one, two = DataLoader((PICTURES, ROWS), 4, rng=np.random.default_rng(3)), np.random.default_rng(3)
    for _ in range(2):
        assert same(list(one), list(batches((PICTURES, ROWS), 4, two)))
    assert len(one) == 6 and one.epoch == 2 and len(loader(drop_last=True)) == len(list(loader(drop_last=True))) == 5


def test_a_prefetching_thread_changes_no_bit_even_after_an_early_stop():
    plain, ahead = loader(), loader(prefetch=2)
    for stop in (None, 2, None, 6, None):
        assert same(list(islice(iter(plain), stop)), list(islice(iter(ahead), stop)))
    assert plain.rng.bit_generator.state == ahead.rng.bit_generator.state


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_loader_goes_on_behind_the_last_minibatch_that_was_handed_out(prefetch):
    whole = loader()
    expected = [minibatch for _ in range(4) for minibatch in whole]
    for done in range(14):
        first, second = loader(prefetch), loader(3 - prefetch)
        state = first.state_dict()
        for _ in islice((minibatch for _ in range(3) for minibatch in first), done):
            state = first.state_dict()  # taken while the minibatch is in use, as a checkpoint does
        second.rng.random(7)  # whatever was drawn before, load_state_dict puts it right
        second.load_state_dict(state)
        assert second.state_dict() == state
        again = list(second) + list(second)
        assert same(again, expected[done : done + len(again)]), done


def test_a_consumer_that_stops_ends_the_thread():
    for _ in loader(prefetch=2):
        assert any(thread.name.startswith("minidl-prefetch") for thread in threading.enumerate())
        break
    assert not any(thread.name.startswith("minidl-prefetch") for thread in threading.enumerate())


def test_an_error_in_the_thread_arrives_where_the_minibatch_was_asked_for():
    def bad(x, rng):
        raise ValueError("no such picture")

    for prefetch in (0, 2):
        with pytest.raises(ValueError, match="no such picture"):
            list(DataLoader((PICTURES, ROWS), 4, transform=bad, prefetch=prefetch))


def test_the_thread_sees_the_context_variables_of_the_consumer():
    seen = []

    def look(x, rng):
        seen.append(backend.current_form())
        return x

    with backend.form("composed"):
        list(DataLoader(PICTURES, 8, transform=look, prefetch=1))
    assert seen == ["composed"] * 3


def test_a_position_in_other_data_is_refused():
    state = loader().state_dict()
    with pytest.raises(InputError, match="'batch': 4.*'batch': 5"):
        DataLoader((PICTURES, ROWS), 5, rng=np.random.default_rng(0)).load_state_dict(state)
    with pytest.raises(InputError, match="this loader .* unshuffled"):
        DataLoader((PICTURES, ROWS), 4).load_state_dict(state)
    with pytest.raises(InputError, match="prefetch=-1"):
        loader(prefetch=-1)


def test_random_crop_shifts_every_picture_by_itself():
    x, rng = np.arange(1, 1 + 40 * 2 * 3 * 4).reshape(40, 2, 3, 4).astype(np.uint8), np.random.default_rng(0)
    y = random_crop(x, rng, padding=1)
    down, right = np.random.default_rng(0).integers(0, 3, (2, 40))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n in range(40):
        np.testing.assert_array_equal(y[n], padded[n, :, down[n] : down[n] + 3, right[n] : right[n] + 4])
    assert y.dtype == np.uint8 and y.flags.c_contiguous
    np.testing.assert_array_equal(random_crop(x, rng, padding=0), x)
    np.testing.assert_array_equal(random_crop(x[:, 0], np.random.default_rng(0), padding=1), y[:, 0])


def test_random_mirror_mirrors_about_half():
    y = random_mirror(PICTURES, np.random.default_rng(0))
    mirrored = [np.array_equal(a, b[..., ::-1]) for a, b in zip(PICTURES, y, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(PICTURES, y, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 5 < sum(mirrored) < 18
    assert y.dtype == np.float32
    np.testing.assert_array_equal(random_mirror(PICTURES, np.random.default_rng(0), p=1), PICTURES[..., ::-1])


def test_jitter_changes_light_then_contrast_each_picture_by_itself():
    x = np.random.default_rng(1).random((2000, 2, 3, 4))
    y, rng = jitter(x, np.random.default_rng(0)), np.random.default_rng(0)
    light, factor = rng.uniform(-63 / 255, 63 / 255, 2000), rng.uniform(0.2, 1.8, 2000)
    for n in (0, 7, 1999):
        for channel, made in zip(x[n] + light[n], y[n], strict=True):
            np.testing.assert_allclose(made, channel.mean() + factor[n] * (channel - channel.mean()), atol=1e-12)
    shift = (y - x).mean((1, 2, 3))
    assert shift.min() < -0.24 and shift.max() > 0.24 and abs(shift.mean()) < 0.02
    spread = y.std((2, 3)) / x.std((2, 3))
    assert spread.min() < 0.21 and spread.max() > 1.79 and abs(spread.mean() - 1) < 0.05
    np.testing.assert_allclose(spread[:, 0], spread[:, 1], err_msg="channels keep their balance")
    same = jitter(x[:, 0].astype(np.float32), rng, 0.0, (1.0, 1.0))
    np.testing.assert_allclose(same, x[:, 0], atol=1e-6)
    assert same.dtype == np.float32 and same.shape == (2000, 3, 4)


def test_augmentation_refuses_what_is_no_picture_and_what_cannot_draw():
    rng = np.random.default_rng(0)
    with pytest.raises(ShapeError, match=r"\(23, 4\)"):
        random_crop(np.zeros((23, 4)), rng)
    with pytest.raises(InputError, match="rng="):
        list(DataLoader(PICTURES, 4, transform=random_mirror))
    with pytest.raises(InputError, match="-1"):
        random_crop(PICTURES, rng, padding=-1)
    with pytest.raises(InputError, match="uint8"):
        jitter(PICTURES.astype(np.uint8), rng)
    with pytest.raises(InputError, match=r"\(1, 0.5\)"):
        jitter(PICTURES, rng, contrast=(1, 0.5))
    with pytest.raises(InputError, match="p = 2"):
        random_mirror(PICTURES, rng, p=2)
