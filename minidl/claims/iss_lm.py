"""`iss-lm`: an LSTM language model loses hidden units by training, and the rest is an ordinary smaller LSTM.

Said: 1,500 + 1,500 hidden units become 373 + 315 at the same perplexity (78.57 against 78.65 on Penn Treebank's test
part), with 7.48 times fewer multiply-adds and 10.59 times less time. (Wen et al. 2018, table 1)

Here the same is done to a small model. A dense one is trained; another starts like it, gets a group Lasso on its
Intrinsic Sparse Structures, loses the hidden units that the Lasso emptied, and goes on as the smaller model it now is,
for as many epochs in all. In full on Penn Treebank with the small published configuration and schedule, beside the
*direct design*: a dense model of the small one's sizes, trained from the start as long. (There: 85.66.)

A control asks whether the weights that are left matter, or only the sizes: drawn anew, they go through the epochs
behind the cut alone. Whether other sizes would do (each layer loses as many units as the other one should) is reported.

How hard lambda has to pull depends on the corpus, so it is steered: half of the units are to be empty when the Lasso
ends. Every epoch is saved when it is done, and depends on nothing but the one before it: a run after Ctrl-C goes on
behind the last one with the same numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import checkpoint
from minidl.callbacks import Callback, Run
from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import said_by, speed_up
from minidl.data.text import UNK, TextSet, batch_stream
from minidl.errors import DataError
from minidl.models.lstm_lm import LSTMLanguageModel, perplexity, perplexity_of_text, train_epoch
from minidl.optim import SGD
from minidl.sparsity import Certificate, GroupLasso, Steer, compact, groups, silence_, units
from minidl.tensor import no_grad


@dataclass(frozen=True)
class Setting:
    """Sizes and schedule. The loss is summed over the steps of a batch and averaged over its rows, as published."""

    hidden: int
    batch: int
    steps: int
    keep_dense: float  # 1 - dropout, each model with its own, as published: the Lasso regularises too
    keep_sparse: float
    lasso_from: int  # epochs: dense at first (units that have learned nothing yet would all go), then with the Lasso,
    lasso_to: int  # then the small model alone
    epochs: int
    slow_after: int  # from this epoch on the learning rate, 1 at first, halves every epoch
    lam: float  # where lambda starts,
    gone: float  # and the share of the units that it is steered to empty, before the last third of the Lasso's steps
    seeds: int
    direct: bool  # whether the direct design is trained too
    words: int | None  # of the training part
    vocabulary: int


QUICK = Setting(
    hidden=128, batch=20, steps=20, keep_dense=0.6, keep_sparse=0.85, lasso_from=2, lasso_to=4, epochs=6, slow_after=4,
    lam=1e-2, gone=0.25, seeds=1, direct=False, words=100_000, vocabulary=2_000,
)  # fmt: skip
FULL = Setting(
    hidden=200, batch=20, steps=20, keep_dense=1.0, keep_sparse=1.0, lasso_from=1, lasso_to=4, epochs=13, slow_after=4,
    lam=1e-3, gone=0.5, seeds=3, direct=True, words=None, vocabulary=10_000,
)  # fmt: skip
LOOK = 20  # steps between two changes of lambda
BASELINE = 121.39, 115.91  # validation and test perplexity of the small dense model, in the published code's tutorial


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    text = reduced(ctx.dataset("text"), s)
    steps = (len(text.train) // s.batch - 1) // s.steps
    epochs = s.epochs * (2 + s.direct) + s.epochs - s.lasso_to  # dense, small, direct design, re-initialised
    with ctx.progress(steps * epochs * s.seeds, "training") as bar:
        seeds = [one_seed(ctx, text, s, seed, bar) for seed in range(s.seeds)]
    found = [seed for seed in seeds if seed.shrunk is not None]
    if not found:
        ctx.row(
            "hidden units removed by training", said="1500 + 1500 become 373 + 315: 0.77", measured=0.0,
            criterion="at least a tenth of the units gone", holds=False,
            control={"what": "the dense model", "measured": seeds[0].dead}, control_holds=False,
        )  # fmt: skip
        return
    sizes(ctx, text, s, found)
    perplexities(ctx, text, s, found)
    of_the_first(ctx, text, s, found[0])


def sizes(ctx: Context, text: TextSet, s: Setting, found: list[Seed]) -> None:
    """How many units training took away."""
    widths = [seed.widths for seed in found]
    gone, dead = (
        [float(v) for v in of] for of in ([1 - np.mean(w) / s.hidden for w in widths], [d.dead for d in found])
    )
    ctx.note(
        f"{len(text.train):,} training words, {len(text.vocabulary):,} different; two layers of {s.hidden} units, "
        f"batch {s.batch}, {s.steps} steps, {s.epochs} epochs, Lasso from {s.lasso_from + 1} to {s.lasso_to} and "
        f"the small model after it; dropout {1 - s.keep_dense:.2f} dense, {1 - s.keep_sparse:.2f} sparse; lambda "
        f"steered from {s.lam:g} to {s.gone:.0%} empty units, at the end "
        f"{', '.join(f'{seed.shrunk.lam:.3g}' for seed in found)}; one training each, none chosen among several; units "
        f"kept: {', '.join(' and '.join(map(str, w)) for w in widths)} of {s.hidden} each."
    )
    ctx.row(
        "hidden units removed by training", said="1500 + 1500 become 373 + 315: 0.77", measured=float(np.mean(gone)),
        unit="of all", interval=interval(gone), seeds=len(found),
        criterion="at least a tenth of the units gone", holds=min(gone) >= 0.1,
        control={"what": "the dense model, trained alike with lambda = 0", "measured": max(dead)},
        control_holds=max(dead) >= 0.1,
    )  # fmt: skip


def perplexities(ctx: Context, text: TextSet, s: Setting, found: list[Seed]) -> None:
    """Dense, small, and direct design, over the seeds."""

    def row(quantity, values, **more):
        ctx.row(quantity, measured=float(np.mean(values)), interval=interval(values), seeds=len(values), **more)

    dense, small = ([seed.test[name] for seed in found] for name in ("dense", "small"))
    ratio = [b / a for a, b in zip(dense, small, strict=True)]
    random = min(seed.random / seed.curves["dense"][-1] for seed in found)
    row(
        "test perplexity, small over dense", ratio, said="78.65 / 78.57 = 1.001",
        criterion="at most 1.03", holds=float(np.mean(ratio)) <= 1.03,
        control={"what": "as many units silenced at random in the dense model (validation part)", "measured": random},
        control_holds=random <= 1.03,
    )  # fmt: skip
    if s.direct:
        direct = [seed.test["direct"] for seed in found]
        ratio = [b / a for a, b in zip(direct, small, strict=True)]
        random = min(seed.random / seed.curves["direct"][-1] for seed in found)
        row(
            "test perplexity, small over the direct design of its sizes", ratio, said="78.65 / 85.66 = 0.918",
            criterion="below 1 with every seed", holds=max(ratio) < 1, contradicted=min(ratio) > 1,
            control={"what": "the dense model with as many units silenced at random (validation part)",
                     "measured": random},
            control_holds=random < 1,
        )  # fmt: skip
        row("test perplexity of the direct design", direct, said="85.66 with 373 + 315 units")
    if text.name == "ptb" and s.words is None:
        of_valid = [seed.curves["dense"][-1] for seed in found]
        for part, values, said in (("validation", of_valid, BASELINE[0]), ("test", dense, BASELINE[1])):
            row(
                f"{part} perplexity of the dense model as published", values, said=said, scale="published",
                criterion=f"within 5 % of {said}", holds=abs(float(np.mean(values)) / said - 1) <= 0.05,
            )  # fmt: skip
    row("test perplexity of the dense model", dense, said="78.57 with 1500 + 1500 units")
    row("test perplexity of the small model", small, said="78.65 with 373 + 315 units")
    last = {name: [seed.curves[name][-1] for seed in found] for name in found[0].curves}
    ratio, anew = ([b / a for a, b in zip(last["dense"], last[k], strict=True)] for k in ("small", "re-initialised"))
    row(
        "validation perplexity at the end, small over dense", ratio,
        criterion="at most 1.03", holds=float(np.mean(ratio)) <= 1.03,
        control={"what": "its weights drawn anew, trained as it is after the cut", "measured": min(anew)},
        control_holds=min(anew) <= 1.03,
    )  # fmt: skip
    cut(ctx, s, found, row)
    for name, values in last.items():
        row(f"validation perplexity of the {name} {'design' if name == 'direct' else 'model'} at the end", values)


def cut(ctx: Context, s: Setting, found: list[Seed], row) -> None:
    """What taking the units out costs at that moment, and what it costs with the layers' numbers exchanged.

    Judged by the same model with its empty units still in: the dense one at its end has been through the falling rates,
    which would be mixed in. The exchange judges nothing: made a control, it met "at most 1.001" too (0.997 in quick
    mode, where 35 units that still worked, the weakest, went out of one layer). So it says nothing for learned sizes.
    """
    ratio = [seed.shrunk.taken for seed in found]
    row(
        "validation perplexity, units taken out over still in", ratio,
        criterion="at most 1.001 with every seed", holds=max(ratio) <= 1.001,
    )  # fmt: skip
    unlike = [seed for seed in found if np.ptp(seed.widths) >= 0.05 * s.hidden * len(seed.widths)]
    if unlike:
        swapped = [seed.shrunk.swapped for seed in unlike]
        row("the same, each layer without as many units, the weakest, as training emptied in the other", swapped)
    if alike := len(found) - len(unlike):
        ctx.note(f"In {alike} of {len(found)} seeds the layers lose about as many units (apart by less than 5 % of "
                 "all): exchanging the two numbers changes next to nothing there, and is left out.")  # fmt: skip
    row("validation perplexity when the units are taken out", [seed.curves["small"][s.lasso_to - 1] for seed in found])


def of_the_first(ctx: Context, text: TextSet, s: Setting, seed: Seed) -> None:
    """Proof, cost, time and picture of one seed's models."""
    best, dense = seed.shrunk, seed.dense
    small, certificate = best.small, best.certificate
    ctx.note(str(certificate))
    ctx.row(
        "float64 difference between the emptied and the small model", measured=certificate.difference,
        criterion=f"at most {certificate.tolerance:.1e}", holds=certificate.difference <= certificate.tolerance,
        control={"what": "one unit more silenced, one that training kept", "measured": best.wrong},
        control_holds=best.wrong <= certificate.tolerance,
    )  # fmt: skip
    ctx.row(
        "multiply-adds, dense over small", said=7.48, measured=certificate.before.macs / certificate.after.macs,
        unit="times",
    )  # fmt: skip
    ctx.note(said_by(text, {"dense": dense, "small": small}, ctx.rng("words said")))
    whole = inference(dense, text)
    with no_grad():
        faster, quartiles = speed_up(whole, inference(small, text))
        same, own = speed_up(whole, inference(copy.deepcopy(dense), text))
    ctx.row(
        "speed-up of inference, batch 10, 30 steps", said="10.59 on 24 cores", measured=faster, unit="times",
        interval=quartiles, criterion="lower quartile above 1.1", holds=quartiles[0] > 1.1,
        control={"what": "the dense model against a copy of itself", "measured": same}, control_holds=own[0] > 1.1,
    )  # fmt: skip
    ctx.figure(
        lambda figure: draw(figure, seed.curves, best.norms, s),
        alt="Left: validation perplexity per epoch of the dense model and of the one that shrinks, which lies above it "
        "while the Lasso acts and comes back to it afterwards; the re-initialised one starts behind the cut. "
        "Right: a strip per LSTM layer with one column per hidden unit, white where training removed the unit.",
        caption="The group Lasso empties hidden units while the model learns. The white ones are then taken out.",
    )


