"""Frozen zeros, the table of every epoch, and lambda steered to a target."""

import numpy as np
import pytest

from minidl.errors import InputError
from minidl.models import lenet_caffe, mlp
from minidl.optim import SGD, Adam
from minidl.sparsity import L1, GroupLasso, Report, Steer, cost, freeze_zeros, groups, sparsity_of
from minidl.train import fit


def task(count=60, sizes=(40, 32, 4)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 40)).astype(np.float32)
    y = (x[:, :8] @ rng.standard_normal((8, 4))).argmax(1)
    rows = [rng.integers(0, 512, 64) for _ in range(count)]
    return mlp(sizes, rng=rng), [(x[k], y[k]) for k in rows]


# -- frozen zeros ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", [lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01), lambda p: Adam(p, 0.01)])
@pytest.mark.parametrize("by", ["weight", "neuron"])
def test_zeros_stay_and_the_rest_learns_whatever_velocity_there_was(by, method):
    model, batches = task()
    optimizer = method(model.parameters())
    fit(model, batches[:5], optimizer)  # velocities that would move what is zeroed now
    w = model[0].weight
    mask = np.random.default_rng(1).random(w.shape) > 0.3
    mask[[0, 3]] = False
    w.data = w.data * mask
    zeros = freeze_zeros(model, by)
    frozen = ~mask if by == "weight" else np.repeat(~mask.any(1), 40).reshape(w.shape)
    assert np.array_equal(~zeros.masks["0.weight"], frozen) and f"{frozen.sum():,} of" in repr(zeros)
    before, bias = w.data, model[0].bias.data
    losses = fit(model, batches, optimizer, callbacks=[zeros])
    assert not w.data[frozen].any() and (w.data[~frozen] != before[~frozen]).all() and w.dtype == np.float32
    assert (model[0].bias.data != bias).any() and losses[-1] < losses[0]
    assert not w.grad[frozen].any(), "momentum and clipping see no gradient of what may not move"


def test_rows_and_columns_that_are_zero_are_frozen_as_in_caffe():
    model = lenet_caffe(np.random.default_rng(0))
    w = model.conv2.weight
    w.data = w.data * (np.arange(50) != 7)[:, None, None, None] * (np.arange(5) != 2)
    zeros = freeze_zeros(model, "row+column")
    assert list(zeros.masks) == ["conv2.weight"] and np.array_equal(zeros.masks["conv2.weight"], w.data != 0)
    with pytest.raises(InputError, match="by='weight': nothing here is 0"):
        freeze_zeros(lenet_caffe(np.random.default_rng(0)))


# -- report ------------------------------------------------------------------------------------------------------------
def test_the_report_has_a_table_for_every_epoch():
    model, batches = task()
    penalty = GroupLasso(groups(model, by="neuron"), lam=0.03)
    report = Report(penalty, batch=batches[0])
    optimizer = SGD(model.parameters(), lr=0.3)
    fit(model, batches, optimizer, epochs=3, callbacks=[penalty, report])
    last = report.epochs[2]
    assert list(report.epochs) == [0, 1, 2] and last.alive == penalty.alive()
    assert last.histogram.sum() == penalty.groups.count and last.histogram[0] == (penalty.norms() == 0).sum() > 0
    assert last.groups_zero == pytest.approx(last.histogram[0] / penalty.groups.count)
    w = model[0].weight.data
    assert last.weights["0.weight"] == (np.count_nonzero(w), w.size) and 0 < last.weights_zero < 1
    assert 0 < last.kkt < 1 and "KKT violation" in str(last) and str(report).count("\n") == 3
    grads = [p.grad for p in model.parameters()]
    report.after_epoch(type("Run", (), {"model": model, "epoch": 3}))
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True)) and model.training


def test_the_report_draws_itself():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    model, _ = task()
    report = Report(GroupLasso(groups(model, by="neuron"), lam=0.03))
    with pytest.raises(InputError, match="no epoch has ended"):
        report.draw(figure)
    report.epochs[0] = sparsity_of(report.penalty)
    report.draw(figure)
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == len(report.epochs[0].alive)


# -- steering lambda ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lam, momentum", [(1e-5, 0.9), (1e-3, 0.0)])
def test_lambda_is_steered_to_the_wanted_sparsity(lam, momentum):
    model, batches = task(700)
    penalty = GroupLasso(groups(model, by="neuron+input"), lam=lam)
    steer = Steer(penalty, 0.5, every=10, over=400)
    fit(
        model,
        batches,
        SGD(model.parameters(), lr=0.05 if momentum else 0.2, momentum=momentum),
        callbacks=[penalty, steer],
    )
    assert steer.measured(model) == pytest.approx(0.5, abs=0.08), "a twelfth of the groups off at most"
    assert steer.history[-1][1] == penalty.lam != lam and len(steer.history) == 70 and "sparsity to 0.5" in repr(steer)
    assert abs(steer.history[10][2] - 0.5) > 0.2, "it was not there from the start"


def test_lambda_is_steered_to_a_share_of_multiply_adds_or_to_any_number_that_falls():
    for target, measure in ((0.4, "macs"), (550.0, None)):
        model, batches = task(500)
        penalty = GroupLasso(groups(model, by="neuron+input"), lam=1e-4)
        x = batches[0][0][:1]

        def kept(m, x=x):
            return cost(m, x).kept

        steer = Steer(penalty, target, measure or kept, over=300, every=10, x=x)
        fit(model, batches, SGD(model.parameters(), lr=0.2), callbacks=[penalty, steer])
        scale = 1.0 if measure else 1408.0  # 40 x 32 + 32 x 4
        assert steer.measured(model) / scale == pytest.approx(target / scale, abs=0.08)
        assert kept(model) < 0.5 * 1408


def test_plain_l1_is_steered_too():
    model, batches = task(400)
    penalty = L1(model, 1e-4)
    steer = Steer(penalty, 0.7, every=10, over=250)
    fit(model, batches, SGD(model.parameters(), lr=0.2), callbacks=[penalty, steer])
    assert steer.measured(model) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target": 1.2}, "target 1.2 must lie between 0 and 1"),
        ({"target": -1, "measure": len}, "between 0 and infinity"),
        ({"target": 0.5, "measure": "speed"}, "is not 'sparsity', 'macs', 'latency' or a function"),
        ({"target": 0.5, "measure": "macs"}, "give x, one sample"),
        ({"target": 0.5, "measure": "latency"}, "give x, a batch"),
        ({"target": 0.5, "every": 0}, "every 0, over 100 steps"),
    ],
)
def test_what_cannot_be_steered_is_refused(options, message):
    penalty = GroupLasso(groups(task()[0], by="neuron"), lam=0.1)
    with pytest.raises(InputError, match=message):
        Steer(penalty, **({"over": 100} | options))
    penalty.lam = lambda step: 0.1
    with pytest.raises(InputError, match="follows a schedule"):
        Steer(penalty, 0.5, over=100)
