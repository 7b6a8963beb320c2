"""The networks for images: weights and multiply-adds as published, initial weights, forward and backward, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl.errors import InputError, ShapeError
from minidl.layers import BatchNorm2d, Conv2d, cross_entropy
from minidl.models import alexnet, cifarnet, convnet, googlenet, resnet, vgg
from minidl.sparsity import cost


def rng(seed=0):
    return np.random.default_rng(seed)


class Zeros:
    """A random generator that draws zeros, at once: counting needs no numbers."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def counted(model, size):
    return cost(model, np.zeros((1, 3, size, size), np.float32))


@pytest.mark.parametrize(
    "build, size, weights, macs",
    [
        (lambda r: convnet(rng=r), 32, 89_578, 12_298_240),
        (lambda r: cifarnet(rng=r), 24, 1_068_298, 18_470_784),
        (lambda r: alexnet(rng=r), 227, 60_965_224, 724_406_816),
        pytest.param(lambda r: vgg("A", rng=r), 224, 132_863_336, 7_609_090_048, marks=pytest.mark.slow),
        pytest.param(lambda r: vgg("16", rng=r), 224, 138_357_544, 15_470_264_320, marks=pytest.mark.slow),
        (lambda r: googlenet(rng=r), 224, 6_998_552, 1_582_671_872),
        (lambda r: resnet(20, rng=r), 32, 269_722, 40_551_040),
        (lambda r: resnet(20, shortcut="B", rng=r), 32, 272_474, 40_813_184),
        (lambda r: resnet(32, rng=r), 32, 464_154, 68_862_592),
        (lambda r: resnet(44, rng=r), 32, 658_586, 97_174_144),
        (lambda r: resnet(56, rng=r), 32, 853_018, 125_485_696),
    ],
    ids="convnet cifarnet alexnet vgg_a vgg_16 googlenet resnet20 resnet20b resnet32 44 56".split(),
)  # fmt: skip
def test_weights_and_multiply_adds_are_the_published_ones(build, size, weights, macs):
    found = counted(build(Zeros()), size)
    assert (found.weights, found.macs) == (weights, macs)


@pytest.mark.parametrize("net, weights, macs", [("A", 132_863_336, 7_609_090_048), ("16", 138_357_544, 15_470_264_320)])
def test_vgg_counted_at_32_pixels_has_the_published_numbers_at_224(net, weights, macs):
    """The slow count without its 400 MB: 49 times the pixels, and a first fc that reads 49 of them, not one."""
    found = counted(vgg(net, size=32, rng=Zeros()), 32)
    more = 48 * 512 * 4096
    convolutions = sum(row.macs for row in found.layers if row.layer.startswith("blocks"))
    assert found.weights + more == weights
    assert found.macs + 48 * convolutions + more == macs


def test_alexnet_has_the_matrix_products_of_caffenet():
    """(filters, columns) (columns, pixels), twice for two groups: the shapes that the paper's speed-ups are about."""
    shapes = {
        "conv1": (1, 96, 363, 3025), "conv2": (2, 128, 1200, 729), "conv3": (1, 384, 2304, 169),
        "conv4": (2, 192, 1728, 169), "conv5": (2, 128, 1728, 169),
    }  # fmt: skip
    model = alexnet(classes=2, rng=Zeros())
    found = counted(model, 227)
    for name, (groups, rows, columns, pixels) in shapes.items():
        assert getattr(model, name).weight.shape[0] == groups * rows
        assert getattr(model, name).weight.data[0].size == columns
        assert found[name].macs == groups * rows * columns * pixels


