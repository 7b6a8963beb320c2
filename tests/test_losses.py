"""Losses: what they refuse, and the cases that PyTorch's stored values do not hold. (Their values: tests/golden.)"""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, nn
from minidl import functional as F
from minidl.errors import InputError, ShapeError

z = Tensor(np.random.default_rng(0).standard_normal((5, 4)))
labels = np.array([0, 3, 1, 1, 2])


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: F.mse_loss(z, np.ones(5)), ShapeError, r"mse_loss: the input has shape \(5, 4\), the target \(5,\)"),
        (lambda: F.l1_loss(z, np.ones((5, 1))), ShapeError, "l1_loss"),
        (lambda: F.huber_loss(z, z, delta=0), InputError, "delta is 0"),
        (lambda: F.kl_div(z, z, "average"), InputError, "'average'; it is 'mean', 'sum' or 'none'"),
        (lambda: F.cross_entropy(z, labels, reduction="batchmean"), InputError, "'batchmean'"),
        (lambda: F.cross_entropy(z, labels + 1), InputError, "labels run from 1 to 4, the logits have 4 classes"),
        (lambda: F.cross_entropy(z, labels - 1), InputError, "labels run from -1 to 2"),
        (lambda: F.cross_entropy(z, labels[:3]), ShapeError, r"\(5, 4\) and \(3,\)"),
        (lambda: F.cross_entropy(z, labels, np.ones(3)), ShapeError, r"weight has shape \(3,\), the logits 4 classes"),
        (lambda: F.cross_entropy(z, np.ones((5, 3))), ShapeError, r"probabilities \(5, 3\) and logits \(5, 4\)"),
        (lambda: F.nll_loss(z, labels[:3]), ShapeError, r"got \(5, 4\) and \(3,\)"),
        (lambda: F.nll_loss(z, labels + 1), InputError, "x has 4 classes"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_the_mean_of_nothing_is_not_a_number_as_in_pytorch():
    assert np.isnan(F.cross_entropy(z, np.full(5, -100)).item())
    assert np.isnan(F.nll_loss(z, np.full(5, -100)).item())


def test_cross_entropy_is_nll_of_log_softmax_and_kl_of_a_one_hot_target():
    right = F.cross_entropy(z, labels).item()
    assert F.nll_loss(F.log_softmax(z), labels).item() == pytest.approx(right, rel=1e-13)
    target = F.one_hot(labels, 4).astype(float)
    assert F.kl_div(F.log_softmax(z), target, "batchmean").item() == pytest.approx(right, rel=1e-13)
    assert F.cross_entropy(z, target).item() == pytest.approx(right, rel=1e-13)


def test_labels_may_be_a_list_or_a_tensor():
    assert F.cross_entropy(z, labels.tolist()).item() == F.cross_entropy(z, Tensor(labels)).item()


def test_a_confident_answer_does_not_overflow():
    x = Tensor(np.array([1e4, -1e4]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, np.array([1.0, 1.0]), reduction="none")
    loss.sum().backward()
    assert loss.tolist() == [0, 1e4] and x.grad.tolist() == [0, -1]


UNIT = Tensor(np.random.default_rng(1).uniform(0.1, 0.9, (5, 4)))
MODULES = {  # Module -> (its function, its options, the target)
    nn.MSELoss: (F.mse_loss, {"reduction": "sum"}, UNIT), nn.L1Loss: (F.l1_loss, {"reduction": "none"}, UNIT),
    nn.HuberLoss: (F.huber_loss, {"delta": 0.5}, UNIT),
    nn.BCEWithLogitsLoss: (F.binary_cross_entropy_with_logits, {"pos_weight": np.arange(4)}, UNIT),
    nn.KLDivLoss: (F.kl_div, {"reduction": "batchmean"}, UNIT),
    nn.CrossEntropyLoss: (F.cross_entropy, {"weight": np.arange(4.0), "label_smoothing": 0.1}, labels),
    nn.NLLLoss: (F.nll_loss, {"ignore_index": 1}, labels),
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_a_loss_module_is_its_function(module):
    function, options, target = MODULES[module]
    for given in ({}, options):
        np.testing.assert_array_equal(module(**given)(z, target).data, function(z, target, **given).data)
    assert not module().parameters() and module.__doc__ == function.__doc__
    with pytest.raises(TypeError, match="size_average"):
        module(size_average=True)


def test_every_loss_function_has_its_module():
    assert {f for f, *_ in MODULES.values()} == {f for name, f in vars(F).items() if name.endswith(("loss", "entropy",
        "logits", "kl_div"))}  # fmt: skip


def test_options_of_a_loss_may_stand_in_pytorchs_order():
    assert nn.HuberLoss("sum", 0.5)(z, UNIT).item() == F.huber_loss(z, UNIT, reduction="sum", delta=0.5).item()
    assert nn.CrossEntropyLoss(np.arange(4.0))(z, labels).item() == F.cross_entropy(z, labels, np.arange(4.0)).item()
    assert repr(nn.HuberLoss("sum", delta=0.5)) == "HuberLoss(sum, delta=0.5)"
