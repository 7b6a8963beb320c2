"""ResNet for 32 x 32 images: 20, 32, 44 or 56 layers of 3 x 3 convolutions with shortcuts around every two.

    conv 16 - n blocks of 16 channels - n of 32 (first with stride 2) - n of 64 - mean over the image - fc 10
    block:  y = ReLU(x' + BN(conv(ReLU(BN(conv(x))))))      6 n + 2 layers

Where the size changes, the shortcut x' is either "A": every second pixel, with channels of zeros added, no weights; or
"B": a 1 x 1 convolution with stride 2 and BatchNorm. Convolutions have no bias: BatchNorm's beta follows.
(He et al. 2016, section 4.2; He initialisation.)
"""

from __future__ import annotations

import numpy as np

from minidl.errors import InputError
from minidl.layers import BatchNorm2d, Conv2d, Linear, Module, Parameter
from minidl.tensor import Tensor


def _conv(inputs: int, outputs: int, kernel: int, stride: int, rng: np.random.Generator) -> Conv2d:
    conv = Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False, rng=rng)
    std = (2 / (inputs * kernel * kernel)) ** 0.5
    conv.weight = Parameter((std * rng.standard_normal(conv.weight.shape)).astype(np.float32))
    return conv


class Block(Module):
    """Two 3 x 3 convolutions and the shortcut around them. x: (N, C, H, W) -> (N, D, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, rng: np.random.Generator):
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride, rng), BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3, 1, rng), BatchNorm2d(outputs)
        self.stride = stride
        if shortcut == "B" and (stride > 1 or inputs != outputs):
            self.conv3, self.bn3 = _conv(inputs, outputs, 1, stride, rng), BatchNorm2d(outputs)

    def shortcut(self, x: Tensor, channels: int) -> Tensor:
        if hasattr(self, "conv3"):
            return self.bn3(self.conv3(x))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        extra = channels - x.shape[1]
        return x.pad((0, 0, 0, 0, 0, extra)) if extra else x

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (self.shortcut(x, y.shape[1]) + y).relu()


class ResNet(Module):
    """x: (N, 3, 32, 32) -> logits: (N, classes)."""

    def __init__(self, layers: int, *, shortcut: str = "A", classes: int = 10, rng: np.random.Generator):
        if layers < 8 or (layers - 2) % 6:
            raise InputError(f"a ResNet for small images has 6 n + 2 layers (20, 32, 44, 56, ...), not {layers}")
        if shortcut not in ("A", "B"):
            raise InputError(f"shortcut {shortcut!r} is neither 'A' (zeros) nor 'B' (1 x 1 convolution)")
        self.conv, self.bn = _conv(3, 16, 3, 1, rng), BatchNorm2d(16)
        self.blocks, width = [], 16
        for outputs in (16, 32, 64):
            for k in range((layers - 2) // 6):
                self.blocks.append(Block(width, outputs, 2 if outputs > width and k == 0 else 1, shortcut, rng))
                width = outputs
        self.fc = Linear(64, classes, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def resnet(layers: int, *, shortcut: str = "A", classes: int = 10, rng: np.random.Generator) -> ResNet:
    """ResNet-20 (269,722 weights with shortcut A), -32, -44, -56."""
    return ResNet(layers, shortcut=shortcut, classes=classes, rng=rng)
