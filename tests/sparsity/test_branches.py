"""Layer removal: a branch of a residual network leaves, and what stays says the same."""

import numpy as np
import pytest
from lively import lively, output, set_zero, snapshot, unchanged

from minidl import rules
from minidl.layers import BatchNorm2d, Conv2d, Linear, Module, cross_entropy
from minidl.models import resnet
from minidl.optim import SGD, Adam
from minidl.sparsity import compact, cost
from minidl.sparsity.branches import BRANCH, Constant, Nothing
from minidl.tensor import Tensor


def network(shortcut="A", layers=8, dtype=np.float64):
    rng = np.random.default_rng(2)
    model = lively(resnet(layers, shortcut=shortcut, rng=rng), rng).astype(dtype)
    return model, rng.standard_normal((3, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("block", [0, 1])  # one between equal sizes, one with a stride
def test_a_branch_whose_second_convolution_is_zero_leaves(shortcut, block):
    model, x = network(shortcut)
    set_zero(model.blocks[block].conv2.weight)
    before = snapshot(model)
    small, certificate = compact(model, x)
    place = f"blocks.{block}"
    names = {"conv1.weight", "bn1.weight", "bn1.running_var", "conv2.weight", "bn2.weight", "bn2.running_mean"}
    assert {f"{place}.{n}" for n in names} & small.state_dict().keys() == set() and unchanged(model, before)
    assert isinstance(small.blocks[block].bn2, Constant) and isinstance(small.blocks[block].conv1, Nothing)
    width = model.blocks[block].conv2.weight.shape[0]
    assert (f"{place}.conv1", BRANCH, width) in certificate.removed
    assert (f"{place}.conv2", BRANCH, width) in certificate.removed
    macs = cost(model, x)
    assert certificate.macs_after == macs.macs - macs[f"{place}.conv1"].macs - macs[f"{place}.conv2"].macs
    expected = output(model, x)
    assert np.abs(output(small, x) - expected).max() <= 1e-12 * max(1, np.abs(expected).max())
    other = np.random.default_rng(9).standard_normal((2, 3, 16, 16))  # and not for this size of image alone
    np.testing.assert_allclose(output(small, other), output(model, other), rtol=1e-10)


def test_the_constant_is_batchnorm_s_in_evaluation_and_the_certificate_says_so():
    model, x = network()
    set_zero(model.blocks[0].conv2.weight)
    bn = model.blocks[0].bn2
    small, certificate = compact(model, x)
    c = bn.bias.data - bn.running_mean * bn.weight.data / np.sqrt(bn.running_var + bn.eps)
    np.testing.assert_allclose(small.blocks[0].bn2.bias.data.ravel(), c, rtol=1e-12)
    assert certificate.proof.train is None and "evaluation only" in str(certificate)
    bn.running_mean = np.zeros(16)  # what a branch that has been 0 for long would have: beta in both modes
    _, certificate = compact(model, x)
    assert certificate.proof.train is not None and "in training mode" in str(certificate)


def test_a_scale_of_zero_does_the_same_as_a_convolution_of_zero():
    model, x = network()
    set_zero(model.blocks[2].bn2.weight)
    small, certificate = compact(model, x)
    assert [row[0] for row in certificate.removed] == ["blocks.2.conv1", "blocks.2.conv2"]
    np.testing.assert_allclose(small.blocks[2].bn2.bias.data.ravel(), model.blocks[2].bn2.bias.data)
    assert certificate.proof.train is not None  # gamma = 0 gives beta in both modes


def test_a_zero_first_convolution_leaves_only_with_a_map():
    """Zeros around the constant that the second, padded convolution reads make its border differ."""
    model, x = network()
    set_zero(model.blocks[0].conv1.weight)
    small, certificate = compact(model, x)  # fifteen of its sixteen filters go, the branch stays
    assert [(row[0], row[2]) for row in certificate.removed] == [("blocks.0.conv1", 15)]
    assert any("it needs a map" in reason for _, reason, _ in certificate.stays)
    small, certificate = compact(model, x, maps=True)
    assert small.blocks[0].bn2.bias.shape == (1, 16, 8, 8)
    np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-12)
    model.blocks[0].bn1.bias.data = np.full(16, -99.0)  # ReLU makes 0 of it: then there is no border
    small, _ = compact(model, x)
    assert small.blocks[0].bn2.bias.shape == (1, 16, 1, 1)


def test_units_of_what_is_left_go_too_and_in_float32():
    model, x = network(dtype=np.float32)
    set_zero(model.blocks[0].conv2.weight)
    for block in model.blocks[1:]:
        set_zero(block.conv1.weight, (slice(None), [3]))
    set_zero(model.fc.weight, (slice(None), [3]))
    small, certificate = compact(model, x)
    assert ("conv", "unread: every weight that reads it is 0", 1) in certificate.removed
    assert small.blocks[0].bn2.bias.shape == (1, 15, 1, 1) and small.blocks[0].bn2.bias.dtype == np.float32
    np.testing.assert_allclose(output(small, x, np.float32), output(model, x), atol=1e-4)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.01, momentum=0.9), lambda p: Adam(p, 1e-3)])
