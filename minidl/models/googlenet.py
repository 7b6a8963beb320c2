"""GoogLeNet (Inception v1), without the two auxiliary heads.      6,998,552 weights, 1,582,671,872 products

    layer                                                                output for 224 x 224
    conv1   64 @ 7x7, stride 2, padding 3 - max-pool 3/2 - LRN            64 x 56 x 56
    conv2   64 @ 1x1 - 192 @ 3x3, padding 1 - LRN - max-pool 3/2         192 x 28 x 28
    inception  1x1 | 1x1 -> 3x3   | 1x1 -> 5x5  | pool -> 1x1
      3a        64 |   96 -> 128  |   16 ->  32 |   32                   256 x 28 x 28
      3b       128 |  128 -> 192  |   32 ->  96 |   64     max-pool 3/2  480 x 14 x 14
      4a       192 |   96 -> 208  |   16 ->  48 |   64                   512 x 14 x 14
      4b       160 |  112 -> 224  |   24 ->  64 |   64                   512 x 14 x 14
      4c       128 |  128 -> 256  |   24 ->  64 |   64                   512 x 14 x 14
      4d       112 |  144 -> 288  |   32 ->  64 |   64                   528 x 14 x 14
      4e       256 |  160 -> 320  |   32 -> 128 |  128     max-pool 3/2  832 x  7 x  7
      5a       256 |  160 -> 320  |   32 -> 128 |  128                   832 x  7 x  7
      5b       384 |  192 -> 384  |   48 -> 128 |  128                  1024 x  7 x  7
    mean over the image - dropout .4 - fc classes

A ReLU after every convolution; pooling rounds sizes up; LRN across 5 channels, alpha 1e-4, beta 0.75. It ties the
filters of conv1 and conv2 to each other: they cannot be removed singly. batch_norm=True puts BatchNorm behind every
convolution, in the place of LRN, as TernGrad's code has it: so it learns within a few hundred steps. Weights as in
Caffe, where the paper says nothing: U(-a, a), a = sqrt(3 / fan_in), biases .2 (fc: 0). (Szegedy et al. 2015, table 1)
"""

from __future__ import annotations

import numpy as np

from minidl.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    Parameter,
    ReLU,
    Sequential,
)  # fmt: skip
from minidl.methods import cat
from minidl.tensor import Tensor

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def _xavier(layer, bias):
    """From the layers' own U(+-1/sqrt(fan_in)) to Caffe's U(+-sqrt(3 / fan_in)), and a constant bias."""
    layer.weight.data *= np.float32(3**0.5)
    layer.bias = Parameter(np.full(len(layer.weight.data), bias, np.float32))
    return layer


def _conv(
    inputs: int, outputs: int, kernel: int, batch_norm: bool, rng: np.random.Generator, stride: int = 1
) -> Sequential:
    conv = _xavier(Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, rng=rng), 0.2)
    return Sequential(conv, BatchNorm2d(outputs), ReLU()) if batch_norm else Sequential(conv, ReLU())


class Inception(Module):
    """Four branches beside each other, joined along the channels. x: (N, C, H, W) -> (N, a + c + e + f, H, W).

    widths (a, b, c, d, e, f): 1x1 a | 1x1 b - 3x3 c | 1x1 d - 5x5 e | max-pool 3/1 - 1x1 f.
    """

    def __init__(self, inputs: int, widths, batch_norm: bool, rng: np.random.Generator):
        a, b, c, d, e, f = widths
        self.one = _conv(inputs, a, 1, batch_norm, rng)
        self.three = Sequential(_conv(inputs, b, 1, batch_norm, rng), _conv(b, c, 3, batch_norm, rng))
        self.five = Sequential(_conv(inputs, d, 1, batch_norm, rng), _conv(d, e, 5, batch_norm, rng))
        self.pool = Sequential(MaxPool2d(3, 1, padding=1), _conv(inputs, f, 1, batch_norm, rng))

    def forward(self, x: Tensor) -> Tensor:
        return cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class GoogLeNet(Module):
    """x: (N, 3, size, size), any size -> logits: (N, classes). width multiplies all numbers of filters."""

    def __init__(
        self, *, classes: int = 1000, width: float = 1.0, batch_norm: bool = False, dropout: float = 0.4,
        rng: np.random.Generator,
    ):  # fmt: skip
        def scaled(*filters):
            return [max(1, round(n * width)) for n in filters]

        first, channels = scaled(64, 192)
        self.conv1 = _conv(3, first, 7, batch_norm, rng, stride=2)
        self.conv2 = Sequential(_conv(first, first, 1, batch_norm, rng), _conv(first, channels, 3, batch_norm, rng))
        self.pool = MaxPool2d(3, 2, ceil_mode=True)
        self.lrn = Sequential() if batch_norm else LocalResponseNorm(5, 1e-4, 0.75)
        stages: dict[str, list] = {"3": [], "4": [], "5": []}
        for name, filters in INCEPTIONS.items():
            widths = scaled(*filters)
            stages[name[0]].append(Inception(channels, widths, batch_norm, rng))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.inception3, self.inception4, self.inception5 = (Sequential(*stage) for stage in stages.values())
        self.dropout = Dropout(dropout, rng=rng)
        self.fc = _xavier(Linear(channels, classes, rng=rng), 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(self.pool(self.conv1(x)))
        x = self.pool(self.lrn(self.conv2(x)))
        x = self.pool(self.inception3(x))
        x = self.pool(self.inception4(x))
        x = self.inception5(x)
        return self.fc(self.dropout(x.mean((2, 3))))


def googlenet(**options) -> GoogLeNet:
    """GoogLeNet; options: classes=1000, width=1.0, batch_norm=False, dropout=0.4, rng."""
    return GoogLeNet(**options)
