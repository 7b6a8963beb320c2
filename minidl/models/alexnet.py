"""AlexNet as Caffe has it (CaffeNet): pooling before normalisation.       60,965,224 weights, 724,406,816 products

    layer                                              output for 227 x 227      weights     as a matrix product
    conv1   96 @ 11x11, stride 4                       96 x 55 x 55               34,944     (96, 363) (363, 3025)
            ReLU - max-pool 3/2 - LRN                  96 x 27 x 27
    conv2   256 @ 5x5, padding 2, 2 groups             256 x 27 x 27             307,456     2 x (128, 1200) (1200, 729)
            ReLU - max-pool 3/2 - LRN                  256 x 13 x 13
    conv3   384 @ 3x3, padding 1                       384 x 13 x 13             885,120     (384, 2304) (2304, 169)
    conv4   384 @ 3x3, padding 1, 2 groups             384 x 13 x 13             663,936     2 x (192, 1728) (1728, 169)
    conv5   256 @ 3x3, padding 1, 2 groups             256 x 13 x 13             442,624     2 x (128, 1728) (1728, 169)
            max-pool 3/2 (ReLU after each convolution) 256 x 6 x 6
    fc6     4096 - ReLU - dropout .5                   4096                   37,752,832     (4096, 9216)
    fc7     4096 - ReLU - dropout .5                   4096                   16,781,312     (4096, 4096)
    fc8     1000                                       1000                    4,097,000     (1000, 4096)

The groups are the halves that once lay on two GPUs. LRN is across 5 channels, alpha 1e-4, beta 0.75; it and the groups
tie filters to each other, so that single filters can be removed only from a network with lrn=False, groups=1.
batch_norm=True puts BatchNorm behind every convolution, as TernGrad's AlexNet has it, in the place of LRN.
Normal weights with standard deviation .01 (fc6, fc7: .005); biases 1 where a ReLU is to start alive (conv2, conv4,
conv5, fc6, fc7), else 0. (Krizhevsky, Sutskever and Hinton 2012; Jia et al. 2014)
"""

from __future__ import annotations

import numpy as np

from minidl.layers import BatchNorm2d, Conv2d, Dropout, Linear, LocalResponseNorm, MaxPool2d, Module, Parameter
from minidl.layers.conv import output_size
from minidl.layers.pool import pooled_size
from minidl.tensor import Tensor


class AlexNet(Module):
    """x: (N, 3, size, size) -> logits: (N, classes). width multiplies the numbers of filters and hidden units."""

    def __init__(
        self, *, size: int = 227, classes: int = 1000, width: float = 1.0, groups: int = 2, lrn: bool = True,
        batch_norm: bool = False, dropout: float = 0.5, rng: np.random.Generator,
    ):  # fmt: skip
        a, b, c, hidden = (2 * max(1, round(n * width / 2)) for n in (96, 256, 384, 4096))  # even: halves
        self.conv1 = Conv2d(3, a, 11, stride=4, rng=rng)
        self.conv2 = Conv2d(a, b, 5, padding=2, groups=groups, rng=rng)
        self.conv3 = Conv2d(b, c, 3, padding=1, rng=rng)
        self.conv4 = Conv2d(c, c, 3, padding=1, groups=groups, rng=rng)
        self.conv5 = Conv2d(c, b, 3, padding=1, groups=groups, rng=rng)
        side = output_size(size, 11, 4, 0)
        for _ in range(3):
            side = pooled_size(side, 3, 2, 0, ceil_mode=True)
        self.fc6 = Linear(b * side * side, hidden, rng=rng)
        self.fc7 = Linear(hidden, hidden, rng=rng)
        self.fc8 = Linear(hidden, classes, rng=rng)
        self.pool = MaxPool2d(3, 2, ceil_mode=True)
        self.lrn = LocalResponseNorm(5, 1e-4, 0.75) if lrn and not batch_norm else None
        self.norms = [BatchNorm2d(n) if batch_norm else None for n in (a, b, c, c, b)]
        self.dropout = Dropout(dropout, rng=rng)
        for name, layer in self.children():
            if isinstance(layer, (Conv2d, Linear)):
                std = np.float32(0.005 if name in ("fc6", "fc7") else 0.01)
                bias = 0 if name in ("conv1", "conv3", "fc8") else 1
                layer.weight = Parameter(std * rng.standard_normal(layer.weight.shape, np.float32))
                layer.bias = Parameter(np.full(len(layer.weight.data), bias, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        convs = self.conv1, self.conv2, self.conv3, self.conv4, self.conv5
        for k, (conv, norm) in enumerate(zip(convs, self.norms, strict=True)):
            x = (norm(conv(x)) if norm else conv(x)).relu()
            if k < 2:
                x = self.pool(x)
                x = self.lrn(x) if self.lrn else x
        x = self.pool(x).flatten(1)
        x = self.dropout(self.fc6(x).relu())
        x = self.dropout(self.fc7(x).relu())
        return self.fc8(x)


def alexnet(**options) -> AlexNet:
    """CaffeNet; options: size=227, classes=1000, width=1.0, groups=2, lrn=True, batch_norm=False, dropout=0.5, rng."""
    return AlexNet(**options)
