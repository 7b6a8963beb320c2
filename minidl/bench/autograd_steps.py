"""The steps written for HIPS/autograd, as in its own examples: functions of NumPy arrays that it differentiates."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad
from autograd.scipy.signal import convolve
from autograd.scipy.special import logsumexp

from minidl.bench.cases import MOMENTUM, RATE, ROWS, UNITS, Step
from minidl.bench.minidl_steps import weights, work


def _cross_entropy(logits, y):
    return anp.mean(logsumexp(logits, axis=1) - logits[anp.arange(len(y)), y])


def _training(name: str, logits) -> Step:
    """The step of a network that is a function: logits(x, its parameters); the state of a recurrent one is in x."""
    model, x, y = work(name)
    parameters = weights(model)
    velocities = [np.zeros_like(p) for p in parameters]
    both = value_and_grad(lambda parameters: _cross_entropy(logits(x, *parameters), y))

    def step():
        loss, gradients = both(parameters)
        for p, v, g in zip(parameters, velocities, gradients, strict=True):
            v *= MOMENTUM
            v += g
            p -= RATE * v
        return float(loss)

    return step


def _mlp(x, *parameters):
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        x = anp.maximum(anp.dot(x, weight.T) + bias, 0)
    return anp.dot(x, parameters[-2].T) + parameters[-1]


def _lenet(x, w1, b1, w2, b2, w3, b3, w4, b4):
    for weight, bias in ((w1, b1), (w2, b2)):
        flipped = anp.transpose(weight, (1, 0, 2, 3))[:, :, ::-1, ::-1]  # convolve turns the filter round
        x = convolve(x, flipped, axes=([2, 3], [2, 3]), dot_axes=([1], [0]), mode="valid") + bias[:, None, None]
        images, channels, height, width = x.shape
        x = anp.max(anp.reshape(x, (images, channels, height // 2, 2, width // 2, 2)), axis=(3, 5))
    return _mlp(anp.reshape(x, (len(x), -1)), w3, b3, w4, b4)


def _sigmoid(x):
    return 0.5 * (anp.tanh(0.5 * x) + 1)


def _lstm(x, h, c, w_ih, w_hh, bias):
    """x: (T, B, I), h, c: (B, H) -> (T, B, H) of all time steps, the last h and c."""
    hidden = []
    z_x = anp.dot(x, w_ih.T) + bias
    for t in range(len(x)):
        z = z_x[t] + anp.dot(h, w_hh.T)
        i, f, g, o = (z[:, k * UNITS : (k + 1) * UNITS] for k in range(4))
        c = _sigmoid(f) * c + _sigmoid(i) * anp.tanh(g)
        h = _sigmoid(o) * anp.tanh(c)
        hidden.append(h)
    return anp.stack(hidden), h, c


def _language_model() -> Step:
    states = [np.zeros((ROWS, UNITS), np.float32)] * 4

    def logits(words, embedding, *rest):
        *layers, w_out, b_out = rest
        x, after = embedding[words], []
        for k in (0, 1):
            x, h, c = _lstm(x, *states[2 * k : 2 * k + 2], *layers[3 * k : 3 * k + 3])
            after += [h._value, c._value]  # their numbers without their history
        states[:] = after
        return anp.dot(anp.reshape(x, (-1, UNITS)), w_out.T) + b_out

    return _training("lstm-lm", logits)


STEPS = {
    "mlp-tiny": lambda: _training("mlp-tiny", _mlp),
    "mlp": lambda: _training("mlp", _mlp),
    "lenet": lambda: _training("lenet", _lenet),
    "lstm-lm": _language_model,
}
