"""`iss-rhn`: a recurrent highway network gets narrower by training: each unit that goes leaves ten layers at once.

Said: 830 units become 517 at the same perplexity (65.4 on Penn Treebank's test part), or 403 at 67.7; 23.5 million
weights become 11.1 or 7.6 million. (Wen et al. 2018, table 2)

A unit is one column of the table of words, which the output shares, and its rows and columns in all layers of the
recurrent step. Here the published network, ten layers deep, is trained narrow: once dense, and once with a group Lasso
on these units from the same first weights. Units that the Lasso emptied are taken out, and what is left goes on, for as
many epochs in all. A control asks whether the weights that are left matter, or only their number: drawn anew, they go
through the epochs behind the cut alone. Every epoch is saved when it is done, and depends on nothing but the one before
it: a run after Ctrl-C goes on behind the last one with the same numbers.

The published table's numbers of weights are computed at the published sizes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidl import checkpoint
from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import said_by
from minidl.data.text import UNK, TextSet, batch_stream
from minidl.errors import DataError
from minidl.models.lstm_lm import perplexity, perplexity_of_text, train_epoch
from minidl.models.rhn import DENSE, Config, RHNLanguageModel
from minidl.optim import SGD
from minidl.sparsity import Certificate, GroupLasso, compact, groups, silence_, units
from minidl.tensor import no_grad

TABLE = {830: 23.5, 726: 18.9, 517: 11.1, 403: 7.6, 328: 5.7}
"""Width -> millions of weights, as published."""


@dataclass(frozen=True)
class Setting:
    """Sizes and schedule. The loss is summed over the steps of a batch and averaged over its rows, as published."""

    config: Config
    drop_sparse: float  # the sparse model's dropout over the dense one's: the Lasso regularises too (published: .6)
    lasso_from: int  # epochs: dense at first, then with the Lasso,
    lasso_to: int  # then the small model alone
    lambdas: tuple[float, ...]  # tried on the validation part
    words: int | None  # of the training part
    vocabulary: int

    @property
    def sparse(self) -> Config:
        """The dense model's sizes, with the sparse model's dropout."""
        words, word_parts, state, output = (self.drop_sparse * p for p in self.config.drop)
        return replace(self.config, drop=(words, word_parts, state, output))


QUICK = Setting(
    Config(
        width=64, drop=(0.0, 0.1, 0.05, 0.1), init_scale=0.1, lr=0.5, lr_decay=2.0, slow_from=5, epochs=7, batch=20,
        steps=20, weight_decay=0.0,
    ),
    drop_sparse=0.6, lasso_from=1, lasso_to=3, lambdas=(3e-2,), words=60_000, vocabulary=2_000,
)  # fmt: skip
FULL = replace(
    QUICK, config=replace(QUICK.config, width=128, drop=(0.05, 0.25, 0.1, 0.25), steps=35),
    lasso_to=4, words=None, vocabulary=10_000,
)  # fmt: skip


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    c, trials = s.config, len(s.lambdas)
    table(ctx)
    text = reduced(ctx.dataset("text"), s)
    held_back = [*batch_stream(text.valid, c.batch, c.steps)]
    batches = (len(text.train) // c.batch - 1) // c.steps
    with ctx.progress(batches * (c.epochs * (2 + trials) - s.lasso_to), "training") as bar:
        trainer = Trainer(ctx, text, c, bar)
        dense = new_model(ctx, text, c)
        x = inputs(dense, text, c)
        curve = trainer.train("dense model", dense, range(c.epochs))
        found = [one for lam in s.lambdas if (one := shrunk_model(trainer, s, lam)) is not None]
        best = min(found, key=lambda one: one.curve[-1], default=None)
        if best is not None:
            anew = new_model(ctx, text, replace(s.sparse, width=width(best.small)))
            fresh = trainer.train("re-initialised", anew, range(s.lasso_to, c.epochs))
    gone_dense = float(np.mean(lasso(dense, x, 1.0).norms() == 0))
    gone = 0.0 if best is None else 1 - width(best.small) / c.width
    ctx.row(
        "units removed by training", said="830 become 517: 0.38, or 403: 0.51", measured=gone, unit="of all",
        criterion="at least a tenth of the units gone", holds=gone >= 0.1, trials=trials,
        control={"what": "the dense model, trained alike with lambda = 0", "measured": gone_dense},
        control_holds=gone_dense >= 0.1,
    )  # fmt: skip
    if best is None:
        return
    certificate = best.certificate
    random = perplexity(at_random(dense, x, width(best.small), ctx.rng("random units")), held_back) / curve[-1]
    both: tuple[Any, Any] = dense, best.small
    test_dense, test_small = ctx.kept("test", lambda: [perplexity_of_text(m, text.test) for m in both])
    ctx.note(
        f"{len(text.train):,} training words, {len(text.vocabulary):,} different; depth {c.depth}, width {c.width}, "
        f"batch {c.batch}, {c.steps} steps, rate {c.lr:g}, {c.epochs} epochs, the Lasso in {s.lasso_from + 1} to "
        f"{s.lasso_to} and the small model after it; dropout {c.drop} (words, input, state, output) dense, "
        f"{s.drop_sparse:g} times that sparse; lambda {best.lam:g}, {trials} tried here on the validation part "
        "(there six lambdas from .02 to .1 and 5 or 7 epochs were tried before, with the quick sizes); "
        f"{width(best.small)} of {c.width} units kept."
    )
    ctx.note(str(certificate))
    ctx.note(said_by(text, {"dense": dense, "small": best.small}, ctx.rng("words said")))
    ctx.row(
        "test perplexity, small over dense", said="65.4 / 65.4 = 1.00 at 517 units, 67.7 / 65.4 = 1.035 at 403",
        measured=test_small / test_dense, criterion="at most 1.035", holds=test_small <= 1.035 * test_dense,
        trials=trials, control_holds=random <= 1.035,
        control={"what": "as many units silenced at random in the dense model (validation part)", "measured": random},
    )  # fmt: skip
    ratio, again = (values[-1] / curve[-1] for values in (best.curve, fresh))
    ctx.row(
        "validation perplexity at the end, small over dense", measured=ratio, criterion="at most 1.035",
        holds=ratio <= 1.035, trials=trials, control_holds=again <= 1.035,
        control={"what": "its weights drawn anew, trained as it is after the cut", "measured": again},
    )  # fmt: skip
    ctx.row("test perplexity of the dense model", said="65.4 with 830 units", measured=test_dense)
    ctx.row("test perplexity of the small model", said="65.4 with 517 units", measured=test_small)
    ctx.row("validation perplexity when the units are taken out", measured=best.curve[s.lasso_to - 1])
    ctx.row("validation perplexity of the small model at the end", measured=best.curve[-1])
    ctx.row("validation perplexity of the dense model at the end", measured=curve[-1])
    ctx.row(
        "float64 difference between the emptied and the small model", measured=certificate.difference,
        criterion=f"at most {certificate.tolerance:.1e}", holds=certificate.difference <= certificate.tolerance,
        control={"what": "one unit more silenced, one that training kept", "measured": best.wrong},
        control_holds=best.wrong <= certificate.tolerance,
    )  # fmt: skip
    for what, before, after in (
        ("multiply-adds", certificate.macs_before, certificate.macs_after),
        ("weights", certificate.weights_before, certificate.weights_after),
    ):
        said = round(TABLE[830] / TABLE[517], 2) if what == "weights" else None
        ctx.row(f"{what}, dense over small", said=said, measured=before / after, unit="times")
    ctx.figure(
        lambda figure: draw(figure, {"dense": curve, "group Lasso": best.curve, "drawn anew": fresh}, best.norms, s),
        alt="Left: validation perplexity per epoch of the dense model, of the one that shrinks, and of one that starts "
        "behind the cut with weights drawn anew and lies far above both. "
        "Right: the length of every unit's weights, sorted, some of them exactly 0.",
        caption="The group Lasso empties units while the model learns. Those of length 0 are then taken out.",
    )


def table(ctx: Context) -> None:
    """The numbers of weights in the published table, against the formula that counts the model."""
    words = 10_000
    tied = {n: replace(DENSE, width=n).weights(words) / 1e6 for n in TABLE}
    apart = {n: count + n * words / 1e6 for n, count in tied.items()}
    ours, others = (all(round(count[n], 1) == said for n, said in TABLE.items()) for count in (tied, apart))
    ctx.row(
        "weights at the widths 830, 726, 517, 403, 328", said=[*TABLE.values()], unit="millions",
        measured=[round(count, 3) for count in tied.values()], criterion="the published figures when rounded to .1",
        holds=ours, scale="computed", control_holds=others,
        control={"what": "an output layer with a table of its own", "measured": [round(v, 3) for v in apart.values()]},
    )  # fmt: skip


def reduced(text: TextSet, s: Setting) -> TextSet:
    """The first `words` training words and an eighth as many to validate and to test, with <unk> for all but the most
    frequent words (they are numbered by frequency)."""
    size, unknown = min(s.vocabulary, len(text.vocabulary)), text.vocabulary.index(UNK)
    train = np.where(text.train < size, text.train, unknown)[: s.words]
    valid, test = (np.where(ids < size, ids, unknown)[: s.words and s.words // 8] for ids in (text.valid, text.test))
    return TextSet(text.name, text.sha256, train, valid, test, text.vocabulary[:size])


def new_model(ctx: Context, text: TextSet, config: Config) -> RHNLanguageModel:
    """The same first weights for every model of this claim."""
    return RHNLanguageModel(len(text.vocabulary), config, rng=ctx.rng("model"))


def width(model: RHNLanguageModel) -> int:
    return model.embedding.weight.shape[1]


@dataclass(frozen=True)
class Shrunk:
    """What one lambda gave: the small model, its proof, the perplexities on the way, the norms of all first units."""

    lam: float
    small: RHNLanguageModel
    certificate: Certificate
    curve: list[float]
    norms: np.ndarray
    wrong: float


def shrunk_model(trainer: Trainer, s: Setting, lam: float) -> Shrunk | None:
    """Train densely, then with the Lasso, take the empty units out, and train what is left: as many epochs in all.

    None if the Lasso emptied no unit.
    """
    model = new_model(trainer.ctx, trainer.text, s.sparse)
    x = inputs(model, trainer.text, s.config)
    curve = trainer.train(f"group Lasso, lambda {lam:g}", model, range(s.lasso_to), lam, s.lasso_from)
    norms = lasso(model, x, 1.0).norms()
    if norms.all():
        return None
    small, certificate = compact(model, x)
    wrong = one_unit_more(small, x[0])
    curve = curve + trainer.train(f"small model, lambda {lam:g}", small, range(s.lasso_to, s.config.epochs))
    return Shrunk(lam, small, certificate, curve, norms, wrong)


def inputs(model: RHNLanguageModel, text: TextSet, c: Config):
    """One batch of validation words and the zero state: what compact runs both networks on."""
    x, _ = next(batch_stream(text.valid, c.batch, c.steps))
    return x, model.zero_states(c.batch)


def lasso(model: RHNLanguageModel, x, lam: float) -> GroupLasso:
    return GroupLasso(groups(model, x, by="unit"), lam=lam, per="sum", gap=1e-4)


@dataclass(frozen=True)
class Trainer:
    """Trains the claim's models. Every epoch is kept where the claim keeps its parts."""

    ctx: Context
    text: TextSet
    config: Config
    bar: Any

    def train(self, name: str, model, epochs: range, lam: float = 0.0, lasso_from: int = 0) -> list[float]:
        """Truncated back-propagation through time, from epoch `lasso_from` on with the Lasso if lam is above 0.

        Returns the validation perplexity after each epoch.
        """
        c, text, path, curve = self.config, self.text, self.ctx.part(name), []
        if path is not None and path.exists():
            try:
                curve = list(checkpoint.load(path, model=model).extra["curve"])
            except DataError:
                pass  # damaged: from the start
        self.bar.set(name)
        self.bar.update(len(curve) * ((len(text.train) // c.batch - 1) // c.steps))
        for epoch in epochs[len(curve) :]:
            optimizer = SGD(model.parameters(), lr=c.rate(epoch), weight_decay=c.weight_decay)
            callbacks = [lasso(model, inputs(model, text, c), lam)] if lam and epoch >= lasso_from else []
            stream = batch_stream(text.train, c.batch, c.steps)
            train_epoch(model, stream, optimizer, clip=c.clip, callbacks=callbacks, progress=self.bar)
            curve.append(perplexity(model, batch_stream(text.valid, c.batch, c.steps)))
            if path is not None:
                checkpoint.save(path, model=model, extra={"curve": curve})
        return curve


def at_random(dense, x, keep: int, rng) -> Any:
    """The dense model with all but `keep` units silenced, which ones at random."""
    model = copy.deepcopy(dense)
    found = units(model, x)
    silence_(model, [found[k] for k in rng.permutation(len(found))[keep:]])
    return model


def one_unit_more(small, ids) -> float:
    """How far the float64 output moves when a unit that was kept is silenced too: the one with the largest weights."""
    whole, less = (copy.deepcopy(small).astype(np.float64).eval() for _ in range(2))
    x = ids, whole.zero_states(ids.shape[1])
    silence_(less, [units(less, x)[np.argmax(lasso(less, x, 1.0).norms())]])
    with no_grad():
        return float(np.abs(whole(*x)[0].data - less(*x)[0].data).max())


def draw(figure, history: dict[str, list[float]], norms: np.ndarray, s: Setting) -> None:
    curves, lengths = figure.subplots(1, 2)
    colours = OKABE_ITO[5], OKABE_ITO[6], OKABE_ITO[0]
    for (name, values), colour, marker in zip(history.items(), colours, "os^", strict=True):
        last = s.config.epochs
        curves.plot(range(last + 1 - len(values), last + 1), values, color=colour, marker=marker, label=name)
    curves.axvspan(s.lasso_from + 0.5, s.lasso_to + 0.5, color=OKABE_ITO[2], alpha=0.25, label="Lasso on")
    curves.set(xlabel="epoch", ylabel="validation perplexity", yscale="log")
    curves.legend()
    lengths.plot(np.sort(norms)[::-1], ".", color=OKABE_ITO[6])
    lengths.set(xlabel="unit, sorted", ylabel="length of its weights when units are taken out")


CLAIM = Claim(
    "iss-rhn", chapter="2", title="A recurrent highway network gets narrower by training and stays as good",
    seconds={"quick": 70, "full": 5400}, run=run,
)  # fmt: skip
