"""The training loop: what it calls and when, that it learns, and that one seed gives one result."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl.callbacks import Callback, EarlyStop, SaveEvery
from minidl.data import DataLoader
from minidl.errors import InputError, MinidlError
from minidl.layers import (
    BatchNorm1d,
    Dropout,
    Linear,
    ReLU,
    Sequential,
    cross_entropy,  # noqa: F401  # for the loop that explain prints
)
from minidl.models import lenet_caffe
from minidl.optim import SGD, inv
from minidl.progress import Progress
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
    weight, seen = model[0].weight, []
    optimizer = SGD(model.parameters(), lr=99.0)

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
            after_step=lambda step: before.append(model[0].weight.data))  # fmt: skip
    assert model[0].weight.data is before[-1]  # the bad step changed nothing


def test_predict_runs_in_evaluation_mode_batch_by_batch():
    rng = np.random.default_rng(0)
    model = Sequential(Linear(3, 4, rng=rng), BatchNorm1d(4), ReLU(), Dropout(0.5, rng=rng), Linear(4, 2, rng=rng))
    x = rng.standard_normal((7, 3)).astype(np.float32)
    before = model[1].running_mean
    one, three = predict(model, x), predict(model, x, batch=3)
    np.testing.assert_allclose(one, three, rtol=1e-6)
    assert one.shape == (7, 2) and model.training and model[1].running_mean is before
    assert accuracy(model, x, one.argmax(1)) == 1
    assert accuracy(model, x, 1 - one.argmax(1)) == 0


def test_training_works_on_word_ids_too():
    from minidl.layers import Embedding

    model = Sequential(Embedding(5, 3, rng=np.random.default_rng(0)), Linear(3, 5, rng=np.random.default_rng(1)))
    ids = np.array([0, 1, 2, 3, 4])
    losses = fit(model, [(ids, ids)] * 30, SGD(model.parameters(), lr=0.5))
    assert losses[-1] < losses[0]
    assert isinstance(model(ids), Tensor)


def small(seed=0, **options):
    rng = np.random.default_rng(seed)
    model = Sequential(Linear(3, 4, rng=rng), ReLU(), Linear(4, 2, rng=rng))
    x = rng.standard_normal((12, 3)).astype(np.float32)
    return model, x, (x[:, 0] > 0).astype(int), SGD(model.parameters(), lr=0.1, **options)


def test_epochs_validation_and_callbacks_in_their_order():
    model, x, y, optimizer = small()
    seen = []

    class Told(Callback):
        def on_start(self, run):
            seen.append(("start", run.model is model))

        def after_backward(self, run):
            seen.append(("backward", run.step, len(run.history)))

        def after_step(self, run):
            seen.append(("step", run.step, len(run.history)))

        def after_epoch(self, run):
            seen.append(("epoch", run.epoch, list(run.history.validation), model.training))

        def on_end(self, run):
            seen.append(("end", run.step))

    history = fit(model, [(x, y)], optimizer, epochs=2, start=5, validate=lambda m: len(seen), callbacks=[Told()])
    assert seen == [
        ("start", True), ("backward", 5, 0), ("step", 5, 1), ("epoch", 0, [3], True),
        ("backward", 6, 1), ("step", 6, 2), ("epoch", 1, [3, 6], True), ("end", 7),
    ]  # fmt: skip
    assert len(history) == 2 and history.stopped is None
    history = fit(model, [(x, y)], optimizer, epochs=3, validate=(x, y))
    assert history.validation[-1] == accuracy(model, x, y)
    with pytest.raises(InputError, match="epoch 1 has no batches"):
        fit(model, iter([(x, y)]), optimizer, epochs=2)


def test_the_loop_that_explain_prints_is_the_loop_that_ran(capsys):
    hooks = dict(schedule=inv(0.1, 0.1, 1), after_step=lambda step: None, after_backward=lambda step: None)
    ends, printed = [], ""
    for explained in (True, False):
        model, x, y, optimizer = small(momentum=0.9)
        batches, validate = [(x[:6], y[:6]), (x[6:], y[6:])], (x, y)
        if explained:
            history = fit(model, batches, optimizer, epochs=2, start=3, validate=validate, explain=True, **hooks)
            printed = capsys.readouterr().out
        else:
            exec(
                printed, globals() | hooks | dict(model=model, batches=batches, optimizer=optimizer, validate=validate)
            )
            assert capsys.readouterr().out.split() == [str(v) for v in history.validation]
        ends.append([p.data.tobytes() for p in model.parameters()])
    assert ends[0] == ends[1]
    assert 10 <= len(printed.splitlines()) <= 14
    fit(model, batches, optimizer, explain=True)
    assert "schedule" not in (plain := capsys.readouterr().out) and len(plain.splitlines()) == 9


def test_explain_names_the_callbacks_where_they_are_told(capsys):
    class Halve(Callback):
        def after_backward(self, run):
            for p in run.optimizer.params:
                p.grad = p.grad / 2

    model, x, y, optimizer = small()
    fit(model, [(x, y)], optimizer, callbacks=iter([Halve(), EarlyStop(3)]), validate=(x, y), explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("        value.backward()") + 1] == "        # Halve: after_backward(run)"
    assert "    # EarlyStop: after_epoch(run)" in lines and "# EarlyStop: on_end(run)" in lines
    assert not any("on_start" in line for line in lines)


def bad_log(x):
    return np.log(x * 0 - 1)


def infinite_slope(x):
    return np.sqrt(x * 0)


@pytest.mark.parametrize(
    "steps, expected",
    [
        ([ReLU(), bad_log], "the loss is nan at step 0 .* the output of log after layer '0'"),
        ([infinite_slope], "a gradient is not finite at step 0 .* its argument, by sqrt after layer '0'"),
    ],
)
def test_the_layer_in_which_a_nan_begins_is_named(steps, expected):
    _, x, y, _ = small()
    rng = np.random.default_rng(0)
    norm, drop = BatchNorm1d(4), Dropout(0.5, rng=np.random.default_rng(3))
    model = Sequential(Linear(3, 4, rng=rng), *steps, norm, drop, Linear(4, 2, rng=rng))
    weights = [p.data for p in model.parameters()]
    with np.errstate(all="ignore"), pytest.raises(MinidlError, match=expected):
        fit(model, [(x, y)], SGD(model.parameters(), lr=0.1))
    assert all(p.data is w for p, w in zip(model.parameters(), weights, strict=True))


def test_a_weight_that_an_update_has_spoilt_is_named_and_so_is_a_weight_in_its_layer():
    model, x, y, optimizer = small()

    def spoil(step):
        model[2].weight.data = np.full_like(model[2].weight.data, np.inf)

    with np.errstate(all="ignore"), pytest.raises(MinidlError, match="at step 1 .*: the weight 2.weight was alr"):
        fit(model, [(x, y)] * 2, optimizer, after_step=spoil)
    model, x, y, optimizer = small()
    model[0].weight.data = np.full_like(model[0].weight.data, 3e38)
    with np.errstate(all="ignore"), pytest.raises(MinidlError, match="the output of linear in layer '0'"):
        fit(model, [(x * 1e3, y)], optimizer)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_last_good_checkpoint_is_named_and_is_good(tmp_path):
    """A step so large that the weights overflow is finite itself: the checkpoint behind it must not be written."""
    model, x, y, optimizer = small()
    saver = SaveEvery(tmp_path / "run.npz", 1)

    def too_far(step):
        return 3e39 if step == 2 else 0.1

    with pytest.raises(MinidlError, match=r"at step 3 .* last good checkpoint is .*run.npz; lower the rate"):
        fit(model, [(x, y)] * 4, optimizer, schedule=too_far, callbacks=[saver])
    assert not all(np.isfinite(p.data).all() for p in model.parameters())
    assert saver.resume(model, optimizer) == 2 and all(np.isfinite(p.data).all() for p in model.parameters())
    model[0].weight.data = np.full_like(model[0].weight.data, np.nan)
    with pytest.raises(MinidlError, match="no SaveEvery among the callbacks has written one"):
        fit(model, [(x, y)], optimizer)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_model_that_is_one_layer_has_no_name_but_its_weights_have():
    model, x, y, _ = small()
    layer = model[0]
    layer.weight.data = np.full_like(layer.weight.data, 3e38)
    with pytest.raises(MinidlError, match="the output of linear in the layer of weight;"):
        fit(layer, [(x * 1e3, y)], SGD(layer.parameters(), lr=0.1))


def test_a_dropout_mask_is_drawn_again_when_a_bad_step_is_repeated():
    rng = np.random.default_rng(8)
    drop, big = Dropout(0.5, rng=rng), np.zeros((4, 8), np.float32)
    big[:, 0] = 3e38  # overflows (divided by 1 - p) only where the mask keeps it
    model = Sequential(drop, Linear(8, 2, rng=rng))
    for seed in range(8):
        drop.rng = np.random.default_rng(seed)
        with np.errstate(all="ignore"):
            try:
                fit(model, [(big[:1], np.array([0]))], SGD(model.parameters(), lr=0.0))
            except MinidlError as error:
                assert "the output of multiply before the first layer" in str(error)


def test_early_stop_puts_the_best_weights_back():
    model, x, y, optimizer = small()
    values, kept = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.9]), []

    def validate(model):
        kept.append(model.state_dict())
        return next(values)

    stop = EarlyStop(patience=3)
    history = fit(model, [(x, y)], optimizer, epochs=9, validate=validate, callbacks=[stop])
    assert history.validation == [0.2, 0.5, 0.4, 0.5, 0.3] and stop.best == 0.5
    assert history.stopped == "no better than 0.5 of epoch 1 for 3 epochs"
    assert all(a.tobytes() == kept[1][name].tobytes() for name, a in model.state_dict().items())
    with pytest.raises(InputError, match="validate="):
        fit(model, [(x, y)], optimizer, callbacks=[EarlyStop()])


def test_ctrl_c_finishes_the_step_and_loses_nothing(tmp_path, capsys):
    def run(interrupted_at=None, path="run.npz"):
        model, x, y, optimizer = small(momentum=0.9)
        loader = DataLoader((x, y), 4, rng=np.random.default_rng(1))
        saver = SaveEvery(tmp_path / path, 2, data=loader)

        def interrupt(step):
            if step == interrupted_at:
                signal.raise_signal(signal.SIGINT)

        start = saver.resume(model, optimizer)
        history = fit(model, loader, optimizer, start=start, epochs=4 - loader.epoch, after_backward=interrupt,
                      validate=(x, y), callbacks=[saver])  # fmt: skip
        return history, [p.data.tobytes() for p in model.parameters()]

    signal.signal(signal.SIGINT, signal.default_int_handler)
    whole, weights = run(path="whole.npz")
    part, _ = run(interrupted_at=4)
    assert part == whole[:5] and part.stopped == "interrupted at step 4" and part.validation == whole.validation[:1]
    assert "Ctrl-C once more" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest, again = run()
    assert rest == whole and rest.validation == whole.validation and again == weights


def test_a_second_ctrl_c_stops_at_once():
    model, x, y, optimizer = small()

    def interrupt(step):
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [(x, y)], optimizer, after_backward=interrupt, after_step=interrupt)


def test_progress_says_how_long_it_will_take(capsys):
    model, x, y, optimizer = small()
    fit(model, [(x, y)] * 4, optimizer, epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training {k} %" for k in (25, 50, 75, 100)]
    assert all("s left" in line for line in lines)
    fit(model, iter([(x, y)]), optimizer, progress=True)  # nobody knows how many
    assert Progress(0, "training").line().startswith("training 0 steps in 0 s")
