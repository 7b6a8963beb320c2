"""VGG: nothing but 3 x 3 convolutions, in five blocks that each end with a max-pool 2.

    block                 A (11 layers)       16 (D)                 output for 224 x 224
    1                     64                  64, 64                  64 x 112 x 112
    2                     128                 128, 128               128 x  56 x  56
    3                     256, 256            256, 256, 256          256 x  28 x  28
    4                     512, 512            512, 512, 512          512 x  14 x  14
    5                     512, 512            512, 512, 512          512 x   7 x   7
    fc  4096 - ReLU - dropout .5 - 4096 - ReLU - dropout .5 - classes

    weights               132,863,336         138,357,544            of which the first fc: 102,764,544
    products            7,609,090,048      15,470,264,320            for 1000 classes

Padding 1 and a ReLU after every convolution. Glorot and Bengio's uniform weights, biases 0: with them, the authors add,
the deep nets need not start from net A's weights. (Simonyan and Zisserman 2015, table 1)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.layers import Conv2d, Dropout, Linear, MaxPool2d, Module, Parameter, ReLU, Sequential
from minidl.tensor import Tensor

BLOCKS = {
    "A": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


def _glorot(layer):
    """From the layers' own U(+-1/sqrt(fan_in)) to U(+-sqrt(6 / (fan_in + fan_out))); the bias 0."""
    outputs, fan_in = len(layer.weight.data), layer.weight.data[0].size
    fan_out = outputs * fan_in / layer.weight.shape[1]
    layer.weight.data *= np.float32((6 * fan_in / (fan_in + fan_out)) ** 0.5)
    layer.bias = Parameter(np.zeros(outputs, np.float32))
    return layer


class VGG(Module):
    """x: (N, 3, size, size) -> logits: (N, classes). width multiplies the numbers of filters and hidden units."""

    def __init__(
        self, net: str, *, size: int = 224, classes: int = 1000, width: float = 1.0, dropout: float = 0.5,
        rng: np.random.Generator,
    ):  # fmt: skip
        if net not in BLOCKS:
            raise InputError(f"VGG {net!r} is not one of {', '.join(BLOCKS)}")
        if size < 32:
            raise InputError(f"an image of {size} pixels a side is smaller than 32, which five poolings halve to 1")
        self.blocks, inputs = [], 3
        for filters in BLOCKS[net]:
            steps: list = []
            for outputs in (max(1, round(n * width)) for n in filters):
                steps += [_glorot(Conv2d(inputs, outputs, 3, padding=1, rng=rng)), ReLU()]
                inputs = outputs
            self.blocks.append(Sequential(*steps, MaxPool2d(2)))
        hidden = max(1, round(4096 * width))
        self.fc1 = _glorot(Linear(inputs * (size // 32) ** 2, hidden, rng=rng))
        self.fc2 = _glorot(Linear(hidden, hidden, rng=rng))
        self.fc3 = _glorot(Linear(hidden, classes, rng=rng))
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        x = self.dropout(self.fc1(x.flatten(1)).relu())
        x = self.dropout(self.fc2(x).relu())
        return self.fc3(x)


def vgg(net: str, **options) -> VGG:
    """VGG-A ("A") or VGG-16 ("16"); options: size=224, classes=1000, width=1.0, dropout=0.5, rng."""
    return VGG(net, **options)
