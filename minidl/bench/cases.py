"""The work that is measured, and who can do it.

A training step is forward, loss, backward and SGD with momentum; an inference step is forward alone. Each of *_steps.py
writes them for one library: STEPS[case] builds network and batch and returns the step, a function without arguments
that returns the loss (training) or the logits (inference). All start from minidl's weights, so that they do the same
work: a test compares what they return. Only the process in which a peer is measured imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

Step = Callable[[], object]

MLPS = {"mlp-tiny": ((2, 16, 16, 2), 8), "mlp": ((784, 500, 300, 10), 64)}  # sizes, batch
VOCABULARY, UNITS, TIME_STEPS, ROWS = 10_000, 200, 20, 20  # of lstm-*: two layers, as published
RATE, MOMENTUM = 0.01, 0.9

CASES: dict[str, tuple[str, ...]] = {
    "mlp-tiny": ("PyTorch", "MyGrad", "autograd"),
    "mlp": ("PyTorch", "MyGrad", "autograd"),
    "lenet": ("PyTorch", "MyGrad", "autograd"),
    "resnet20": ("PyTorch",),
    "lstm-lm": ("PyTorch", "MyGrad", "autograd"),
    "lenet-infer": ("PyTorch", "ONNX Runtime"),
    "lstm-infer": ("PyTorch", "ONNX Runtime"),
}
"""Each case with the peers that can do it.

ResNet-20 is not theirs: MyGrad's convolution refuses stride 2 where windows leave a pixel of the padding over; autograd
needs 1.3 s of one core for LeNet's step, and ResNet-20's has 40 times the multiply-adds (not tried: an estimate).
MyGrad and autograd have no LSTM layer, but small ops from which one is written in a few lines.
"""


@dataclass(frozen=True)
class Peer:
    """What minidl is compared with: the file of its steps here, the packages it imports, what pip is told."""

    steps: str
    packages: tuple[str, ...]
    install: str


PEERS = {
    "PyTorch": Peer("pytorch_steps", ("torch",), "torch==2.13.0"),  # the version that the goals are about
    "MyGrad": Peer("mygrad_steps", ("mygrad",), "mygrad"),
    "autograd": Peer("autograd_steps", ("autograd", "scipy"), "autograd scipy"),
    "ONNX Runtime": Peer("onnx_steps", ("onnxruntime", "onnx"), "onnxruntime onnx"),
}


def build(name: str, peer: str) -> Step:
    """The step of a case for "minidl" or a name in PEERS."""
    steps = PEERS[peer].steps if peer in PEERS else "minidl_steps"
    return importlib.import_module(f"minidl.bench.{steps}").STEPS[name]()
