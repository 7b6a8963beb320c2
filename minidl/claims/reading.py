"""What `iss-bidaf` trains: a small BiDAF that reads a sentence and points at the words that answer a question.

Half of the questions of every batch are real. The others are gaps in the same sentences, drawn anew in every step: a
few thousand real questions teach the LSTMs behind the attention nothing, so that one could take a whole one of them
out of the trained network and lose nothing, whatever the method.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.callbacks import Run
from minidl.claims.claim import Context
from minidl.claims.shrinking import with_arrays
from minidl.claims.trainings import part
from minidl.data.squad import Question, QuestionSet, Vocabulary, gap, glove, scores, targets
from minidl.errors import MinidlError
from minidl.layers import cross_entropy
from minidl.models.bidaf import LSTMS, BiDAF, best, loss
from minidl.not_finite import first_not_finite
from minidl.optim import SGD, Adam, Optimizer, clip_grad_norm
from minidl.sparsity import Certificate, GroupLasso, NothingToRemove, Steer, compact, groups, silence_, units
from minidl.tensor import no_grad

SCALES = (1.5, 1.0, 2.0)
"""lambda of the units of g0, g1 and g2, as multiples: those that were published, for groups of so different sizes."""
LOOK = 10  # steps between two changes of lambda


@dataclass(frozen=True)
class Setting:
    """Sizes and schedule: Adam; with the Lasso, SGD for what it acts on (its step is exact there); then Adam again."""

    hidden: int  # units of the contextual LSTM, each way,
    units: int  # and of each of the six others
    batch: int
    longest: int  # words of a sentence that is taken
    questions: int  # about so many are read, of every n-th title
    words: int
    keep: float  # 1 - dropout
    dense: int  # steps that both networks share
    lasso: int
    after: int
    rate: float
    lasso_rate: float
    lam: float  # where lambda starts,
    gone: float  # and the share of the units that it is steered to empty, before the last third of the Lasso's steps
    draws: int = 5  # of random units

    steps = property(lambda self: self.dense + self.lasso + self.after)


# -- questions ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Data:
    """Three parts, no title in two of them: settings are chosen on what is held back; `test` is for the rows alone."""

    train: list[Question]
    held_back: list[Question]
    test: list[Question]
    vocabulary: Vocabulary  # of the training part
    vectors: np.ndarray | None = None  # its words, from GloVe, where that is given: (V, E)
    known: int = 0  # how many words have one

    def batch(self, rng: np.random.Generator, size: int):
        """As many questions, the first half of them gaps in the sentences of others."""
        some = [self.train[k] for k in rng.integers(0, len(self.train), size)]
        some[: size // 2] = [gap(q, rng) for q in some[: size // 2]]
        return self.vocabulary.batch(some), *targets(some)


def prepared(found: QuestionSet, s: Setting, vectors: Path | None = None) -> Data:
    """Sentences of at most `longest` words; of six titles one is for tests and one is held back.

    vectors: a file of GloVe's, with whose vectors the words start.
    """
    titles = sorted({q.title for q in found.questions})[:: max(1, len(found) // s.questions)]
    sixth = {title: k % 6 for k, title in enumerate(titles)}
    short = [q.sentence() for q in found.questions if q.title in sixth]
    short = [q for q in short if 5 <= len(q.words) <= s.longest]
    test, held_back = ([q for q in short if sixth[q.title] == k] for k in (0, 3))
    learn = [q for q in short if sixth[q.title] not in (0, 3)]
    vocabulary = Vocabulary.of(learn, s.words)
    found_there = glove(vectors, vocabulary.words, np.random.default_rng(0)) if vectors else (None, 0)
    return Data(learn, held_back, test, vocabulary, *found_there)


@dataclass(frozen=True)
class Judged:
    """How a network answers: EM and F1 of every question in percent (N, 2), and its mean loss."""

    each: np.ndarray
    loss: float

    em = property(lambda self: float(self.each[:, 0].mean()))
    f1 = property(lambda self: float(self.each[:, 1].mean()))


def judged(model: BiDAF, questions: list[Question], vocabulary: Vocabulary) -> Judged:
    """The network's answers to these questions, in evaluation mode."""
    said, total = [], 0.0
    model.eval()
    for k in range(0, len(questions), 64):
        some = questions[k : k + 64]
        with no_grad():
            first, last = model(*vocabulary.batch(some))
            a, b = targets(some)
            total += len(some) * (cross_entropy(first, a) + cross_entropy(last, b)).item()
        said += [q.said(*place) for q, place in zip(some, best(first.data, last.data), strict=True)]
    return Judged(scores(said, questions), total / len(questions))


