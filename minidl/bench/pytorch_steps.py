"""The steps written for PyTorch, with its own layers and optimizer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad, relu

from minidl.bench.cases import MLPS, MOMENTUM, RATE, ROWS, UNITS, VOCABULARY, Step
from minidl.bench.minidl_steps import weights, work


def _mlp(name: str) -> nn.Module:
    sizes = MLPS[name][0]
    layers = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        return relu(y + (pad(x, (0, 0, 0, 0, 0, self.extra)) if self.extra else x))


def _resnet() -> nn.Module:
    layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs in (16, 32, 64):
        for k in range(3):
            layers.append(_Block(width, outputs, 2 if outputs > width and k == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class _LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(VOCABULARY, UNITS), nn.LSTM(UNITS, UNITS, 2)
        self.output = nn.Linear(UNITS, VOCABULARY)

    def forward(self, x, state):
        hidden, state = self.lstm(self.embedding(x), state)
        return self.output(hidden.flatten(0, 1)), state


def _with_weights(model: nn.Module, given: list[np.ndarray]) -> nn.Module:
    """The same model with these weights; a second bias of an LSTM layer, which minidl's has not, is 0."""
    left = iter(given)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.zero_() if "bias_hh" in name else p.copy_(torch.from_numpy(next(left)))
    return model


def _training(name: str, model: nn.Module) -> Step:
    mine, x, y = work(name)
    _with_weights(model, weights(mine))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _zero_state():
    return torch.zeros(2, ROWS, UNITS), torch.zeros(2, ROWS, UNITS)


def _language_model() -> Step:
    mine, x, y = work("lstm-lm")
    model, state = _with_weights(_LanguageModel(), weights(mine)), _zero_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        nonlocal state
        logits, after = model(x, state)
        loss = cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = tuple(s.detach() for s in after)
        return loss.item()

    return step


def _lenet_inference() -> Step:
    mine, x, _ = work("lenet-infer")
    model, x = _with_weights(_lenet(), weights(mine)).eval(), torch.from_numpy(x)

    def step():
        with torch.inference_mode():
            return model(x).numpy()

    return step


def _lstm_inference() -> Step:
    mine, x, _ = work("lstm-infer")
    model, x, state = _with_weights(_LanguageModel(), weights(mine)).eval(), torch.from_numpy(x), _zero_state()

    def step():
        nonlocal state
        with torch.inference_mode():
            logits, state = model(x, state)
            return logits.numpy()

    return step


STEPS = {
    "mlp-tiny": lambda: _training("mlp-tiny", _mlp("mlp-tiny")),
    "mlp": lambda: _training("mlp", _mlp("mlp")),
    "lenet": lambda: _training("lenet", _lenet()),
    "resnet20": lambda: _training("resnet20", _resnet()),
    "lstm-lm": _language_model,
    "lenet-infer": _lenet_inference,
    "lstm-infer": _lstm_inference,
}