def test_the_optimizer_goes_on_and_beta_s_state_belongs_to_the_constant(make):
    model, x = network()
    x = x.astype(np.float64)
    optimizer = make(model.parameters())

    def step(m, opt):
        loss = cross_entropy(m(Tensor(x)), np.arange(3))
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    for _ in range(2):
        step(model, optimizer)
    set_zero(model.blocks[0].conv2.weight)
    model.blocks[0].bn2.running_mean = np.zeros(16)
    small, certificate, less = compact(model, x, optimizer)
    assert list(map(id, less.params)) == list(map(id, small.parameters())) and len(less.state) == len(less.params)
    k = [id(p) for p in less.params].index(id(small.blocks[0].bn2.bias))
    own = [id(p) for p in optimizer.params].index(id(model.blocks[0].bn2.bias))
    for name, array in optimizer.state[own].items():
        if np.ndim(array):
            assert less.state[k][name].shape == (1, 16, 1, 1)
            assert np.array_equal(less.state[k][name].ravel(), array)
    ours = [step(small, less) for _ in range(3)]
    theirs = []
    for _ in range(3):  # the large one, its dead branch held as it is
        theirs.append(step(model, optimizer))
        set_zero(model.blocks[0].conv2.weight)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


class Chain(Module):
    def __init__(self, rng):
        self.a, self.b, self.c = Conv2d(1, 4, 3, rng=rng), Conv2d(4, 4, 3, rng=rng), Linear(4, 2, rng=rng)

    def forward(self, x):
        return self.c(self.b(rules.relu(self.a(x))).mean((2, 3)))


def test_a_chain_is_not_cut():
    rng = np.random.default_rng(0)
    model, x = lively(Chain(rng), rng).astype(np.float64), rng.random((3, 1, 9, 9))
    set_zero(model.b.weight)
    small, certificate = compact(model, x)
    assert small.b.weight.shape[0] == 1 and ("b", "last of its layer", 1) in certificate.stays
    assert not any("shortcut" in reason for _, reason, _ in certificate.stays)
    np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-12)


class Written(Module):
    """Between its layers the branch does what only their results can bear."""

    def __init__(self, rng):
        self.a, self.b, self.c = (Conv2d(2, 2, 3, padding=1, rng=rng) for _ in range(3))
        self.norm = BatchNorm2d(2)

    def forward(self, x):
        y = self.b(self.a(x).reshape(len(x), -1, *x.shape[2:]))
        return self.c(x + self.norm(y)).flatten(1)


def test_a_branch_that_its_forward_needs_stays():
    rng = np.random.default_rng(0)
    model, x = lively(Written(rng), rng).astype(np.float64), rng.random((3, 2, 5, 5))
    set_zero(model.b.weight)
    small, certificate = compact(model, x)
    assert ("norm", "constant, but the forward does not run without it", 2) in certificate.stays
    assert [row[0] for row in certificate.removed] == ["a"] and small.a.weight.shape[0] == 1