def interval(values: list[float]) -> tuple[float, float] | None:
    """Mean plus and minus two standard errors, over seeds; of one seed nothing is known."""
    if len(values) < 2:
        return None
    mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
    return float(mean - 2 * error), float(mean + 2 * error)


def reduced(text: TextSet, s: Setting) -> TextSet:
    """The first `words` training words and an eighth as many to validate and to test, with <unk> for all but the most
    frequent words (they are numbered by frequency)."""
    size, unknown = min(s.vocabulary, len(text.vocabulary)), text.vocabulary.index(UNK)
    cut = lambda ids, words: np.where(ids < size, ids, unknown)[:words]
    train = cut(text.train, s.words)
    valid, test = (cut(ids, s.words and s.words // 8) for ids in (text.valid, text.test))
    return TextSet(text.name, text.sha256, train, valid, test, text.vocabulary[:size])


@dataclass(frozen=True)
class Shrunk:
    """The small model, its proof, the last lambda, the norms of all first units, and the proof of a wrong model."""

    lam: float
    small: LSTMLanguageModel
    certificate: Certificate
    norms: np.ndarray
    wrong: float
    taken: float  # validation perplexity right after the cut over that before it,
    swapped: float  # and with the layers' numbers of units exchanged


@dataclass(frozen=True)
class Seed:
    """All models of one seed: validation perplexity after each epoch, test perplexity (batch 1, as published)."""

    dense: LSTMLanguageModel
    shrunk: Any  # Shrunk, or None where the Lasso emptied no unit
    curves: dict[str, list[float]]
    test: dict[str, float]
    dead: float  # the share of units that are empty in the dense model
    random: float  # validation perplexity of the dense model with as many units silenced at random

    @property
    def widths(self) -> tuple[int, ...]:
        return self.shrunk.small.sizes[2] if self.shrunk else ()


def one_seed(ctx: Context, text: TextSet, s: Setting, seed: int, bar) -> Seed:
    """Train the dense model, the one that shrinks, the direct design of its sizes, and the re-initialised one."""
    trainer = Trainer(ctx, text, s, seed, bar)
    dense = trainer.new_model(s.keep_dense)
    x = inputs(dense, text, s)
    curves = {"dense": trainer.train("dense model", dense, range(s.epochs))[0]}
    shrunk, curves["small"] = trainer.shrink(x)
    if shrunk is None:
        return Seed(dense, None, curves, {}, dead_units(dense, x), np.inf)
    models = {"dense": dense, "small": shrunk.small}
    if s.direct:
        models["direct"] = trainer.new_model(s.keep_sparse, shrunk.small.sizes[2])
        curves["direct"] = trainer.train("direct design", models["direct"], range(s.epochs))[0]
    anew = trainer.new_model(s.keep_sparse, shrunk.small.sizes[2])
    curves["re-initialised"] = trainer.train("re-initialised", anew, range(s.lasso_to, s.epochs))[0]
    gone, rng = [s.hidden - width for width in shrunk.small.sizes[2]], ctx.rng("random units", seed)
    any_ = lambda norms, n: rng.choice(len(norms), n, replace=False)
    random = ctx.kept(f"seed {seed}, random units", lambda: without(dense, gone, x, trainer.held_back(), any_))
    tested = lambda: {name: perplexity_of_text(model, text.test) for name, model in models.items()}
    test = ctx.kept(f"seed {seed}, test", tested)
    return Seed(dense, shrunk, curves, test, dead_units(dense, x), random)


class Prox(Callback):
    """The penalty's proximal step after each step, for a loss that is summed over time steps."""

    def __init__(self, penalty: GroupLasso):
        self.penalty = penalty

    def after_step(self, run):
        self.penalty.prox_(run.optimizer, per="sum")


class Trainer:
    """The trainings of one seed. Every epoch is kept where the claim keeps its parts."""

    def __init__(self, ctx: Context, text: TextSet, s: Setting, seed: int, bar):
        self.ctx, self.text, self.s, self.seed, self.bar = ctx, text, s, seed, bar
        self.steps = (len(text.train) // s.batch - 1) // s.steps  # of an epoch

    def new_model(self, keep: float, hidden: tuple[int, ...] | None = None) -> LSTMLanguageModel:
        """Models of the same sizes start with the same weights and see the same dropout draws."""
        s = self.s
        return LSTMLanguageModel(
            len(self.text.vocabulary), s.hidden, hidden or (s.hidden, s.hidden), keep=keep, init_scale=0.1,
            rng=self.ctx.rng("model", self.seed),
        )  # fmt: skip

    def shrink(self, x) -> tuple[Shrunk | None, list[float]]:
        """Train densely, then with the Lasso, take the empty units out, and train what is left: as many epochs in all.

        Nothing where the Lasso emptied no unit.
        """
        s, model = self.s, self.new_model(self.s.keep_sparse)
        curve, lam = self.train("group Lasso", model, range(s.lasso_to), s.lasso_from)
        if not dead_units(model, x):
            return None, curve
        norms = GroupLasso(hidden_units(model, x), lam=1.0).norms()
        small, certificate = compact(model, x)
        wrong = one_unit_more(small, x[0])
        exchanged = [s.hidden - width for width in reversed(small.sizes[2])]
        weakest, valid = lambda norms, n: norms.argsort()[:n], self.held_back
        cut = lambda: [perplexity(small, valid()), without(model, exchanged, x, valid(), weakest)]
        taken, swapped = (value / curve[-1] for value in self.ctx.kept(f"seed {self.seed}, cut", cut))
        curve = curve + self.train("small model", small, range(s.lasso_to, s.epochs))[0]
        return Shrunk(lam, small, certificate, norms, wrong, taken, swapped), curve

    def train(
        self, name: str, model: LSTMLanguageModel, epochs: range, lasso_from: int | None = None
    ) -> tuple[list[float], float]:
        """Truncated back-propagation through time; returns the validation perplexity after each epoch, and lambda.

        An epoch with the Lasso starts with nothing but the weights and lambda of the one before, so that one that was
        kept on disk is gone on from with the same numbers.
        """
        s, path, curve, lam = self.s, self.ctx.part(f"seed {self.seed}, {name}"), [], self.s.lam
        if path is not None and path.exists():
            try:
                found = checkpoint.load(path, model=model).extra
                curve, lam = list(found["curve"]), found["lam"]
            except DataError:
                pass  # damaged: from the start
        self.bar.set(name if s.seeds == 1 else f"seed {self.seed}, {name}")
        self.bar.update(len(curve) * self.steps)
        for epoch in epochs[len(curve) :]:
            optimizer, callbacks, penalty = SGD(model.parameters(), lr=self.rate(epoch)), [], None
            if lasso_from is not None and epoch >= lasso_from:
                penalty = GroupLasso(hidden_units(model, inputs(model, self.text, s)), lam=lam, per="sum", gap=1e-4)
                reached = 2 * self.steps * (s.lasso_to - lasso_from) // 3  # steps of the Lasso until `gone` is there
                left = max(LOOK, reached - self.steps * (epoch - lasso_from))
                steer = Steer(penalty, s.gone, over=left, every=LOOK)
                steer.on_start(Run(model, optimizer))
                callbacks = [Prox(penalty), steer]
            train_epoch(
                model, batch_stream(self.text.train, s.batch, s.steps), optimizer, clip=5.0, callbacks=callbacks,
                progress=self.bar,
            )  # fmt: skip
            lam = penalty.lam if penalty is not None else lam
            curve.append(perplexity(model, self.held_back()))
            if path is not None:
                checkpoint.save(path, model=model, extra={"curve": curve, "lam": lam})
        return curve, lam

    def held_back(self):
        return batch_stream(self.text.valid, self.s.batch, self.s.steps)

    def rate(self, epoch: int) -> float:
        """The learning rate: 1, and from the epoch behind `slow_after` on half of the one before."""
        return 0.5 ** max(epoch + 1 - self.s.slow_after, 0)


def inputs(model: LSTMLanguageModel, text: TextSet, s: Setting):
    """One batch of validation words and the zero states: what compact runs both networks on."""
    x, _ = next(batch_stream(text.valid, s.batch, s.steps))
    return x, model.zero_states(s.batch)


def hidden_units(model: LSTMLanguageModel, x):
    """The groups of the paper: hidden units only. The embedding's dimensions are units too, but the paper left them."""
    return groups(model, x, by="unit", layers=[f"layers.{k}" for k in range(len(model.layers))])


def dead_units(model, x) -> float:
    """The fraction of hidden units whose weights are all exactly 0."""
    norms = GroupLasso(hidden_units(model, x), lam=1.0).norms()
    return float(np.mean(norms == 0))


def without(model, gone: list[int], x, stream, which) -> float:
    """Perplexity of the model when gone[k] units of layer k are silenced: those that which(norms, gone[k]) names."""
    model, chosen = copy.deepcopy(model), []
    hidden = [u for u in units(model, x) if u.layer.startswith("layers")]
    norms = GroupLasso(hidden_units(model, x), lam=1.0).norms()
    for k, count in enumerate(gone):
        own = [i for i, u in enumerate(hidden) if u.layer == f"layers.{k}"]
        chosen += [hidden[own[i]] for i in which(norms[own], count)]
    silence_(model, chosen)
    return perplexity(model, stream)


def one_unit_more(small, ids) -> float:
    """How far the float64 output moves when a unit that was kept is silenced too: the one with the largest weights."""
    whole, less = (copy.deepcopy(small).astype(np.float64).eval() for _ in range(2))
    states = whole.zero_states(ids.shape[1])
    hidden = [u for u in units(less, (ids, states)) if u.layer.startswith("layers")]
    silence_(less, [hidden[np.argmax(GroupLasso(hidden_units(less, (ids, states)), lam=1.0).norms())]])
    with no_grad():
        return float(np.abs(whole(ids, states)[0].data - less(ids, states)[0].data).max())


def inference(model: LSTMLanguageModel, text: TextSet):
    """A function that runs the model once: batch 10, 30 steps, as the paper times it."""
    x, states = next(batch_stream(text.valid, 10, 30))[0], model.eval().zero_states(10)
    return lambda: model(x, states)


def draw(figure, history: dict[str, list[float]], norms: np.ndarray, s: Setting) -> None:
    curves, strips = figure.subplots(1, 2)
    for (name, values), colour, marker in zip(history.items(), (*OKABE_ITO[5:], OKABE_ITO[0]), "os^x", strict=False):
        curves.plot(range(s.epochs - len(values) + 1, s.epochs + 1), values, color=colour, marker=marker, label=name)
    curves.axvspan(s.lasso_from + 0.5, s.lasso_to + 0.5, color=OKABE_ITO[2], alpha=0.25, label="Lasso on")
    curves.set(xlabel="epoch", ylabel="validation perplexity", yscale="log")
    curves.legend()
    kept = (norms.reshape(-1, s.hidden) > 0).astype(float)
    strips.imshow(kept, cmap="Greys", vmin=0, vmax=1.25, aspect="auto", interpolation="nearest")
    strips.set(xlabel="hidden unit (white: removed)", yticks=range(len(kept)))
    strips.set_yticklabels([f"LSTM {k + 1}\n{int(row.sum())} of {row.size}" for k, row in enumerate(kept)])


CLAIM = Claim(
    "iss-lm", chapter="2", title="An LSTM language model loses hidden units by training and stays as good",
    seconds={"quick": 80, "full": 18500}, run=run,
)  # fmt: skip
