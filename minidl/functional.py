"""PyTorch's name for the functions: `from minidl import functional as F`; F.relu, F.cross_entropy, ..."""

from minidl.activations import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, silu, softmax, softplus, tanh
from minidl.layers import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    conv1d,
    conv2d,
    embedding,
    gru,
    layer_norm,
    linear,
    local_response_norm,
    lstm,
    max_pool2d,
    rnn,
)
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
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "binary_cross_entropy_with_logits", "cat",
    "conv1d", "conv2d", "cross_entropy", "einsum", "elu", "embedding", "gelu", "gru", "huber_loss", "kl_div", "l1_loss",
    "layer_norm", "leaky_relu", "linear", "local_response_norm", "log_softmax", "lstm", "max_pool2d", "mse_loss",
    "nll_loss", "one_hot", "pad", "relu", "rnn", "sigmoid", "silu", "softmax", "softplus", "stack", "tanh", "where",
]  # fmt: skip
