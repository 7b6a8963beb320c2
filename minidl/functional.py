"""PyTorch's name for the functions: `from minidl import functional as F`; F.relu, F.cross_entropy, ..."""

from minidl.layers import (  # noqa: F401
    batch_norm,
    conv2d,
    cross_entropy,
    embedding,
    linear,
    log_softmax,
    lstm,
    max_pool2d,
    softmax,
)
from minidl.rules import relu, sigmoid  # noqa: F401