# -- training ----------------------------------------------------------------------------------------------------------
@dataclass
class Trained:
    """The networks of the claim; those without the emptied units are None where the Lasso emptied none."""

    then: BiDAF  # the dense one, when the other loses its units,
    dense: BiDAF  # and at the end
    norms: np.ndarray  # of all units of the network with the Lasso, at that moment
    dead: float  # the share of units that are empty in the dense one
    lam: float
    cut: Any = None
    small: Any = None
    anew: Any = None
    certificate: Certificate | None = None
    wrong: float = 0.0
    swapped: Any = None  # the emptied one, with the numbers of units that went exchanged between g0 and g2


class Trainer:
    """Each training is a part of the claim and depends on nothing but the network with which it starts."""

    def __init__(self, ctx: Context, data: Data, s: Setting, bar):
        self.ctx, self.data, self.s, self.bar = ctx, data, s, bar
        self.x = one(data)

    def new(self, key: str, widths: tuple[int, ...] | None = None) -> BiDAF:
        v, h, vectors = self.data.vocabulary, self.s.hidden, self.data.vectors
        model = BiDAF(
            len(v.words), len(v.characters), rng=self.ctx.rng(key), filters=h, hidden=h,
            word=3 * h // 2 if vectors is None else vectors.shape[1], widths=widths or (self.s.units,) * 6,
            keep=self.s.keep,
        )  # fmt: skip
        if vectors is not None:
            model.word.weight.data = vectors.copy()
        return model

    def all(self) -> Trained:
        s, cut_at = self.s, self.s.dense + self.s.lasso
        shared, lasso, after = range(s.dense), range(s.dense, cut_at), range(cut_at, s.steps)
        start, _ = self.train("shared", self.new("model"), shared)
        emptied, lam = self.train("group Lasso", start, lasso, lam=s.lam)
        then, _ = self.train("lambda = 0", start, lasso, lam=0.0)
        dense, _ = self.train("dense to the end", then, after)
        dead = float(np.mean(lengths(dense, self.x) == 0))
        found = Trained(then, dense, lengths(emptied, self.x), dead, lam)
        with contextlib.suppress(NothingToRemove):
            found.cut, found.certificate = compact(emptied, self.x)
            found.wrong = one_unit_more(found.cut, self.x)
            kept = found.cut.widths
            found.swapped = weakest(emptied, (*kept[4:], *kept[2:4], *kept[:2]), self.x)
            found.small, _ = self.train("small network", found.cut, after)
            found.anew, _ = self.train("re-initialised", self.new("re-initialised", found.cut.widths), after)
        return found

    def train(self, name: str, model: BiDAF, steps: range, lam: float | None = None) -> tuple[BiDAF, float]:
        """(the network after these steps, the last lambda). lam: where the Lasso's starts; 0: its steps without it."""
        model = copy.deepcopy(model)

        def trained() -> dict:
            reached = self._steps(name, model, steps, lam)
            return {"state": model.state_dict(), "lam": reached}

        found = part(self.ctx, name, len(steps), self.bar, trained)
        return with_arrays(model, found["state"]), found["lam"]

    def _steps(self, name: str, model: BiDAF, steps: range, lam: float | None) -> float:
        """Step k sees the same questions in every network. Behind the Lasso the rate falls in a straight line."""
        s, every, penalty = self.s, model.parameters(), None
        optimizers: list[Optimizer] = [Adam(every, lr=s.rate)]
        if lam is not None:
            scales = np.repeat(SCALES, 2 * s.units)
            penalty = GroupLasso(hidden_units(model, self.x), lam=lam or 1.0, weights=scales, gap=1e-4)
            pulled = list(penalty.parameters.values())
            rest = [p for p in every if not any(p is q for q in pulled)]
            optimizers = [Adam(rest, lr=s.rate), SGD(pulled, lr=s.lasso_rate, momentum=0.9)]
            steer = Steer(penalty, s.gone, over=max(LOOK, 2 * len(steps) // 3), every=LOOK)
        run = Run(model, optimizers[-1])
        model.train()
        model.dropout.rng = self.ctx.rng("dropout", steps.start)
        for run.step in steps:
            if steps.stop == s.steps:
                optimizers[0].lr = s.rate * (s.steps - run.step) / len(steps)
            x, first, last = self.data.batch(self.ctx.rng("batch", run.step), s.batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            drawn = model.dropout.rng.bit_generator.state
            loss(model, x, first, last).backward()
            norm = clip_grad_norm(every, 5.0)
            if not np.isfinite(norm):
                model.dropout.rng.bit_generator.state = drawn
                raise MinidlError(self._not_finite(name, run, norm, x, first, last))
            for optimizer in optimizers:
                optimizer.step()
            if penalty is not None and lam:
                penalty.prox_(run.optimizer)
                steer.after_step(run)
            self.bar.update()
        return penalty.lam if penalty is not None and lam else 0.0

    def _not_finite(self, name: str, run: Run, norm: float, x, first, last) -> str:
        """The sentence that ends a training: where it went wrong, and what is there of it."""
        asked = _Asked(run.model, x)
        where = first_not_finite(asked, x[0], (first, last), lambda y, ends: sum(map(cross_entropy, y, ends)))
        done = "nothing is kept" if self.ctx.parts is None else f"the trainings finished before are in {self.ctx.parts}"
        return f"{name}: the gradient's norm is {norm} at step {run.step}: {where}; {done}"


class _Asked:
    """A model as a function of one argument, which stands for the whole batch, with the model's own names."""

    def __init__(self, model: BiDAF, x):
        self.model, self.x = model, x
        self.named_parameters, self.modules = model.named_parameters, model.modules

    def __call__(self, _):
        return self.model(*self.x)


def one(data: Data):
    """One question, on which networks are traced and compared: nothing is padded, so that scores stay small."""
    return data.vocabulary.batch(data.train[:1])


def hidden_units(model: BiDAF, x):
    """The groups: the published ones with the rows of a1i that they leave out."""
    return groups(model, x, by="unit", layers=LSTMS)


def lengths(model: BiDAF, x) -> np.ndarray:
    """The norm of every unit's weights."""
    return GroupLasso(hidden_units(model, x), lam=1.0).norms()


def at_random(dense: BiDAF, widths: tuple[int, ...], x, rng: np.random.Generator) -> BiDAF:
    """The dense network with as many units of each LSTM silenced, chosen at random, as training removed."""
    model, found, chosen = copy.deepcopy(dense), units(dense, x), []
    for name, kept in zip(LSTMS, widths, strict=True):
        own = [u for u in found if u.layer == name]
        chosen += [own[k] for k in rng.choice(len(own), len(own) - kept, replace=False)]
    silence_(model, chosen)
    return model


def weakest(emptied: BiDAF, widths: tuple[int, ...], x) -> BiDAF:
    """The network with all but so many units of each LSTM silenced, those of the shortest weights."""
    model, found, norms = copy.deepcopy(emptied), units(emptied, x), lengths(emptied, x)
    own = [u for u in found if u.layer in LSTMS]
    chosen = []
    for name, kept in zip(LSTMS, widths, strict=True):
        mine = sorted((k for k, u in enumerate(own) if u.layer == name), key=lambda k: norms[k])
        chosen += [own[k] for k in mine[: len(mine) - kept]]
    silence_(model, chosen)
    return model


def one_unit_more(small: BiDAF, x) -> float:
    """How far the float64 scores move when the kept unit of g2 with the largest weights is silenced too."""
    whole, less = (copy.deepcopy(small).astype(np.float64).eval() for _ in range(2))
    norms = lengths(less, x)
    norms[: sum(small.widths[:4])] = 0
    silence_(less, [[u for u in units(less, x) if u.layer in LSTMS][int(np.argmax(norms))]])
    with no_grad():
        return max(float(np.abs(a.data - b.data).max()) for a, b in zip(whole(*x), less(*x), strict=True))
