"""The training loop: what it calls and when, that it learns, and that one seed gives one result."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl.errors import MinidlError
from minidl.layers import BatchNorm1d, Dropout, Linear, ReLU, Sequential
from minidl.models import lenet_caffe
from minidl.optim import SGD, inv
from minidl.train import accuracy, fit, predict


def digits(count=24, seed=0):
    """Noise with one bright row per class: (N, 1, 28, 28), labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = rng.random((count, 1, 28, 28), dtype=np.float32)
    images[np.arange(count), 0, 2 * labels + 3] += 2
    return images, labels


def train_lenet(form="auto", steps=5):
    model = lenet_caffe(np.random.default_rng(3))
    x, y = digits()
    optimizer = SGD(model.named_parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, form="caffe")
    order = np.random.default_rng(4)
    batches = [(x[i], y[i]) for i in (order.permutation(len(x))[:8] for _ in range(steps))]
    with backend.form(form):
        history = fit(model, batches, optimizer, schedule=inv(0.01, 1e-4, 0.75))
    return model.state_dict(), history


@pytest.mark.parametrize("form", ["auto", "numpy"])
def test_one_seed_gives_the_same_bits(form):
    (one, losses), (two, again) = train_lenet(form), train_lenet(form)
    assert losses == again
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


def test_lenet_learns():
    _, losses = train_lenet(steps=12)
    assert losses[-1] < 0.7 * losses[0]


def test_the_order_of_a_step():
    model = Sequential(Linear(2, 3, rng=np.random.default_rng(0))).eval()
    weight, seen = model.steps[0].weight, []
    optimizer = SGD(model.parameters(), lr=-1.0)

    class Progress:
        def update(self, n):
            seen.append(("progress", n))

    def after_backward(step):
        seen.append(("backward", step, weight.grad is not None, optimizer.lr))
        weight.grad = np.zeros_like(weight.grad)  # what the hook writes is what is stepped

    def after_step(step):
        seen.append(("step", step, weight.data is start))

    start = weight.data
    batch = (np.ones((2, 2), np.float32), np.array([0, 1]))
    history = fit(model, [batch, batch], optimizer, schedule=lambda step: 0.5 / (step + 1),
                  after_backward=after_backward, after_step=after_step, progress=Progress())  # fmt: skip
    assert seen == [
        ("backward", 0, True, 0.5), ("step", 0, False), ("progress", 1),
        ("backward", 1, True, 0.25), ("step", 1, False), ("progress", 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(weight.data, start)
    assert model.training and len(history) == 2


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rate():
    model = Sequential(Linear(2, 2, rng=np.random.default_rng(0)))
    good, bad = np.ones((1, 2), np.float32), np.full((1, 2), np.nan, np.float32)
    before = []
    with pytest.raises(MinidlError, match=r"the loss is nan at step 1 \(learning rate 0.1\)"):
        fit(model, [(good, np.array([0])), (bad, np.array([0]))], SGD(model.parameters(), lr=0.1),
            after_step=lambda step: before.append(model.steps[0].weight.data))  # fmt: skip
    assert model.steps[0].weight.data is before[-1]  # the bad step changed nothing


def test_predict_runs_in_evaluation_mode_batch_by_batch():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(3, 4, rng=rng), BatchNorm1d(4), ReLU(), Dropout(0.5, rng=rng), Linear(4, 2, rng=rng))
    x = rng.standard_normal((7, 3)).astype(np.float32)
    before = model.steps[1].running_mean
    one, three = predict(model, x), predict(model, x, batch=3)
    np.testing.assert_allclose(one, three, rtol=1e-6)
    assert one.shape == (7, 2) and model.training and model.steps[1].running_mean is before
    assert accuracy(model, x, one.argmax(1)) == 1
    assert accuracy(model, x, 1 - one.argmax(1)) == 0


def test_training_works_on_word_ids_too():
    from minidl.layers import Embedding

    model = Sequential(Embedding(5, 3, rng=np.random.default_rng(0)), Linear(3, 5, rng=np.random.default_rng(1)))
    ids = np.array([0, 1, 2, 3, 4])
    losses = fit(model, [(ids, ids)] * 30, SGD(model.parameters(), lr=0.5))
    assert losses[-1] < losses[0]
    assert isinstance(model(ids), Tensor)
