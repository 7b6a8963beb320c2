"""The stacked LSTM language model of Zaremba et al. (2014), which Intrinsic Sparse Structures shrinks.

    embedding (V, E) - dropout - LSTM 1 - dropout - LSTM 2 - dropout - output layer (V, H2)

One bias per LSTM layer, as published; every weight U(-init_scale, init_scale). A batch is x: (T, B) word ids; the state
goes in and comes out (truncated back-propagation through time: detach it between batches).
Perplexity = exp(total cross-entropy / number of words).
"""

from __future__ import annotations

import numpy as np

from minidl.layers import Dropout, Embedding, Linear, Module, Parameter, cross_entropy, lstm
from minidl.tensor import Tensor, no_grad


class LSTMLayer(Module):
    """An LSTM layer with a single bias. x: (T, B, I) -> h: (T, B, H), (h_T, c_T)."""

    def __init__(self, inputs: int, hidden: int):
        self.weight_ih = Parameter(np.zeros((4 * hidden, inputs), np.float32))
        self.weight_hh = Parameter(np.zeros((4 * hidden, hidden), np.float32))
        self.bias = Parameter(np.zeros(4 * hidden, np.float32))

    def forward(self, x: Tensor, state):
        y, h, c = lstm(x, *state, self.weight_ih, self.weight_hh, self.bias)
        return y, (h, c)

    def zero_state(self, batch: int):
        zero = np.zeros((batch, self.weight_hh.shape[1]), self.weight_hh.dtype)
        return Tensor(zero), Tensor(zero)


class LSTMLanguageModel(Module):
    """ids: (T, B) -> logits: (T B, V), the states of all layers."""

    def __init__(
        self, vocabulary: int, embedding: int, hidden: tuple[int, ...], *, keep: float = 1.0, init_scale: float = 0.1,
        rng: np.random.Generator,
    ):  # fmt: skip
        self.embedding = Embedding(vocabulary, embedding, rng=rng)
        self.layers = [LSTMLayer(i, h) for i, h in zip((embedding, *hidden[:-1]), hidden, strict=True)]
        self.dropout = Dropout(1 - keep, rng=rng)
        self.output = Linear(hidden[-1], vocabulary, rng=rng)
        for p in self.parameters():
            p.data = rng.uniform(-init_scale, init_scale, p.shape).astype(np.float32)

    def forward(self, ids, states):
        x = self.dropout(self.embedding(ids))
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            x = self.dropout(x)
            after.append(state)
        return self.output(x.flatten(0, 1)), after

    def zero_states(self, batch: int):
        return [layer.zero_state(batch) for layer in self.layers]


def detach(states):
    """The same numbers without their history: where truncated back-propagation is cut."""
    return [(h.detach(), c.detach()) for h, c in states]


def perplexity(model: LSTMLanguageModel, stream) -> float:
    """exp(mean cross-entropy in nats) over the (x, y) of a batch stream, the state carried from batch to batch."""
    was = model.training
    model.eval()
    total, words, states = 0.0, 0, None
    with no_grad():
        for x, y in stream:
            logits, states = model(x, states or model.zero_states(x.shape[1]))
            total += cross_entropy(logits, y.ravel(), reduction="sum").item()
            words += y.size
    model.train(was)
    return float(np.exp(total / words))
