"""The Recurrent Highway Network language model (Zilly et al. 2017): a recurrent step that is itself ten layers deep.

    x: (T, B, I)   s0: (B, n)   w_ih: (2n, I)   depth d times w_l: (2n, n), b_l: (2n,)   -> y: (T, B, n), s_T: (B, n)

One time step, from s = s_{t-1}; layer l = 0 hears the word x_t too, m_h is one dropout mask for all layers and steps:

    [z_h, z_t] = (s m_h) W_l^T + b_l (+ x_t W_ih^T)        h = tanh(z_h)      t = sigmoid(z_t)
    s <- (h - s) t + s                                     the highway: what the gate t does not renew is carried on

Backwards through the layers, with ds = dL/ds behind the layer, and dL/dy_t added where a time step ends:

    dz = [ds t (1 - h^2),  ds (h - s) t (1 - t)]           ds <- ds (1 - t) + (dz W_l) m_h

The whole model, for a word w:  x = E[w] m_x m_i,  logits = (y m_o) E^T + b: one table E (V, n) to read and to write.
Every mask holds for a whole sequence; m_x drops words: where a word is missing, it is missing at all its places.
(Gal and Ghahramani 2016) Every weight starts U(-.04, .04), the gates' biases at -2: at first s is mostly carried on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidl import checkpoint, rules
from minidl.backend import twin
from minidl.errors import DataError, InputError, ShapeError
from minidl.layers import Embedding, Linear, Module, Parameter, VariationalDropout
from minidl.layers.dropout import Dropout
from minidl.layers.linear import product
from minidl.models.lstm_lm import same_words
from minidl.tensor import Op, Tensor


# -- the recurrence ----------------------------------------------------------------------------------------------------
@twin
def rhn_cell(z, s):
    """One highway layer after its product: (gates, s).  z: (B, 2n), s: (B, n) -> (B, 2n) holding h and t, (B, n)."""
    n = s.shape[1]
    gates = np.concatenate([np.tanh(z[:, :n]), rules.sigmoid.plain(z[:, n:])], axis=1)
    h, t = gates[:, :n], gates[:, n:]
    return gates, (h - s) * t + s


@twin
def rhn_cell_backward(ds, gates, s):
    """One layer back: (dz, the part of ds that was carried on).  ds, s: (B, n), gates: (B, 2n) -> (B, 2n), (B, n)."""
    n = s.shape[1]
    h, t = gates[:, :n], gates[:, n:]
    dst = ds * t
    return np.concatenate([dst * (1 - h * h), dst * (h - s) * (1 - t)], axis=1), ds - dst


def _forward(x, s, mask, w_ih, *layers):
    weights, biases = layers[::2], layers[1::2]
    _check_shapes(x, s, mask, w_ih, weights, biases)
    (steps, batch, features), n, depth = x.shape, s.shape[1], len(weights)
    from_x = product(x.reshape(-1, features), w_ih.T).reshape(steps, batch, 2 * n)
    ss = np.empty((steps * depth + 1, batch, n), x.dtype)  # behind every layer of every time step
    ss[0], gates = s, np.empty((steps * depth, batch, 2 * n), x.dtype)
    columns = [np.ascontiguousarray(w.T) for w in weights]
    for k in range(steps * depth):
        time, layer = divmod(k, depth)
        z = product(ss[k] if mask is None else ss[k] * mask, columns[layer], biases[layer])
        gates[k], ss[k + 1] = rhn_cell(z + from_x[time] if layer == 0 else z, ss[k])
    return (ss[depth::depth], ss[-1]), (ss, gates)


def _backward(g, out, saved, needs, x, s, mask, w_ih, *layers):
    (ss, gates), weights = saved, layers[::2]
    (steps, batch, features), n, depth = x.shape, s.shape[1], len(weights)
    g_y, ds = g[0], np.zeros_like(s) if g[1] is None else g[1]
    dz, dmask = np.empty_like(gates), np.zeros_like(s)
    for k in reversed(range(steps * depth)):
        time, layer = divmod(k, depth)
        if layer == depth - 1 and g_y is not None:
            ds = ds + g_y[time]
        dz[k], ds = rhn_cell_backward(ds, gates[k], ss[k])
        read = product(dz[k], weights[layer])
        ds = ds + (read if mask is None else read * mask)
        if needs[2]:
            dmask += read * ss[k]
    heard = ss[:-1] if mask is None else ss[:-1] * mask
    grads = []
    for layer in range(depth):  # one product for all time steps
        rows = dz[layer::depth].reshape(steps * batch, 2 * n)
        grads += [product(rows.T, heard[layer::depth].reshape(steps * batch, n)), rows.sum(0)]
    rows = dz[::depth].reshape(steps * batch, 2 * n)
    dx = product(rows, w_ih).reshape(x.shape) if needs[0] else None
    return dx, ds, dmask if needs[2] else None, product(rows.T, x.reshape(-1, features)), *grads


def _composed(x, s, mask, w_ih, *layers):
    n, said = s.shape[1], []
    for t in range(x.shape[0]):
        for layer, (w, b) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
            z = (s if mask is None else s * mask) @ w.T + b
            z = z + x[t] @ w_ih.T if layer == 0 else z
            s = (np.tanh(z[:, :n]) - s) * rules.sigmoid(z[:, n:]) + s
        said.append(s)
    return np.stack(said), s


def _check_shapes(x, s, mask, w_ih, weights, biases):
    n = s.shape[-1]
    fits = weights and x.ndim == 3 and s.shape == (x.shape[1], n) and w_ih.shape == (2 * n, x.shape[2])
    fits = fits and (mask is None or mask.shape == s.shape)
    if not fits or any((w.shape, b.shape) != ((2 * n, n), (2 * n,)) for w, b in zip(weights, biases, strict=True)):
        raise ShapeError(
            f"rhn: x {x.shape}, s {s.shape}, mask {None if mask is None else mask.shape}, w_ih {w_ih.shape} and layers "
            f"{[(w.shape, b.shape) for w, b in zip(weights, biases, strict=False)]} do not fit; they must be "
            "(T, B, I), (B, n), (B, n) or None, (2n, I) and one or more of (2n, n), (2n,)"
        )


def _axes(u, shape, x, s, mask, w_ih, *layers):
    u.reads(w_ih, 1, x, 2)
    if mask is not None:
        u.unite(s[1], mask[1])
    for w in layers[::2]:
        u.reads(w, 1, s, 1)  # what a unit says is what every layer's weights read, and the highway carries it on
    for rows in (w_ih[0], *(a[0] for a in layers)):
        for gate in np.split(rows, 2):
            u.unite(s[1], gate)
    return (x[0], x[1], s[1]), (x[1], s[1])


def _macs(shape, x, s, mask, w_ih, *layers):
    return x[0] * x[1] * sum(int(np.prod(w)) for w in (w_ih, *layers[::2]))


rhn = Op(
    "rhn", "s <- (h - s) t + s, d times at each time step", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes, macs=_macs,
)  # fmt: skip


# -- the model ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """A published configuration. The loss is the sum over the steps of a batch of the mean over its rows.

    drop: the probability that the masks m_x (words), m_i (embedded input), m_h (state), m_o (output) hold a 0.
    threshold: |w| below it became 0 after each step: set `below` of a penalty with rule="published" to it.
    """

    width: int = 830
    depth: int = 10
    drop: tuple[float, float, float, float] = (0.25, 0.75, 0.25, 0.75)
    init_scale: float = 0.04
    gate_bias: float = -2.0
    batch: int = 20
    steps: int = 35
    lr: float = 0.2
    lr_decay: float = 1.02
    slow_from: int = 20  # the epoch, counted from 0, in which the rate begins to fall
    epochs: int = 500
    weight_decay: float = 1e-7
    clip: float = 10.0
    threshold: float = 0.0

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0; the epoch before slow_from is the first that is slower."""
        return self.lr / self.lr_decay ** max(epoch - self.slow_from + 1, 0)

    def weights(self, vocabulary: int) -> int:
        """How many weights and biases the model has: V n + 2 n^2 + d (2 n^2 + 2 n) + V."""
        n, d = self.width, self.depth
        return vocabulary * n + 2 * n * n + d * (2 * n * n + 2 * n) + vocabulary


