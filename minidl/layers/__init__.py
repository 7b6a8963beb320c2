"""Layers: one file an idea. Each holds the equation, the composed form, the hand-written form and the Module."""

from minidl.layers.activation import Flatten, ReLU, Sigmoid, Tanh
from minidl.layers.conv import Conv2d, conv2d
from minidl.layers.dropout import Dropout
from minidl.layers.embedding import Embedding, embedding
from minidl.layers.linear import Linear, linear
from minidl.layers.loss import cross_entropy, log_softmax, softmax, softmax_cross_entropy
from minidl.layers.lstm import LSTM, lstm
from minidl.layers.module import Module, Parameter, Sequential
from minidl.layers.norm import BatchNorm1d, BatchNorm2d, batch_norm
from minidl.layers.pool import MaxPool2d, max_pool2d

__all__ = [
    "LSTM", "BatchNorm1d", "BatchNorm2d", "Conv2d", "Dropout", "Embedding", "Flatten", "Linear", "MaxPool2d",
    "Module", "Parameter", "ReLU", "Sequential", "Sigmoid", "Tanh", "batch_norm", "conv2d", "cross_entropy",
    "embedding", "linear", "log_softmax", "lstm", "max_pool2d", "softmax", "softmax_cross_entropy",
]  # fmt: skip