SMALL = {
    "convnet": (lambda r: convnet(size=16, rng=r), 16),
    "convnet with dropout": (lambda r: convnet(size=13, classes=5, dropout=0.5, rng=r), 13),
    "cifarnet": (lambda r: cifarnet(size=9, classes=5, rng=r), 9),
    "alexnet": (lambda r: alexnet(size=67, classes=10, width=1 / 16, rng=r), 67),
    "alexnet with BatchNorm": (lambda r: alexnet(size=67, classes=5, width=1 / 32, batch_norm=True, rng=r), 67),
    "alexnet without groups": (lambda r: alexnet(size=67, classes=7, width=1 / 32, groups=1, lrn=False, rng=r), 67),
    "vgg_a": (lambda r: vgg("A", size=32, classes=10, width=1 / 16, rng=r), 32),
    "vgg_16": (lambda r: vgg("16", size=32, classes=10, width=1 / 16, rng=r), 32),
    "googlenet": (lambda r: googlenet(classes=10, width=1 / 16, rng=r), 48),
    "googlenet with BatchNorm": (lambda r: googlenet(classes=10, width=1 / 16, batch_norm=True, rng=r), 48),
    "resnet20 A": (lambda r: resnet(20, rng=r), 8),
    "resnet20 B": (lambda r: resnet(20, shortcut="B", rng=r), 8),
}


def gradients(build, size, form):
    """(logits, {name: gradient}) in float64 after one pass in training mode; one seed, so the same dropout."""
    model = build(rng()).astype(np.float64)
    x = Tensor(rng(1).standard_normal((4, 3, size, size)))
    with backend.form(form):
        logits = model(x)
        cross_entropy(logits, [0, 1, 2, 3]).backward()
    return logits.data, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_finite_and_the_same_in_every_form(name):
    build, size = SMALL[name]
    logits, grads = gradients(build, size, "numpy")
    again, same = gradients(build, size, "auto")
    assert np.abs(logits - again).max() <= 1e-12 * max(1, np.abs(logits).max())
    for key, g in grads.items():
        assert g is not None and np.isfinite(g).all(), key
        assert np.abs(g - same[key]).max() <= 1e-12 * max(1, np.abs(g).max()), key
    assert sum(bool(g.any()) for g in grads.values()) >= 0.9 * len(grads)  # a narrow layer may be dead as a whole


