"""The stacked LSTM language model of Zaremba et al. (2014), which Intrinsic Sparse Structures shrinks.

    embedding (V, E) - dropout - LSTM 1 - dropout - LSTM 2 - dropout - output layer (V, H2)

One bias per LSTM layer, as published; every weight U(-init_scale, init_scale). A batch is x: (T, B) word ids; the state
goes in and comes out (truncated back-propagation through time: detach it between batches).

    cost = sum over the T steps of the mean over the B rows of the cross-entropy
    perplexity = exp(sum of cost / sum of T), over all batches

The published lambda of a group Lasso, the clipping limit and the learning rate belong to this sum: for a mean over the
steps, divide lambda and the limit by T and multiply the rate by T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minidl import checkpoint
from minidl.callbacks import Callback, Run, last_good
from minidl.checkpoint import generators
from minidl.data.text import batch_stream
from minidl.errors import DataError, InputError, MinidlError
from minidl.layers import Dropout, Embedding, Linear, Module, Parameter, cross_entropy, lstm
from minidl.not_finite import first_not_finite
from minidl.optim import SGD, clip_grad_norm, schedule
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

    def extra_repr(self) -> str:
        return f"{self.weight_ih.shape[1]}, {self.weight_hh.shape[1]}"


class LSTMLanguageModel(Module):
    """ids: (T, B) -> logits: (T B, V), the states of all layers.

    tied: the output layer's weights are the embedding's; the last layer then has as many units as a word has numbers.
    """

    def __init__(
        self, vocabulary: int, embedding: int, hidden: tuple[int, ...], *, keep: float = 1.0, init_scale: float = 0.1,
        tied: bool = False, rng: np.random.Generator,
    ):  # fmt: skip
        if not hidden:
            raise InputError("hidden is empty: give the units of at least one layer, (200, 200) for example")
        if tied and hidden[-1] != embedding:
            raise InputError(f"tied: the last layer has {hidden[-1]} units, the embedding {embedding}: make them equal")
        self.embedding = Embedding(vocabulary, embedding, rng=rng)
        self.layers = [LSTMLayer(i, h) for i, h in zip((embedding, *hidden[:-1]), hidden, strict=True)]
        self.dropout = Dropout(1 - keep, rng=rng)
        self.output = Linear(hidden[-1], vocabulary, rng=rng)
        if tied:
            self.output.weight = self.embedding.weight
        for p in self.parameters():
            p.data = rng.uniform(-init_scale, init_scale, p.shape).astype(np.float32)

    def forward(self, ids, states):
        if len(states) != len(self.layers):
            raise InputError(f"{len(states)} states for {len(self.layers)} layers: begin with model.zero_states(batch)")
        x = self.dropout(self.embedding(ids))
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            x = self.dropout(x)
            after.append(state)
        return self.output(x.flatten(0, 1)), after

    def zero_states(self, batch: int):
        return [layer.zero_state(batch) for layer in self.layers]

    @property
    def sizes(self) -> tuple[int, int, tuple[int, ...]]:
        """(words, numbers of a word, hidden units of each layer), as they are now."""
        return (*self.embedding.weight.shape, tuple(layer.weight_hh.shape[1] for layer in self.layers))


# -- the published settings --------------------------------------------------------------------------------------------
def _falling(full: int, decay: float) -> schedule.Schedule:
    """1 for `full` epochs, then times `decay` after each."""
    return lambda epoch: decay ** max(epoch + 1 - full, 0)


@dataclass(frozen=True)
class Setting:
    """Sizes and training of one published configuration. lr(epoch), from 0, is the learning rate of plain SGD; clip is
    the limit of the joint norm of all gradients; keep is 1 - dropout, the same in all places."""

    hidden: int
    steps: int
    batch: int
    epochs: int
    keep: float
    init_scale: float
    clip: float
    lr: Callable[[int], float]

    def model(
        self, vocabulary: int, hidden: tuple[int, ...] | None = None, *, tied: bool = False, rng: np.random.Generator
    ) -> LSTMLanguageModel:
        """A new model: an embedding of `hidden` numbers and two layers of as many units, or of others (as in the direct
        design of a small model, which keeps the large embedding)."""
        return LSTMLanguageModel(
            vocabulary, self.hidden, hidden or (self.hidden, self.hidden), keep=self.keep, init_scale=self.init_scale,
            tied=tied, rng=rng,
        )  # fmt: skip


SETTINGS = {
    "small": Setting(200, 20, 20, 13, 1.0, 0.1, 5.0, _falling(4, 0.5)),
    "medium": Setting(650, 35, 20, 39, 0.5, 0.05, 5.0, _falling(6, 0.8)),
    "large": Setting(1500, 35, 20, 55, 0.35, 0.04, 10.0, _falling(14, 1 / 1.15)),
    "sparse-large": Setting(1500, 35, 20, 55, 0.6, 0.04, 10.0, schedule.step(1.0, 0.1, 55 // 3)),
}
"""The paper's: three dense models, and the large one as it is trained with the group Lasso, lambda .00245 or .003.

