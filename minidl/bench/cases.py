"""The work that is measured: one training step (forward, loss, backward, SGD with momentum), written for each peer.

A case is a pair of functions without arguments, one for minidl and one for the peer, that build network and batch and
return the step. The networks have equal shapes and equal numbers of weights; what a step computes is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Step = Callable[[], object]

MLPS = {"mlp-tiny": ((2, 16, 16, 2), 8), "mlp": ((784, 500, 300, 10), 64)}  # sizes, batch
VOCABULARY, UNITS, STEPS, ROWS = 10_000, 200, 20, 20  # of lstm-lm: two layers, as published
RATE, MOMENTUM = 0.01, 0.9


def build(name: str, peer: str) -> Step:
    """The step of a case for "minidl" or a name in PEERS."""
    return CASES[name][0 if peer == "minidl" else 1]()


def _images(*shape) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, np.float32), rng.integers(0, 2, shape[0])  # labels that every case has


# -- minidl ------------------------------------------------------------------------------------------------------------
def _minidl(model, x, y) -> Step:
    from minidl import Tensor
    from minidl.layers import cross_entropy
    from minidl.optim import SGD

    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step():
        loss = cross_entropy(model(Tensor(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _minidl_mlp(name: str) -> Step:
    from minidl.models import mlp

    sizes, batch = MLPS[name]
    return _minidl(mlp(sizes, rng=np.random.default_rng(0)), *_images(batch, sizes[0]))


def _minidl_lenet() -> Step:
    from minidl.models import lenet_caffe

    return _minidl(lenet_caffe(np.random.default_rng(0)), *_images(64, 1, 28, 28))


def _minidl_resnet() -> Step:
    from minidl.models import resnet

    return _minidl(resnet(20, rng=np.random.default_rng(0)), *_images(128, 3, 32, 32))


def _minidl_lstm() -> Step:
    from minidl.layers import cross_entropy
    from minidl.models import LSTMLanguageModel
    from minidl.models.lstm_lm import detach
    from minidl.optim import SGD

    rng = np.random.default_rng(0)
    model = LSTMLanguageModel(VOCABULARY, UNITS, (UNITS, UNITS), rng=rng)
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    x, y = rng.integers(0, VOCABULARY, (2, STEPS, ROWS))
    states = model.zero_states(ROWS)

    def step():
        nonlocal states
        logits, after = model(x, states)
        loss = cross_entropy(logits, y.ravel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        states = detach(after)

    return step


# -- PyTorch -----------------------------------------------------------------------------------------------------------
def _torch(model, x, y) -> Step:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _torch_mlp(name: str) -> Step:
    from torch import nn

    sizes, batch = MLPS[name]
    layers = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
    return _torch(nn.Sequential(*layers[:-1]), *_images(batch, sizes[0]))


def _torch_lenet() -> Step:
    from torch import nn

    model = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip
    return _torch(model, *_images(64, 1, 28, 28))


def _torch_resnet() -> Step:
    from torch import nn
    from torch.nn.functional import pad, relu

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.stride, self.extra = stride, outputs - inputs

        def forward(self, x):
            y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
            x = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
            return relu(y + (pad(x, (0, 0, 0, 0, 0, self.extra)) if self.extra else x))

    layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs in (16, 32, 64):
        for k in range(3):
            layers.append(Block(width, outputs, 2 if outputs > width and k == 0 else 1))
            width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return _torch(model, *_images(128, 3, 32, 32))


def _torch_lstm() -> Step:
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    embedding, lstm = nn.Embedding(VOCABULARY, UNITS), nn.LSTM(UNITS, UNITS, 2)
    output = nn.Linear(UNITS, VOCABULARY)
    parameters = [p for m in (embedding, lstm, output) for p in m.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    x, y = torch.from_numpy(rng.integers(0, VOCABULARY, (2, STEPS, ROWS)))
    state = torch.zeros(2, ROWS, UNITS), torch.zeros(2, ROWS, UNITS)

    def step():
        nonlocal state
        hidden, after = lstm(embedding(x), state)
        loss = nn.functional.cross_entropy(output(hidden.flatten(0, 1)), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = tuple(s.detach() for s in after)

    return step


CASES: dict[str, tuple[Callable[[], Step], Callable[[], Step]]] = {
    "mlp-tiny": (lambda: _minidl_mlp("mlp-tiny"), lambda: _torch_mlp("mlp-tiny")),
    "mlp": (lambda: _minidl_mlp("mlp"), lambda: _torch_mlp("mlp")),
    "lenet": (_minidl_lenet, _torch_lenet),
    "resnet20": (_minidl_resnet, _torch_resnet),
    "lstm-lm": (_minidl_lstm, _torch_lstm),
}

PEERS = {"PyTorch": ("torch", "2.13.0")}
"""What minidl is compared with: name -> (its package, the version that the goals are about)."""