@pytest.mark.parametrize("name", SMALL)
def test_one_seed_one_model_in_float32(name):
    build, size = SMALL[name]
    one, two = build(rng(5)), build(rng(5))
    assert all((a == b).all() for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one(Tensor(rng().random((2, 3, size, size), np.float32))).dtype == np.float32


def test_pooling_rounds_up_as_in_caffe():
    assert convnet(rng=rng()).ip1.weight.shape == (10, 64 * 4 * 4)  # 32 - 16 - 8 - 4, where floor gives 15 - 7 - 3
    assert alexnet(classes=2, width=1 / 16, rng=rng()).fc6.weight.shape == (256, 16 * 6 * 6)
    model, sides = googlenet(width=1 / 16, classes=2, rng=rng()), []
    for part in (model.inception3, model.inception4, model.inception5):
        part.insert(0, lambda x: sides.append(x.shape[2]) or x)
    model(Tensor(np.zeros((1, 3, 224, 224), np.float32)))
    assert sides == [28, 14, 7]


def test_cifarnet_normalises_before_the_second_pooling_and_after_the_first():
    """By hand, in float64, from its layers' equations."""
    model, x = cifarnet(size=8, classes=3, rng=rng()).astype(np.float64), rng(1).standard_normal((2, 3, 8, 8))

    def pool(a):  # one pixel beyond the right and lower edge
        a = np.pad(a, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
        return np.lib.stride_tricks.sliding_window_view(a, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))

    def lrn(a):
        around = np.pad(a * a, ((0, 0), (4, 4), (0, 0), (0, 0)))
        return a * (1 + 0.001 / 9 * sum(around[:, k : k + 64] for k in range(9))) ** -0.75

    relu = lambda a: np.maximum(a, 0)
    y = lrn(pool(relu(model.conv1(Tensor(x)).data)))
    y = pool(lrn(relu(model.conv2(Tensor(y)).data))).reshape(2, -1)
    for layer in (model.fc3, model.fc4):
        y = relu(y @ layer.weight.data.T + layer.bias.data)
    expected = y @ model.logits.weight.data.T + model.logits.bias.data
    np.testing.assert_allclose(model(Tensor(x)).data, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


def test_inception_joins_its_four_branches_in_the_papers_order():
    first = googlenet(classes=2, rng=rng()).inception3[0]
    x = Tensor(rng().random((1, 192, 5, 5), np.float32))
    y = first(x).data
    parts = np.split(y, [64, 64 + 128, 64 + 128 + 32], axis=1)
    for branch, part in zip((first.one, first.three, first.five, first.pool), parts, strict=True):
        np.testing.assert_array_equal(branch(x).data, part)


def test_initial_weights_are_the_published_ones():
    model = convnet(rng=rng())
    for layer, std in ((model.conv1, 1e-4), (model.conv2, 0.01), (model.conv3, 0.01), (model.ip1, 0.01)):
        assert layer.weight.data.std() == pytest.approx(std, rel=0.05) and not layer.bias.data.any()
    model = cifarnet(rng=rng())
    for layer, std, bias in zip(
        (model.conv1, model.conv2, model.fc3, model.fc4, model.logits), (0.05, 0.05, 0.04, 0.04, 1 / 192),
        (0, 0.1, 0.1, 0.1, 0), strict=True,
    ):  # fmt: skip
        cut = np.abs(layer.weight.data).max() / std
        assert 1.99 < cut <= 2.0001 and layer.weight.data.std() == pytest.approx(0.8796 * std, rel=0.05)
        assert (layer.bias.data == np.float32(bias)).all()
    alex = alexnet(width=1 / 4, classes=10, rng=rng())
    assert alex.fc6.weight.data.std() == pytest.approx(0.005, rel=0.02)
    assert alex.conv3.weight.data.std() == pytest.approx(0.01, rel=0.02)
    ones = [name for name, layer in alex.children() if hasattr(layer, "bias") and (layer.bias.data == 1).all()]
    assert ones == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    fc, conv = (m := vgg("A", width=1 / 4, classes=10, rng=rng())).fc2, m.blocks[2][2]
    assert np.abs(fc.weight.data).max() == pytest.approx((6 / 2048) ** 0.5, rel=1e-3)
    assert np.abs(conv.weight.data).max() == pytest.approx((6 / (64 * 9 + 64 * 9)) ** 0.5, rel=1e-3)
    five = googlenet(width=1 / 2, classes=10, rng=rng()).inception5[1].five[1][0]
    assert np.abs(five.weight.data).max() == pytest.approx((3 / (24 * 25)) ** 0.5, rel=1e-3)
    assert (five.bias.data == np.float32(0.2)).all()


def test_resnets_have_as_many_layers_as_their_names():
    for layers in (20, 32, 44, 56):
        modules = list(resnet(layers, rng=Zeros()).modules())
        convolutions = sum(isinstance(m, Conv2d) for m in modules)
        assert convolutions + 1 == layers and convolutions == sum(isinstance(m, BatchNorm2d) for m in modules)


@pytest.mark.parametrize(
    "build, error, says",
    [
        (lambda: vgg("19", rng=rng()), InputError, "VGG '19' is not one of A, 16"),
        (lambda: vgg("A", size=28, rng=rng()), InputError, "28 pixels a side is smaller than 32"),
        (lambda: alexnet(size=10, rng=rng()), ShapeError, "a window of 11 does not fit an axis of 10"),
        (lambda: resnet(21, rng=rng()), InputError, "6 n \\+ 2 layers"),
        (lambda: resnet(20, shortcut="C", rng=rng()), InputError, "neither 'A'"),
    ],
)
def test_what_cannot_be_built_is_refused(build, error, says):
    with pytest.raises(error, match=says):
        build()
