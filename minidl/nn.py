"""PyTorch's name for the layers: `from minidl import nn`; nn.Linear, nn.Conv2d, ..."""

from minidl.layers import (  # noqa: F401
    LSTM,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Embedding,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    Parameter,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)
