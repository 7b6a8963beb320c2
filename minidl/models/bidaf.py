"""BiDAF, which reads a context and a question and points at the answer (Seo, Kembhavi, Farhadi and Hajishirzi 2017).

    words           [char-CNN; embedding] (10) - two highway layers                        both texts share all of this
    contextual      one bidirectional LSTM for both: h (T, B, 2d) of the context, u (J, B, 2d) of the question
    attention flow  S_tj = w_h h_t + w_u u_j + w_hu (h_t * u_j)
                    context to query   a_t = softmax_j S_tj          u~_t = sum_j a_tj u_j
                    query to context   b = softmax_t max_j S_tj      h~ = sum_t b_t h_t, the same for all t
                    p0 = G = [h; u~; h * u~; h * h~]                 (T, B, 8d)
    modelling       g0, g1 = two bidirectional LSTMs on p0           (T, B, 2d)
    output          start = w1 [g1; p0]     a1i = sum_t softmax_t(start) g1_t
                    g2 = bidirectional LSTM on [p0; g1; a1i; g1 * a1i]
                    end = w2 [g2; p0]                                softmax over t: where the answer starts and ends

One bias per LSTM, forget gates starting at 1. Batches of several lengths are padded with word 0, which no softmax
looks at; a backward LSTM starts at a text's own last word, so padding changes nothing.

Intrinsic Sparse Structures shrinks the six LSTMs g0, g1 and g2 (Wen et al. 2018, table 4): `widths` are their units.
Unit k of g1 forwards is read by start and by g2 at 8d + k (g1), 10d + k (a1i) and 12d + k (g1 * a1i). The published
groups (`published_groups`) leave the middle one out; then a unit whose group is 0 still speaks through a1i, unless it
says 0 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl import checkpoint
from minidl.data.squad import Vocabulary
from minidl.errors import DataError, InputError, ShapeError
from minidl.layers import Conv1d, Dropout, Embedding, Linear, Module, Parameter, cross_entropy, embedding, softmax
from minidl.models.lstm_lm import LSTMLayer, same_words
from minidl.tensor import Tensor, no_grad

PAD, UNKNOWN = 0, 1
"""Word and character numbers: of padding, and of what is not in the vocabulary."""
LSTMS = ("g0.forwards", "g0.backwards", "g1.forwards", "g1.backwards", "g2.forwards", "g2.backwards")
"""The layers that lose units, in the order of `widths` and of table 4."""
NOWHERE = -100.0  # added to a score that no softmax may look at: exp(-100) is 0 beside any other


class BiLSTM(Module):
    """An LSTM that reads forwards and one that reads backwards. x: (T, B, I), ids: (T, B) -> (T, B, H + H').

    ids say where a text ends: they are PAD behind its last word. The backward LSTM starts there.
    """

    def __init__(self, inputs: int, hidden: tuple[int, int], *, rng: np.random.Generator):
        self.forwards, self.backwards = (_lstm(inputs, h, rng) for h in hidden)

    def forward(self, x: Tensor, ids):
        there, _ = self.forwards(x, self.forwards.zero_state(x.shape[1]))
        back, _ = self.backwards(_reversed(x, ids), self.backwards.zero_state(x.shape[1]))
        return np.concatenate([there, _reversed(back, ids)], axis=2)


def _lstm(inputs: int, hidden: int, rng) -> LSTMLayer:
    layer = LSTMLayer(inputs, hidden)
    bound = (inputs + hidden) ** -0.5
    for p in (layer.weight_ih, layer.weight_hh):
        p.data = rng.uniform(-bound, bound, p.shape).astype(np.float32)
    layer.bias.data[hidden : 2 * hidden] = 1  # the forget gate, second of i, f, g, o
    return layer


def _reversed(x: Tensor, ids) -> Tensor:
    """Each text backwards, its padding where it was; doing it twice changes nothing. x: (T, B, F)."""
    steps, batch, features = x.shape
    t, length = np.arange(steps)[:, None], (ids != PAD).sum(0)
    rows = np.where(t < length, length - 1 - t, t) * batch + np.arange(batch)
    return embedding(x.reshape(steps * batch, features), rows)  # looks up rows of x


class Highway(Module):
    """y = t relu(W x + b) + (1 - t) x, t = sigmoid(W_t x + b_t): each number is renewed or carried on. x: (..., F).

    (Srivastava, Greff and Schmidhuber 2015)
    """

    def __init__(self, width: int, *, rng: np.random.Generator):
        self.new, self.gate = Linear(width, width, rng=rng), Linear(width, width, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        t = self.gate(x).sigmoid()
        return t * self.new(x).relu() + (1 - t) * x


class CharCNN(Module):
    """What a word's letters say: the largest answer of each filter along it. chars: (..., C) -> (..., F). (Kim 2014)"""

    def __init__(self, characters: int, size: int, filters: int, kernel: int, *, rng: np.random.Generator):
        self.embedding = Embedding(characters, size, rng=rng)
        self.conv = Conv1d(size, filters, kernel, rng=rng)

    def forward(self, chars) -> Tensor:
        letters = self.embedding(chars.reshape(-1, chars.shape[-1])).transpose(1, 2)  # (words, size, C)
        said = self.conv(letters).relu().amax(2)
        return said.reshape(*chars.shape[:-1], said.shape[1])


class Attention(Module):
    """Attention flow. h: (T, B, F), u: (J, B, F), of context and question with their ids -> G: (T, B, 4F)."""

    def __init__(self, features: int, *, rng: np.random.Generator):
        self.context, self.question = Linear(features, 1, rng=rng), Linear(features, 1, bias=False, rng=rng)
        self.both = Parameter(rng.uniform(-(features**-0.5), features**-0.5, features).astype(np.float32))

    def scores(self, h: Tensor, u: Tensor) -> Tensor:
        """S: (B, T, J)."""
        product = (h * self.both).transpose(0, 1) @ u.permute(1, 2, 0)
        return product + self.context(h).transpose(0, 1) + self.question(u).permute(1, 2, 0)

    def forward(self, h: Tensor, u: Tensor, context, question):
        scores = self.scores(h, u)
        a = softmax(scores + _mask(question.T[:, None], h.dtype), dim=2)
        u_ = (a @ u.transpose(0, 1)).transpose(0, 1)  # (T, B, F)
        best = (scores + _mask(question.T[:, None], h.dtype)).amax(2)
        b = softmax(best + _mask(context.T, h.dtype), dim=1)
        h_ = (b.transpose(0, 1).unsqueeze(2) * h).sum(0, keepdim=True)  # (1, B, F)
        return np.concatenate([h, u_, h * u_, h * h_], axis=2)


def _mask(ids, dtype) -> np.ndarray:
    return np.where(ids == PAD, NOWHERE, 0).astype(dtype)


class BiDAF(Module):
    """(start, end): scores (B, T) of the context's words, to be the first and the last of the answer.

    context: (T, B) and question: (J, B) word numbers, each with the letters of its words, (T, B, C) and (J, B, C).
    words, characters: how many there are, PAD and UNKNOWN among them. word, char: numbers of each in its table.
    filters of `kernel` letters; hidden: d, units of the contextual LSTM in each direction; widths: units of LSTMS,
    default d each. keep: 1 - dropout, before every LSTM and before the scores.
    """

    def __init__(
        self, words: int, characters: int, *, rng: np.random.Generator, word: int = 100, char: int = 8,
        filters: int = 100, kernel: int = 5, hidden: int = 100, widths: Sequence[int] | None = None, keep: float = 0.8,
    ):  # fmt: skip
        g = tuple(widths) if widths is not None else (hidden,) * 6
        if len(g) != 6:
            raise InputError(f"{len(g)} widths: give six, of {', '.join(LSTMS)}")
        p0, g1 = 8 * hidden, g[2] + g[3]
        self.letters = CharCNN(characters, char, filters, kernel, rng=rng)
        self.word = Embedding(words, word, rng=rng)
        self.highway = [Highway(filters + word, rng=rng) for _ in range(2)]
        self.contextual = BiLSTM(filters + word, (hidden, hidden), rng=rng)
        self.attention = Attention(2 * hidden, rng=rng)
        self.g0 = BiLSTM(p0, g[:2], rng=rng)
        self.g1 = BiLSTM(g[0] + g[1], g[2:4], rng=rng)
        self.g2 = BiLSTM(p0 + 3 * g1, g[4:], rng=rng)
        self.start, self.end = Linear(g1 + p0, 1, rng=rng), Linear(g[4] + g[5] + p0, 1, rng=rng)
        self.dropout = Dropout(1 - keep, rng=rng)

    def forward(self, context, context_letters, question, question_letters) -> tuple[Tensor, Tensor]:
        for ids, letters in ((context, context_letters), (question, question_letters)):
            if ids.ndim != 2 or letters.shape[:2] != ids.shape or ids.shape[1] != context.shape[1]:
                raise ShapeError(
                    f"BiDAF: word numbers {ids.shape} with letters {letters.shape}, a batch of {context.shape[1]}: "
                    "they must be (T, B) and (T, B, C)"
                )
        h, u = self.read(context, context_letters), self.read(question, question_letters)
        p0 = self.attention(h, u, context, question)
        g0 = self.g0(self.dropout(p0), context)
        g1 = self.g1(self.dropout(g0), context)
        start = self.point(self.start, g1, p0, context)
        a1i = (softmax(start, dim=1).transpose(0, 1).unsqueeze(2) * g1).sum(0, keepdim=True)  # (1, B, F)
        g2 = self.g2(self.dropout(np.concatenate([p0, g1, np.broadcast_to(a1i, g1.shape), g1 * a1i], axis=2)), context)
        return start, self.point(self.end, g2, p0, context)

    def read(self, ids, letters) -> Tensor:
        """Words and letters up to the contextual LSTM. (T, B), (T, B, C) -> (T, B, 2d)."""
        x = np.concatenate([self.letters(letters), self.word(ids)], axis=2)
        for layer in self.highway:
            x = layer(x)
        return self.contextual(self.dropout(x), ids)

    def point(self, layer: Linear, g: Tensor, p0: Tensor, context) -> Tensor:
        """Scores (B, T), nowhere on padding."""
        scores = layer(self.dropout(np.concatenate([g, p0], axis=2))).squeeze(2).transpose(0, 1)
        return scores + _mask(context.T, g.dtype)

    @property
    def widths(self) -> tuple[int, ...]:
        """The units of LSTMS, as they are now."""
        both = (layer for g in (self.g0, self.g1, self.g2) for layer in (g.forwards, g.backwards))
        return tuple(layer.weight_hh.shape[1] for layer in both)

    @property
    def sizes(self) -> dict:
        """What to give to BiDAF for a model of this one's shape, shrunk or not."""
        (words, word), (characters, char) = self.word.weight.shape, self.letters.embedding.weight.shape
        filters, _, kernel = self.letters.conv.weight.shape
        return {
            "words": words, "characters": characters, "word": word, "char": char, "filters": filters, "kernel": kernel,
            "hidden": self.contextual.forwards.weight_hh.shape[1], "widths": self.widths, "keep": 1 - self.dropout.p,
        }  # fmt: skip


def loss(model: BiDAF, batch, start: np.ndarray, end: np.ndarray) -> Tensor:
    """Mean over the batch of -log p(first word) - log p(last word). start, end: (B,) places in the context."""
    first, last = model(*batch)
    return cross_entropy(first, start) + cross_entropy(last, end)


def answer(model: BiDAF, batch, longest: int = 15) -> np.ndarray:
    """(B, 2): first and last word of each best answer: start <= end < start + longest, start + end score largest."""
    was = model.training
    model.eval()
    with no_grad():
        first, last = (scores.data for scores in model(*batch))
    model.train(was)
    return best(first, last, longest)


def best(first: np.ndarray, last: np.ndarray, longest: int = 15) -> np.ndarray:
    """What `answer` makes of the scores (B, T) of first and last words: (B, 2)."""
    steps = first.shape[1]
    apart = np.arange(steps) - np.arange(steps)[:, None]
    both = first[:, :, None] + last[:, None, :] + np.where((apart >= 0) & (apart < longest), 0, 4 * NOWHERE)
    return np.stack(np.unravel_index(both.reshape(len(both), -1).argmax(1), (steps, steps)), axis=1)


def weights_of(widths: Sequence[int], hidden: int = 100, *, a1i: int | None = None) -> int:
    """Weights and biases of the six LSTMs and the two scores, by formula: (I + H) 4H + 4H for each LSTM.

    a1i: rows of the output LSTMs for a1i; default as many as g1 has units. The published table counts 2d of them
    whatever is left of g1.
    """
    p0, g1 = 8 * hidden, widths[2] + widths[3]
    heard = (p0, widths[0] + widths[1], p0 + 2 * g1 + (g1 if a1i is None else a1i))
    lstms = sum((heard[k // 2] + h + 1) * 4 * h for k, h in enumerate(widths))
    return lstms + (g1 + p0 + 1) + (widths[4] + widths[5] + p0 + 1)


def published_groups(model: BiDAF) -> list[dict]:
    """The groups of the authors' own file, one for each unit in the order of LSTMS, for `groups(model, by=...)`.

    Unit k of an LSTM: its four gate rows, its recurrent column, and the columns k of what reads it, but for the columns
    10d + k that read g1 through a1i. What these groups make 0 may not leave, unless those columns are 0 as well: the
    default, by="unit", holds them. As published, step for step (multiples 1.5, 1, 2 of lambda in the file "scaled"):

        GroupLasso(groups(model, by=published_groups(model)), lam=1e-3, rule="published", smooth=1e-8,
                   weights=np.repeat([1.5, 1, 2], 2 * d))        and penalty.below = 4e-4
    """
    n, g1 = model.widths, sum(model.widths[2:4])
    p0 = model.start.weight.shape[1] - g1
    to_g1 = lambda k: {f"{name}.weight_ih": [k] for name in LSTMS[2:4]}
    to_g2 = lambda k: {f"{name}.weight_ih": [p0 + k, p0 + 2 * g1 + k] for name in LSTMS[4:]}
    readers = (
        to_g1(0), to_g1(n[0]), {"start.weight": [0], **to_g2(0)}, {"start.weight": [n[2]], **to_g2(n[2])},
        {"end.weight": [0]}, {"end.weight": [n[4]]},
    )  # fmt: skip
    return [
        {
            f"{name}.weight_ih": [np.s_[k::width]],
            f"{name}.weight_hh": [np.s_[k::width], np.s_[:, k]],
            **{reader: [np.s_[:, first + k] for first in firsts] for reader, firsts in read.items()},
        }
        for name, width, read in zip(LSTMS, n, readers, strict=True)
        for k in range(width)
    ]


# -- a model and its vocabulary in one file ----------------------------------------------------------------------------
def save_bidaf(path, model: BiDAF, vocabulary: Vocabulary, **more) -> None:
    """checkpoint.save with the vocabulary and the sizes, so that a shrunk model finds its shape again."""
    for what in ("words", "characters"):
        known, held = model.sizes[what], len(getattr(vocabulary, what))
        if known != held:
            raise InputError(f"the model knows {known:,} {what}, the vocabulary holds {held:,}: give its own")
    extra = {"words": list(vocabulary.words), "characters": list(vocabulary.characters), "bidaf": model.sizes}
    checkpoint.save(path, model=model, extra=extra, **more)


def load_bidaf(path, vocabulary: Vocabulary | None = None, *, rng: np.random.Generator) -> tuple[BiDAF, Vocabulary]:
    """(model, its vocabulary) from a file of save_bidaf. vocabulary: that of the questions it is to answer, if there is
    one. Raises InputError if it is not the model's own, DataError if the file holds none."""
    extra = checkpoint.load(path).extra
    if not isinstance(extra, dict) or "bidaf" not in extra:
        raise DataError(f"{path} holds no BiDAF with a vocabulary: it was not written by save_bidaf")
    own = Vocabulary(tuple(extra["words"]), tuple(extra["characters"]))
    if vocabulary is not None:
        same_words(path, own.words, vocabulary.words)
        same_words(path, own.characters, vocabulary.characters, "characters")
    model = BiDAF(**extra["bidaf"], rng=rng)
    checkpoint.load(path, model=model)
    return model, own
