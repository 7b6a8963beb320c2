"""ConvNet: Caffe's cifar10_full, the CIFAR-10 network of Structured Sparsity Learning.   89,578 weights, 12.3 M MACs

    layer                                                     output for 32 x 32      weights
    conv1   32 @ 5x5, padding 2                               32 x 32 x 32              2,432
            max-pool 3/2 - ReLU - LRN                         32 x 16 x 16
    conv2   32 @ 5x5, padding 2                               32 x 16 x 16             25,632
            ReLU - average-pool 3/2 - LRN                     32 x  8 x  8
    conv3   64 @ 5x5, padding 2                               64 x  8 x  8             51,264
            ReLU - average-pool 3/2                           64 x  4 x  4
    ip1     10                                                10                       10,250

Pooling rounds sizes up, as Caffe does. LRN is within channels: 3 x 3 pixels, alpha 5e-5, beta 0.75. Normal weights
with standard deviations 1e-4, .01, .01, .01; biases 0. As published it learns from images minus their mean, in 100s,
and in SSL's own branch with dropout .5 after ip1 (`dropout`; Caffe's has none).
(Krizhevsky's cuda-convnet; Wen et al. 2016, table 3)
"""

from __future__ import annotations

import numpy as np

from minidl.layers import AvgPool2d, Conv2d, Dropout, Linear, LocalResponseNorm, MaxPool2d, Module, Parameter
from minidl.layers.pool import pooled_size
from minidl.tensor import Tensor


class ConvNet(Module):
    """x: (N, 3, size, size) -> logits: (N, classes)."""

    def __init__(self, *, size: int = 32, classes: int = 10, dropout: float = 0.0, rng: np.random.Generator):
        self.conv1 = Conv2d(3, 32, 5, padding=2, rng=rng)
        self.conv2 = Conv2d(32, 32, 5, padding=2, rng=rng)
        self.conv3 = Conv2d(32, 64, 5, padding=2, rng=rng)
        for _ in range(3):
            size = pooled_size(size, 3, 2, 0, ceil_mode=True)
        self.ip1 = Linear(64 * size * size, classes, rng=rng)
        self.max_pool, self.mean_pool = MaxPool2d(3, 2, ceil_mode=True), AvgPool2d(3, 2, ceil_mode=True)
        self.lrn = LocalResponseNorm(3, 5e-5, 0.75, within=True)
        self.dropout = Dropout(dropout, rng=rng)
        for layer, std in ((self.conv1, 1e-4), (self.conv2, 0.01), (self.conv3, 0.01), (self.ip1, 0.01)):
            layer.weight = Parameter(np.float32(std) * rng.standard_normal(layer.weight.shape, np.float32))
            layer.bias = Parameter(np.zeros(len(layer.weight.data), np.float32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(self.max_pool(self.conv1(x)).relu())
        x = self.lrn(self.mean_pool(self.conv2(x).relu()))
        x = self.mean_pool(self.conv3(x).relu())
        return self.dropout(self.ip1(x.flatten(1)))


def convnet(*, size: int = 32, classes: int = 10, dropout: float = 0.0, rng: np.random.Generator) -> ConvNet:
    """Caffe's cifar10_full."""
    return ConvNet(size=size, classes=classes, dropout=dropout, rng=rng)