DENSE = Config()
ISS = replace(DENSE, drop=(0.15, 0.45, 0.15, 0.45), threshold=4e-4)  # .6 times the dropout: the Lasso regularises too


class WordDropout(Dropout):
    """Drops words. x: (T, B, F), ids: (T, B) -> x with a word of a sequence 0 at all its places, or at none."""

    def forward(self, x: Tensor, ids: np.ndarray) -> Tensor:  # type: ignore[override]
        if not self.training or self.p == 0:
            return x
        first = (ids[:, None] == ids).argmax(0)  # (T, B): the first time step with the same word
        kept = np.take_along_axis(self.rng.random((*ids.shape, 1), dtype=np.float32) >= self.p, first[..., None], 0)
        return x * (kept / (1 - self.p)).astype(x.dtype)


class HighwayLayer(Module):
    """The weights of one layer of the recurrent step. weight: (2n, n), bias: (2n,): rows of H_l, then of T_l."""

    def __init__(self, width: int):
        self.weight = Parameter(np.zeros((2 * width, width), np.float32))
        self.bias = Parameter(np.zeros(2 * width, np.float32))


class RHNLanguageModel(Module):
    """ids: (T, B), states: [s: (B, n)] -> logits: (T B, V), [s after the last step].

    The width n may be smaller than the configuration's: what counts are the shapes of the weights.
    """

    def __init__(self, vocabulary: int, config: Config = DENSE, *, rng: np.random.Generator):
        if config.depth < 1 or config.width < 1:
            raise InputError(f"depth {config.depth} and width {config.width}: both must be at least 1")
        n, (x, i, h, o) = config.width, config.drop
        self.embedding = Embedding(vocabulary, n, rng=rng)
        self.weight_ih = Parameter(np.zeros((2 * n, n), np.float32))  # [H_0; T_0], the half that reads the word
        self.layers = [HighwayLayer(n) for _ in range(config.depth)]
        self.output = Linear(n, vocabulary, rng=rng)
        self.output.weight = self.embedding.weight
        self.drop_words, self.drop_input = WordDropout(x, rng=rng), VariationalDropout(i, rng=rng)
        self.drop_state, self.drop_output = VariationalDropout(h, rng=rng), VariationalDropout(o, rng=rng)
        for p in self.parameters():
            p.data = rng.uniform(-config.init_scale, config.init_scale, p.shape).astype(np.float32)
        for layer in self.layers:
            layer.bias.data[n:] = config.gate_bias

    def forward(self, ids, states):
        if len(states) != 1:
            raise InputError(f"{len(states)} states: a highway network has one, [s]; begin with zero_states(batch)")
        (s,) = states
        x = self.drop_input(self.drop_words(self.embedding(ids), np.asarray(ids)))
        mask = self.drop_state(Tensor(np.ones((1, *s.shape), s.dtype)))[0] if self.drop_state.training else None
        y, s = rhn(x, s, mask, self.weight_ih, *(p for layer in self.layers for p in (layer.weight, layer.bias)))
        return self.output(self.drop_output(y).flatten(0, 1)), [s]

    def zero_states(self, batch: int):
        return [Tensor(np.zeros((batch, self.weight_ih.shape[1]), self.weight_ih.dtype))]

    @property
    def config(self) -> Config:
        """What to give to RHNLanguageModel for a model of this one's shape, shrunk or not."""
        dropped = (self.drop_words, self.drop_input, self.drop_state, self.drop_output)
        x, i, h, o = (layer.p for layer in dropped)
        return Config(width=self.weight_ih.shape[1], depth=len(self.layers), drop=(x, i, h, o))


