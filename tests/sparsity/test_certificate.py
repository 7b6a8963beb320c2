"""The proof: training mode with equal dropout masks, gradients of what is kept, and what cannot be shown."""

import numpy as np
import pytest
from lively import lively, set_zero

from minidl.layers import BatchNorm1d, Conv2d, Dropout, Linear, ReLU, Sequential
from minidl.sparsity import compact, silence_, units
from minidl.sparsity.compact import _Cut


def dropped(rng, norm=False):
    steps = [Linear(7, 12, rng=rng), *([BatchNorm1d(12)] if norm else []), ReLU(), Dropout(0.5, rng=rng)]
    model = Sequential(*steps, Linear(12, 9, rng=rng), ReLU(), Dropout(0.3, rng=rng), Linear(9, 3, rng=rng))
    return lively(model, rng), rng.standard_normal((10, 7))


def linears(model):
    return [m for m in model if isinstance(m, Linear)]


def test_training_mode_is_compared_with_masks_cut_out_of_the_original_s():
    rng = np.random.default_rng(0)
    model, x = dropped(rng)
    silence_(model, units(model, x)[::3])
    state = model[2].rng.bit_generator.state
    small, certificate = compact(model, x)
    assert certificate.proof.train is not None and max(certificate.proof.train) < 1e-13
    assert "in training mode" in str(certificate) and "gradients of what is kept" in str(certificate)
    assert model[2].rng.bit_generator.state == state  # nobody's numbers were used up


@pytest.mark.parametrize("norm", [False, True])
def test_a_constant_that_is_dropped_or_normalised_holds_in_evaluation_only(norm):
    rng = np.random.default_rng(0)
    model, x = dropped(rng, norm)
    if norm:
        model[3].p = model[6].p = 0.0
    linears(model)[0].bias.data = np.ones(12, np.float32)
    set_zero(linears(model)[0].weight, [2, 5])
    if norm:
        model[1].bias.data = np.full(12, 2, np.float32)
    small, certificate = compact(model.astype(np.float64), x)
    assert certificate.proof.train is None and "evaluation only: in training mode they differ by" in str(certificate)
    assert certificate.proof.gradients < 1e-13 and certificate.difference <= certificate.tolerance


def test_a_constant_that_is_neither_holds_in_training_too():
    rng = np.random.default_rng(0)
    model, x = dropped(rng)
    model[2].p = 0.0
    set_zero(linears(model)[0].weight, [2, 5])
    assert compact(model.astype(np.float64), x)[1].proof.train is not None


def test_batchnorm_with_one_row_cannot_be_compared():
    rng = np.random.default_rng(0)
    model, x = dropped(rng, norm=True)
    silence_(model, units(model, x)[:2])
    _, certificate = compact(model, x[:1])
    assert certificate.proof.train is None and "no comparison in training mode (BatchNorm needs" in str(certificate)


def test_the_comparison_of_gradients_can_fail(monkeypatch):
    """A constant channel that speaks for others has other slopes itself: without that exception it shows."""
    rng = np.random.default_rng(0)
    model = Sequential(Conv2d(1, 5, 3, rng=rng), ReLU(), Conv2d(5, 2, 3, padding=1, rng=rng)).astype(np.float64)
    set_zero(model[0].weight, [1, 2])
    model[0].bias.data = np.full(5, 0.5)
    x = rng.standard_normal((3, 1, 6, 6))
    assert compact(model, x)[1].proof.gradients < 1e-12
    monkeypatch.setattr(_Cut, "spoken_for", lambda self, name: np.zeros((), bool))
    assert compact(model, x)[1].proof.gradients > 1e-3
