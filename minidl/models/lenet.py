"""LeNet, twice: Caffe's and TernGrad's are two networks, and every claim names its own.

lenet_caffe (Structured Sparsity Learning): valid convolutions, no ReLU after them.   28x28 -> 431,080 weights
    conv 20@5x5 - max-pool 2 - conv 50@5x5 - max-pool 2 - 500 - ReLU - 10        xavier init, biases 0
lenet_terngrad (TernGrad): same padding, ReLU after each convolution.
    conv 20@5x5 - ReLU - max-pool 2 - conv 50@5x5 - ReLU - max-pool 2 - 500 - ReLU - 10      truncated normal init
"""

from __future__ import annotations

import numpy as np

from minidl.layers import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU
from minidl.tensor import Tensor


class LeNet(Module):
    """x: (N, 1, 28, 28) -> logits: (N, 10). With padding 2 the convolutions keep the image's size."""

    def __init__(self, *, padding: int, relu_after_conv: bool, rng: np.random.Generator):
        side = (28 + 2 * padding - 4) // 2
        side = (side + 2 * padding - 4) // 2
        self.conv1 = Conv2d(1, 20, 5, padding=padding, rng=rng)
        self.conv2 = Conv2d(20, 50, 5, padding=padding, rng=rng)
        self.ip1 = Linear(50 * side * side, 500, rng=rng)
        self.ip2 = Linear(500, 10, rng=rng)
        self.pool, self.flatten, self.relu = MaxPool2d(2), Flatten(), ReLU()
        self.relu_after_conv = relu_after_conv

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = conv(x)
            if self.relu_after_conv:
                x = self.relu(x)
            x = self.pool(x)
        return self.ip2(self.relu(self.ip1(self.flatten(x))))


def lenet_caffe(rng: np.random.Generator) -> LeNet:
    """Caffe's LeNet with its xavier filler: U(-a, a), a = sqrt(3 / fan_in); biases 0."""
    model = LeNet(padding=0, relu_after_conv=False, rng=rng)
    for name, p in model.named_parameters():
        bound = (3 / np.prod(p.shape[1:])) ** 0.5
        p.data = (rng.uniform(-bound, bound, p.shape) if "weight" in name else np.zeros(p.shape)).astype(np.float32)
    return model


def lenet_terngrad(rng: np.random.Generator) -> LeNet:
    """TernGrad's LeNet: normal weights cut at two standard deviations (.05, .05, .048, .0767); biases 0."""
    model = LeNet(padding=2, relu_after_conv=True, rng=rng)
    for layer, std in (("conv1", 0.05), ("conv2", 0.05), ("ip1", 0.048), ("ip2", 0.0767)):
        weight, bias = getattr(model, layer).weight, getattr(model, layer).bias
        weight.data = cut_normal(weight.shape, std, rng)
        bias.data = np.zeros(bias.shape, np.float32)
    return model


def cut_normal(shape: tuple[int, ...], std: float, rng: np.random.Generator) -> np.ndarray:
    """Normal weights, float32; what lies beyond two standard deviations is drawn again."""
    draw = rng.standard_normal(shape)
    while (far := np.abs(draw) > 2).any():
        draw[far] = rng.standard_normal(far.sum())
    return (std * draw).astype(np.float32)