What it is compared with: .003 on the rows and columns of each matrix; L1 of 1e-4 on all but the embedding, biases too,
from the trained large model; the direct design of the small sizes, "large" with keep .55. What was shrunk goes on with
"sparse-large" at a rate of .1.
"""


# -- training: of any model(ids, states) -> (logits, states) that has zero_states ---------------------------------
def detach(states):
    """The same numbers without their history: where truncated back-propagation is cut."""
    return [s.detach() if isinstance(s, Tensor) else tuple(part.detach() for part in s) for s in states]


def cost(model, x: np.ndarray, y: np.ndarray, states) -> tuple[Tensor, list]:
    """(sum over the steps of the mean over the rows of the cross-entropy, states after it). x, y: (T, B)."""
    logits, after = model(x, states)
    return cross_entropy(logits, y.ravel(), reduction="sum") * (1 / x.shape[1]), after


def train_epoch(
    model, stream: Iterable, optimizer: SGD, *, clip: float, callbacks: Sequence[Callback] = (),
    step: int = 0, progress=None,
) -> float:  # fmt: skip
    """Truncated back-propagation through time over the (x, y) of a batch stream; returns the training perplexity.

    The state starts at 0 and is carried from batch to batch without its history. callbacks: a penalty, for example; its
    after_backward comes before clipping, so that, as published, the gradient of cost and penalty together is clipped
    (a penalty that acts by its proximal step adds nothing to the gradient). They are told of steps alone; on_start and
    after_epoch are yours to call. step: the number of the first step.
    progress: update(1) is called after each step. A cost or gradient that is not finite raises MinidlError with the
    step, the layer and the last good checkpoint (of a SaveEvery among the callbacks); that step changes no weight.
    """
    if not clip > 0:
        raise InputError(f"clip {clip}: the limit of the gradients' joint norm must be above 0, np.inf for none")
    run, states, total, steps = Run(model, optimizer, step), None, 0.0, 0
    draws = list(generators(model).values())
    model.train()
    for x, y in stream:
        states = model.zero_states(x.shape[1]) if states is None else detach(states)
        before, drawn = states, [rng.bit_generator.state for rng in draws]
        loss, states = cost(model, x, y, states)
        optimizer.zero_grad()
        norm = np.inf
        if np.isfinite(loss.item()):
            loss.backward()
            for callback in callbacks:
                callback.after_backward(run)
            norm = clip_grad_norm(optimizer.params, clip)
        if not np.isfinite(norm):
            for rng, state in zip(draws, drawn, strict=True):
                rng.bit_generator.state = state
            raise MinidlError(_not_finite(run, loss.item(), callbacks, x, y, before))
        optimizer.step()
        total, steps = total + loss.item(), steps + len(x)
        for callback in callbacks:
            callback.after_step(run)
        run.step += 1
        if progress is not None:
            progress.update(1)
    return _perplexity(total, steps)


class _WithState:
    """The model as a function of the words alone, with its own names."""

    def __init__(self, model, states):
        self.model, self.states = model, states
        self.named_parameters, self.modules = model.named_parameters, model.modules

    def __call__(self, ids):
        return self.model(ids, self.states)[0]


def _not_finite(run: Run, loss: float, callbacks, x, y, states) -> str:
    what = "a gradient is not finite" if np.isfinite(loss) else f"the cost is {loss}"
    where = first_not_finite(_WithState(run.model, states), x, y.ravel(), cross_entropy)
    return f"{what} at step {run.step} (learning rate {run.optimizer.lr:g}): {where}; {last_good(callbacks)}"


def _perplexity(total: float, steps: int) -> float:
    if not steps:
        raise InputError("perplexity of no words: the stream is empty (a generator can be walked through once)")
    return float(np.exp(total / steps))


def perplexity(model, stream: Iterable) -> float:
    """exp(sum of cost / number of steps) over the (x, y) of a batch stream, the state carried from batch to batch."""
    was = model.training
    model.eval()
    total, steps, states = 0.0, 0, None
    with no_grad():
        for x, y in stream:
            loss, states = cost(model, x, y, states or model.zero_states(x.shape[1]))
            total, steps = total + loss.item(), steps + len(x)
    model.train(was)
    return _perplexity(total, steps)


def perplexity_of_text(model, ids: np.ndarray, steps: int = 100) -> float:
    """As the test part is published: batch 1, every word, each said from all words before it. ids: (N,).

    steps: words in a call; with the state carried it only decides the speed.
    """
    return perplexity(model, batch_stream(ids, 1, steps, rest=True))


# -- text from a model -------------------------------------------------------------------------------------------------
def generate(
    model, prompt: Sequence[int] | np.ndarray, n: int, temperature: float = 1.0,
    *, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """n words that go on behind a prompt, each drawn from softmax(logits / temperature). prompt: (M,) -> (n,) int32.

    temperature 0 takes the likeliest word each time. `text.numbers("the market")` makes a prompt, `text.words(ids)`
    shows the answer. One number of rng is drawn for each word, so two models that are alike say the same.
    """
    if np.asarray(prompt).dtype.kind == "U":
        raise InputError(f"the prompt is text, {prompt!r}: give the numbers of its words, text.numbers(prompt)")
    if n < 0:
        raise InputError(f"{n} words to say: give 0 or more")
    said = np.asarray(prompt, np.int32).reshape(-1)
    if not len(said):
        raise InputError("the prompt is empty: give at least one word, <eos> for example")
    if not temperature >= 0:
        raise InputError(f"temperature {temperature}: it must be at least 0 (0 takes the likeliest word)")
    was, states = model.training, model.zero_states(1)
    model.eval()
    words: list[int] = []
    with no_grad():
        for draw in rng.random(n):
            logits, states = model(said[:, None], states)
            scores = logits.data[-1].astype(np.float64)
            if temperature == 0:
                word = int(scores.argmax())
            else:
                chances = np.exp((scores - scores.max()) / temperature).cumsum()
                word = int(np.searchsorted(chances, draw * chances[-1], side="right"))
            words.append(word)
            said = np.array([word], np.int32)
    model.train(was)
    return np.array(words, np.int32)


# -- a model and its words in one file ---------------------------------------------------------------------------------
def save_language_model(path, model: LSTMLanguageModel, words: Sequence[str], **more) -> None:
    """checkpoint.save with the vocabulary and the sizes, so that a shrunk model finds its shape again. words: (V,)."""
    if len(words) != model.sizes[0]:
        raise InputError(f"the model knows {model.sizes[0]:,} words, the vocabulary holds {len(words):,}: give its own")
    extra = {"words": list(words), "tied": model.output.weight is model.embedding.weight, "keep": 1 - model.dropout.p}
    checkpoint.save(path, model=model, extra={**extra, "sizes": model.sizes}, **more)


def load_language_model(
    path, words: Sequence[str] | None = None, *, rng: np.random.Generator
) -> tuple[LSTMLanguageModel, tuple[str, ...]]:
    """(model, its words) from a file of save_language_model. words: those of the text that it is to read, if there is
    one. Raises InputError if they are not the model's own: a word number would mean another word."""
    extra = checkpoint.load(path).extra
    if not isinstance(extra, dict) or not {"words", "sizes"} <= extra.keys():
        raise DataError(f"{path} holds no LSTM language model with a vocabulary: save_language_model writes one")
    own = tuple(extra["words"])
    if words is not None:
        same_words(path, own, words)
    vocabulary, embedding, hidden = extra["sizes"]
    model = LSTMLanguageModel(
        vocabulary, embedding, tuple(hidden), keep=extra["keep"], tied=extra["tied"], rng=rng
    )  # fmt: skip
    checkpoint.load(path, model=model)
    return model, own


def same_words(path, own: Sequence[str], words: Sequence[str], what: str = "words") -> None:
    """Raises InputError if `words` are not those of the model in this file: a number would mean another word."""
    if tuple(words) != tuple(own):
        first = next((k for k, (a, b) in enumerate(zip(own, words, strict=False)) if a != b), min(len(own), len(words)))
        there, here = (repr(v[first]) if first < len(v) else "nothing" for v in (own, words))
        raise InputError(
            f"the vocabulary does not match {path}: {len(own):,} {what} there, {len(words):,} here, first different at "
            f"number {first}: {there} there, {here} here; number the text with the checkpoint's {what}"
        )
