"""The steps written for MyGrad: its convolution, pooling and loss; an LSTM of small ops, since it has none."""

from __future__ import annotations

import mygrad as mg
import numpy as np
from mygrad.nnet.activations import relu, sigmoid
from mygrad.nnet.layers import conv_nd, max_pool
from mygrad.nnet.losses import softmax_crossentropy

from minidl.bench.cases import MOMENTUM, RATE, ROWS, UNITS, Step
from minidl.bench.minidl_steps import weights, work


class SGD:
    """MyGrad brings no optimizer: v = momentum v + g, p = p - rate v."""

    def __init__(self, parameters):
        self.parameters, self.velocities = parameters, [np.zeros_like(p.data) for p in parameters]

    def step(self):
        for p, v in zip(self.parameters, self.velocities, strict=True):
            v *= MOMENTUM
            v += p.grad
            p.data -= RATE * v


def _training(name: str, logits) -> Step:
    """The step of a network that is a function: logits(x, its parameters)."""
    model, x, y = work(name)
    parameters = [mg.tensor(w) for w in weights(model)]
    optimizer = SGD(parameters)

    def step():
        loss = softmax_crossentropy(logits(x, *parameters), y)
        loss.backward()  # a parameter that enters the next graph forgets its gradient
        optimizer.step()
        return loss.item()

    return step


def _mlp(x, *parameters):
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        x = relu(mg.matmul(x, weight.T) + bias)
    return mg.matmul(x, parameters[-2].T) + parameters[-1]


def _lenet(x, w1, b1, w2, b2, w3, b3, w4, b4):
    for weight, bias in ((w1, b1), (w2, b2)):
        x = max_pool(conv_nd(x, weight, stride=1) + bias.reshape(1, -1, 1, 1), (2, 2), 2)
    return _mlp(x.reshape(len(x), -1), w3, b3, w4, b4)


def _lstm(x, h, c, w_ih, w_hh, bias):
    """x: (T, B, I), h, c: (B, H) -> (T B, H) of all time steps, the last h and c."""
    hidden = []
    z_x = mg.matmul(x, w_ih.T) + bias
    w = w_hh.T
    for t in range(len(x)):
        z = z_x[t] + mg.matmul(h, w)
        i, f, g, o = (z[:, k * UNITS : (k + 1) * UNITS] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * mg.tanh(g)
        h = sigmoid(o) * mg.tanh(c)
        hidden.append(h)
    return mg.stack(hidden), h, c


def _language_model() -> Step:
    model, words, y = work("lstm-lm")
    parameters = [mg.tensor(w) for w in weights(model)]
    embedding, *layers, w_out, b_out = parameters
    optimizer = SGD(parameters)
    states = [np.zeros((ROWS, UNITS), np.float32)] * 4

    def step():
        x, after = embedding[words], []
        for k in (0, 1):
            x, h, c = _lstm(x, *states[2 * k : 2 * k + 2], *layers[3 * k : 3 * k + 3])
            after += [h, c]
        loss = softmax_crossentropy(mg.matmul(x.reshape(-1, UNITS), w_out.T) + b_out, y)
        loss.backward()
        optimizer.step()
        states[:] = [s.data.copy() for s in after]
        return loss.item()

    return step


STEPS = {
    "mlp-tiny": lambda: _training("mlp-tiny", _mlp),
    "mlp": lambda: _training("mlp", _mlp),
    "lenet": lambda: _training("lenet", _lenet),
    "lstm-lm": _language_model,
}
