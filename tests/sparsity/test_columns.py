"""Positions that no filter uses: a reduced GEMM says the same, trains, is counted, saved and named as such."""

import numpy as np
import pytest
from lively import lively, output, set_zero

from minidl import Tensor, backend
from minidl.errors import InputError, ShapeError
from minidl.gradcheck import gradcheck
from minidl.layers import Conv2d
from minidl.layers.conv_kept import conv2d_kept
from minidl.models import lenet_caffe
from minidl.optim import SGD
from minidl.sparsity import compact, cost

RNG = np.random.default_rng(0)
OPTIONS = [{}, dict(stride=2, padding=(1, 2)), dict(dilation=(2, 1), padding=2)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", ["numpy", "composed"])
def test_it_is_the_convolution_with_zeros_elsewhere(options, form):
    rng = np.random.default_rng(1)
    kept = np.array([[0, 0, 2, 2], [0, 2, 1, 1], [1, 1, 0, 1]])
    sparse = Conv2d(3, 4, (3, 2), rng=rng, kept=kept, **options).astype(np.float64)
    dense = Conv2d(3, 4, (3, 2), rng=rng, **options).astype(np.float64)
    dense.bias.data = sparse.bias.data
    dense.weight.data = np.zeros((4, 3, 3, 2))
    dense.weight.data[:, *kept] = sparse.weight.data
    x = rng.standard_normal((2, 3, 7, 6))
    with backend.form(form):
        a, b = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
        y, z = sparse(a), dense(b)
        np.testing.assert_allclose(y.data, z.data, rtol=1e-12)
        (y * y).sum().backward()
        (z * z).sum().backward()
    np.testing.assert_allclose(a.grad, b.grad, atol=1e-12)
    np.testing.assert_allclose(sparse.weight.grad, dense.weight.grad[:, *kept], rtol=1e-10)
    np.testing.assert_allclose(sparse.bias.grad, dense.bias.grad, rtol=1e-10)
    assert cost(sparse, x).macs == y.data.size * 4 and cost(dense, x).macs == z.data.size * 18


def test_its_derivative():
    kept = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 1]])
    x, w, b = (RNG.standard_normal(s) for s in ((2, 2, 4, 4), (3, 3), 3))
    gradcheck(lambda x, w, b: conv2d_kept(x, w, kept, b, kernel=2, padding=1), x, w, b, rng=RNG)


def test_what_does_not_fit_is_refused():
    for kept, groups in (([[0], [3], [0]], 1), ([[0], [0]], 1), ([[0], [0], [0]], 2)):
        with pytest.raises(InputError, match="three rows of places"):
            Conv2d(2, 4, 3, rng=RNG, groups=groups, kept=kept)
    with pytest.raises(ShapeError, match="more channels than that"):
        Conv2d(2, 4, 3, rng=RNG, kept=[[1], [0], [0]])(Tensor(np.zeros((1, 1, 5, 5), np.float32)))


def test_compact_lets_unused_columns_go_and_says_that_it_is_no_dense_product():
    rng = np.random.default_rng(0)
    model, x = lively(lenet_caffe(rng), rng).astype(np.float64), rng.random((3, 1, 28, 28))
    set_zero(model.conv1.weight, (slice(None), 0, 0))  # its first row of pixels: five columns
    set_zero(model.conv2.weight, (slice(None), slice(None), 2, 3))
    set_zero(model.conv2.weight, (slice(None), 7))  # a whole channel: that is a filter of conv1 less
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer.velocity = {k: RNG.standard_normal(p.shape) for k, p in enumerate(model.parameters())}
    small, certificate, less = compact(model, x, optimizer, columns=True)
    assert certificate.columns == {"conv1": (20, 25), "conv2": (19 * 24, 19 * 25)}
    assert "reduced GEMM 20 conv1 of 25 columns: gathered, not dense" in " ".join(str(certificate).split())
    assert small.conv1.weight.shape == (19, 20) and small.conv2.weight.shape == (50, 19 * 24)
    assert cost(small, x)["conv1"].macs == 3 * 24 * 24 * 19 * 20 and certificate.proof.train is not None
    np.testing.assert_allclose(output(small, x), output(model, x), rtol=1e-11)
    full = optimizer.velocity[0][[k for k in range(20) if k != 7]].reshape(19, -1)[:, 5:]
    assert np.array_equal(less.velocity[0], full)
    _, dense = compact(model, x)  # without the option the positions stay
    assert dense.columns == {} and dense.macs_after > certificate.macs_after
    assert small.astype(np.float32).conv1.kept.dtype == np.int64
