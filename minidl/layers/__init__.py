"""Layers: one file an idea. Each holds the equation, the composed form, the hand-written form and the Module."""

from minidl.layers.activation import Flatten, ReLU, Sigmoid, Tanh
from minidl.layers.adaptive_pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, adaptive_avg_pool2d, adaptive_max_pool2d
from minidl.layers.avg_pool import AvgPool2d, avg_pool2d
from minidl.layers.conv import Conv2d, conv2d
from minidl.layers.conv1d import Conv1d, conv1d
from minidl.layers.conv_steps import conv_steps
from minidl.layers.dropout import Dropout, VariationalDropout
from minidl.layers.embedding import Embedding, embedding
from minidl.layers.gru import GRU, gru
from minidl.layers.layer_norm import LayerNorm, layer_norm
from minidl.layers.linear import Linear, linear
from minidl.layers.loss import cross_entropy, log_softmax, softmax, softmax_cross_entropy
from minidl.layers.lrn import LocalResponseNorm, local_response_norm
from minidl.layers.lstm import LSTM, lstm, lstm_steps
from minidl.layers.module import Module, ModuleList, Parameter, Sequential
from minidl.layers.norm import BatchNorm1d, BatchNorm2d, batch_norm
from minidl.layers.pool import MaxPool2d, max_pool2d
from minidl.layers.rnn import RNN, rnn

__all__ = [
    "GRU", "LSTM", "RNN", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d",
    "Conv1d", "Conv2d", "Dropout", "Embedding", "Flatten", "LayerNorm", "Linear", "LocalResponseNorm", "MaxPool2d",
    "Module", "ModuleList", "Parameter", "ReLU", "Sequential", "Sigmoid", "Tanh", "VariationalDropout",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "batch_norm", "conv1d", "conv2d", "conv_steps",
    "cross_entropy", "embedding", "gru", "layer_norm", "linear", "local_response_norm", "log_softmax", "lstm",
    "lstm_steps", "max_pool2d", "rnn", "softmax", "softmax_cross_entropy",
]  # fmt: skip