# -- a model and its words in one file ---------------------------------------------------------------------------------
def save_rhn(path, model: RHNLanguageModel, words: Sequence[str], **more) -> None:
    """checkpoint.save with the vocabulary and the sizes, so that a shrunk model finds its shape again. words: (V,)."""
    if len(words) != (known := model.embedding.weight.shape[0]):
        raise InputError(f"the model knows {known:,} words, the vocabulary holds {len(words):,}: give its own")
    c = model.config
    extra = {"words": list(words), "rhn": {"width": c.width, "depth": c.depth, "drop": list(c.drop)}}
    checkpoint.save(path, model=model, extra=extra, **more)


def load_rhn(
    path, words: Sequence[str] | None = None, *, rng: np.random.Generator
) -> tuple[RHNLanguageModel, tuple[str, ...]]:
    """(model, its words) from a file of save_rhn. words: those of the text that it is to read, if there is one. Raises
    InputError if they are not the model's own, DataError if the file holds none."""
    extra = checkpoint.load(path).extra
    if not isinstance(extra, dict) or "rhn" not in extra:
        raise DataError(f"{path} holds no highway network with a vocabulary: it was not written by save_rhn")
    own, (x, i, h, o) = tuple(extra["words"]), extra["rhn"]["drop"]
    if words is not None:
        same_words(path, own, words)
    config = Config(width=extra["rhn"]["width"], depth=extra["rhn"]["depth"], drop=(x, i, h, o))
    model = RHNLanguageModel(len(own), config, rng=rng)
    checkpoint.load(path, model=model)
    return model, own
