"""CifarNet: the CIFAR-10 network of TensorFlow's tutorial and of TernGrad's table 1.   1,068,298 weights, 18.5 M MACs

    layer                                                     output for 24 x 24      weights
    conv1   64 @ 5x5, padding 2 - ReLU                        64 x 24 x 24              4,864
            max-pool 3/2 - LRN                                64 x 12 x 12
    conv2   64 @ 5x5, padding 2 - ReLU                        64 x 12 x 12            102,464
            LRN - max-pool 3/2                                64 x  6 x  6
    fc3     384 - ReLU                                        384                     885,120
    fc4     192 - ReLU                                        192                      73,920
    logits  10                                                10                        1,930

Pooling reaches one pixel beyond the right and the lower edge. LRN is across 9 channels, s = 1 + .001/9 sum of x^2, beta
0.75. Normal weights cut at two standard deviations (.05, .05, .04, .04, 1/192); biases 0, .1, .1, .1, 0. As published
it learns from 24 x 24 pixels cut out of 32 x 32 (see `data.augment`), with weight decay .004 on fc3 and fc4 alone.
"""

from __future__ import annotations

import numpy as np

from minidl.layers import Conv2d, Linear, LocalResponseNorm, MaxPool2d, Module, Parameter
from minidl.layers.pool import pooled_size
from minidl.models.lenet import cut_normal
from minidl.tensor import Tensor


class CifarNet(Module):
    """x: (N, 3, size, size) -> logits: (N, classes)."""

    def __init__(self, *, size: int = 24, classes: int = 10, rng: np.random.Generator):
        side = pooled_size(pooled_size(size, 3, 2, 0, ceil_mode=True), 3, 2, 0, ceil_mode=True)
        self.conv1 = Conv2d(3, 64, 5, padding=2, rng=rng)
        self.conv2 = Conv2d(64, 64, 5, padding=2, rng=rng)
        self.fc3 = Linear(64 * side * side, 384, rng=rng)
        self.fc4 = Linear(384, 192, rng=rng)
        self.logits = Linear(192, classes, rng=rng)
        self.pool, self.lrn = MaxPool2d(3, 2, ceil_mode=True), LocalResponseNorm(9, 0.001, 0.75)
        for layer, std, bias in (
            (self.conv1, 0.05, 0.0), (self.conv2, 0.05, 0.1), (self.fc3, 0.04, 0.1), (self.fc4, 0.04, 0.1),
            (self.logits, 1 / 192, 0.0),
        ):  # fmt: skip
            layer.weight = Parameter(cut_normal(layer.weight.shape, std, rng))
            layer.bias = Parameter(np.full(len(layer.weight.data), bias, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(self.pool(self.conv1(x).relu()))
        x = self.pool(self.lrn(self.conv2(x).relu()))
        return self.logits(self.fc4(self.fc3(x.flatten(1)).relu()).relu())


def cifarnet(*, size: int = 24, classes: int = 10, rng: np.random.Generator) -> CifarNet:
    """TensorFlow's tutorial network for CIFAR-10."""
    return CifarNet(size=size, classes=classes, rng=rng)
