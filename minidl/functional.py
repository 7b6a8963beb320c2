"""PyTorch's name for the functions: `from minidl import functional as F`; F.relu, F.cross_entropy, ..."""

from minidl.activations import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from minidl.layers import batch_norm, conv2d, embedding, linear, lstm, max_pool2d
from minidl.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
)
from minidl.methods import cat, one_hot, pad, stack, where
from minidl.rules import einsum

__all__ = [
    "batch_norm", "binary_cross_entropy_with_logits", "cat", "conv2d", "cross_entropy", "einsum", "elu", "embedding",
    "gelu", "huber_loss", "kl_div", "l1_loss", "leaky_relu", "linear", "log_softmax", "lstm", "max_pool2d", "mse_loss",
    "nll_loss", "one_hot", "pad", "relu", "sigmoid", "silu", "softmax", "softplus", "stack", "tanh", "where",
]  # fmt: skip
