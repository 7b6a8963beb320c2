"""Ops are called as PyTorch's functions are: options by position or by name; what does not fit is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl import functional as F
from minidl import layers as L
from minidl.errors import InputError, ShapeError

RNG = np.random.default_rng(0)
X, W, B = (RNG.standard_normal(shape) for shape in ((2, 4, 6, 7), (6, 2, 3, 3), (6,)))
ROWS, GAMMA, BETA = (RNG.standard_normal(shape) for shape in ((5, 3), (3,), (3,)))
IDS = np.array([[0, 2], [1, 1]])
POOLED = dict(kernel=3, stride=2, padding=1)

# a PyTorch user's call -> the same with every option by its name here
CALLS = {
    "max_pool2d(x, 2)": (lambda: F.max_pool2d(X, 2), lambda: L.max_pool2d(X, kernel=2, stride=2)),
    "max_pool2d(x, 3, 2, 1)": (lambda: F.max_pool2d(X, 3, 2, 1), lambda: L.max_pool2d(X, **POOLED)),
    "max_pool2d(x, 3, 2, 1, 1, True)": (
        lambda: F.max_pool2d(X, 3, 2, 1, 1, True), lambda: L.max_pool2d(X, **POOLED, ceil_mode=True)
    ),
    "max_pool2d(x, kernel_size=(2, 2))": (
        lambda: F.max_pool2d(X, kernel_size=(2, 2)), lambda: L.max_pool2d(X, kernel=2, stride=2)
    ),
    "MaxPool2d((2, 2))": (lambda: L.MaxPool2d((2, 2))(Tensor(X)), lambda: L.max_pool2d(X, kernel=2, stride=2)),
    "avg_pool2d(x, 2)": (lambda: F.avg_pool2d(X, 2), lambda: L.avg_pool2d(X, kernel=2, stride=2)),
    "avg_pool2d(x, 3, 2, 1, False, False)": (
        lambda: F.avg_pool2d(X, 3, 2, 1, False, False), lambda: L.avg_pool2d(X, **POOLED, count_include_pad=False)
    ),
    "conv2d(x, w, b, 2, 1, 1, 2)": (
        lambda: F.conv2d(X, W, B, 2, 1, 1, 2), lambda: L.conv2d(X, W, B, stride=2, padding=1, groups=2)
    ),
    "conv2d(x, w, None, groups=2)": (lambda: F.conv2d(X, W, None, groups=2), lambda: L.conv2d(X, W, groups=2)),
    "conv2d(x, weight=, bias=, groups=)": (
        lambda: F.conv2d(X, weight=W, bias=B, groups=2), lambda: L.conv2d(X, W, B, groups=2)
    ),
    "conv1d(x, w, b, 2, 1)": (
        lambda: F.conv1d(Tensor(X[0]), Tensor(W[0, :, :, :1].repeat(3, 0)[:, :1].repeat(6, 1)), None, 2, 1),
        lambda: F.conv1d(Tensor(X[0]), Tensor(W[0, :, :, :1].repeat(3, 0)[:, :1].repeat(6, 1)), stride=2, padding=1),
    ),
    "linear(x, w, bias=None)": (lambda: F.linear(ROWS, W[:, 0, 0], bias=None), lambda: L.linear(ROWS, W[:, 0, 0])),
    "layer_norm(x, (3,))": (
        lambda: F.layer_norm(ROWS, (3,)), lambda: L.layer_norm(ROWS, np.ones(3), np.zeros(3), eps=1e-5)
    ),
    "layer_norm(x, (3,), w, b, 1e-2)": (
        lambda: F.layer_norm(ROWS, (3,), GAMMA, BETA, 1e-2), lambda: L.layer_norm(ROWS, GAMMA, BETA, eps=1e-2)
    ),
    "layer_norm(x, [3], bias=b)": (
        lambda: F.layer_norm(ROWS, [3], bias=BETA), lambda: L.layer_norm(ROWS, np.ones(3), BETA)
    ),
    "local_response_norm(x, 3)": (lambda: F.local_response_norm(X, 3), lambda: L.local_response_norm(X, size=3)),
    "local_response_norm(x, 3, 0.1, 0.5, 2)": (
        lambda: F.local_response_norm(X, 3, 0.1, 0.5, 2.0),
        lambda: L.local_response_norm(X, size=3, alpha=0.1, beta=0.5, k=2.0),
    ),
    "adaptive_avg_pool2d(x, 1)": (lambda: F.adaptive_avg_pool2d(Tensor(X), 1), lambda: Tensor(X).mean((2, 3), True)),
    "adaptive_max_pool2d(x, 2)": (lambda: F.adaptive_max_pool2d(X, 2), lambda: L.adaptive_max_pool2d(X, output_size=2)),
    "embedding(ids, weight)": (lambda: F.embedding(IDS, ROWS), lambda: L.embedding(ROWS, IDS)),
    "embedding(Tensor, weight)": (lambda: F.embedding(Tensor(IDS), ROWS), lambda: L.embedding(ROWS, IDS)),
}  # fmt: skip


@pytest.mark.parametrize("form", ["numpy", "composed"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_in_pytorchs_order_is_the_same_call(call, form):
    theirs, ours = CALLS[call]
    with backend.form(form):
        np.testing.assert_array_equal(theirs().data, ours().data)


def test_a_gradient_comes_to_arrays_given_by_name():
    weight = Tensor(W, requires_grad=True)
    F.conv2d(X, weight=weight, groups=2).sum().backward()
    assert weight.grad is not None and weight.grad.shape == W.shape


@pytest.mark.parametrize("call, error, message", [
    (lambda: F.max_pool2d(X), InputError, "max_pool2d: missing: 'kernel'; its arguments are x, kernel, stride, "),
    (lambda: F.max_pool2d(X, 3, 1, 1, 2), InputError, "max_pool2d: {'dilation': 2}: a window is square .* no gaps"),
    (lambda: F.avg_pool2d(X, (2, 3)), InputError, r"avg_pool2d: {'kernel': \(2, 3\), 'stride': \(2, 3\)}: a window is"),
    (lambda: F.avg_pool2d(X, 2, divisor_override=3), InputError, "avg_pool2d: not known: 'divisor_override'; its arg"),
    (lambda: F.conv2d(X, W, B, 1, 0, 1, 2, 9), InputError, "conv2d: too many arguments: '8'; its arguments are x, wei"),
    (lambda: F.conv2d(X, W, B, 1, stride=2), InputError, "conv2d: given twice: 'stride'"),
    (lambda: F.conv2d(X), InputError, "conv2d: missing: 'weight'"),
    (lambda: F.embedding(IDS, ROWS, max_norm=1), InputError, "embedding: not known: 'max_norm'"),
    (lambda: L.batch_norm(X, B, B, training=True, eps=1), InputError, "batch_norm: not known: 'training'"),
    (lambda: F.layer_norm(ROWS, (2,), GAMMA), ShapeError, r"normalized_shape is \(2,\), the weight has shape \(3,\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
