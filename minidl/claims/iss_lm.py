"""`iss-lm`: an LSTM language model loses hidden units by training, and the rest is an ordinary smaller LSTM.

Said: 1,500 + 1,500 hidden units become 373 + 315 at the same perplexity (78.57 against 78.65 on Penn Treebank's test
part), with 7.48 times fewer multiply-adds and 10.59 times less time. (Wen et al. 2018, table 1)

Here the same is done to a small model. A dense one is trained; another starts like it, gets a group Lasso on its
Intrinsic Sparse Structures, loses the hidden units that the Lasso emptied, and goes on as the smaller model it now is,
for as many epochs in all.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.data.text import UNK, TextSet, batch_stream
from minidl.layers import cross_entropy
from minidl.models.lstm_lm import LSTMLanguageModel, detach, perplexity
from minidl.optim import SGD, clip_grad_norm
from minidl.sparsity import Certificate, GroupLasso, compact, groups, silence_, units
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
    lambdas: tuple[float, ...]  # tried on the validation part
    words: int | None  # of the training part
    vocabulary: int


QUICK = Setting(
    hidden=128, batch=20, steps=20, keep_dense=0.6, keep_sparse=0.85, lasso_from=2, lasso_to=4, epochs=6, slow_after=4,
    lambdas=(2e-2,), words=100_000, vocabulary=2_000,
)  # fmt: skip
FULL = Setting(
    hidden=200, batch=20, steps=20, keep_dense=0.7, keep_sparse=0.8, lasso_from=3, lasso_to=9, epochs=13, slow_after=6,
    lambdas=(1e-3, 3e-3), words=None, vocabulary=10_000,
)  # fmt: skip


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    text = reduced(ctx.dataset("text"), s)
    held_back = [*batch_stream(text.valid, s.batch, s.steps)]
    steps, trials = (len(text.train) // s.batch - 1) // s.steps, len(s.lambdas)
    with ctx.progress(steps * s.epochs * (1 + trials), "training") as bar:
        bar.set("dense model")
        dense = new_model(ctx, text, s, s.keep_dense)
        x = inputs(dense, text, s)
        curve = train(dense, text, s, bar, range(s.epochs))
        runs = [run for lam in s.lambdas if (run := shrunk_model(ctx, text, s, lam, bar)) is not None]
    if not runs:
        ctx.row(
            "hidden units removed by training", said="1500 + 1500 become 373 + 315: 0.77", measured=0.0, trials=trials,
            criterion="at least a tenth of the units gone", holds=False,
            control={"what": "the dense model", "measured": dead_units(dense, x)}, control_holds=False,
        )  # fmt: skip
        return
    best = min(runs, key=lambda run: run.curve[-1])
    small, certificate, widths = best.small, best.certificate, [layer.weight_hh.shape[1] for layer in best.small.layers]
    random = remove_at_random(dense, small, x, held_back, ctx.rng("random units")) / curve[-1]
    gone, gone_dense = 1 - sum(widths) / (s.hidden * len(widths)), dead_units(dense, x)
    test_dense, test_small = (perplexity(m, batch_stream(text.test, s.batch, s.steps)) for m in (dense, small))
    ctx.note(
        f"{len(text.train):,} training words, {len(text.vocabulary):,} different; two layers of {s.hidden} units, "
        f"batch {s.batch}, {s.steps} steps, {s.epochs} epochs, Lasso from {s.lasso_from + 1} to {s.lasso_to} and "
        f"the small model after it; dropout {1 - s.keep_dense:.2f} dense, {1 - s.keep_sparse:.2f} sparse; lambda "
        f"{best.lam:g}, {trials} tried here on the validation part (sizes and dropout were chosen there before, with 4 "
        f"settings of the dense and 6 of the sparse model); units kept: {' and '.join(map(str, widths))} of "
        f"{s.hidden} each."
    )
    ctx.note(str(certificate))
    ctx.row(
        "hidden units removed by training", said="1500 + 1500 become 373 + 315: 0.77", measured=gone, unit="of all",
        criterion="at least a tenth of the units gone", holds=gone >= 0.1, trials=trials,
        control={"what": "the dense model, trained alike with lambda = 0", "measured": gone_dense},
        control_holds=gone_dense >= 0.1,
    )  # fmt: skip
    ctx.row(
        "test perplexity, small over dense", said="78.65 / 78.57 = 1.001", measured=test_small / test_dense,
        criterion="at most 1.03", holds=test_small <= 1.03 * test_dense, trials=trials,
        control={"what": "as many units silenced at random in the dense model (validation part)", "measured": random},
        control_holds=random <= 1.03,
    )  # fmt: skip
    ctx.row("test perplexity of the dense model", said="78.57 with 1500 + 1500 units", measured=test_dense)
    ctx.row("test perplexity of the small model", said="78.65 with 373 + 315 units", measured=test_small)
    ctx.row("validation perplexity when the units are taken out", measured=best.curve[s.lasso_to - 1])
    ctx.row("validation perplexity of the small model at the end", measured=best.curve[-1])
    ctx.row("validation perplexity of the dense model at the end", measured=curve[-1])
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
    faster, quartiles = speed_up(dense, small, text)
    same, own = speed_up(dense, copy.deepcopy(dense), text)
    ctx.row(
        "speed-up of inference, batch 10, 30 steps", said="10.59 on 24 cores", measured=faster, unit="times",
        interval=quartiles, criterion="lower quartile above 1.1", holds=quartiles[0] > 1.1,
        control={"what": "the dense model against a copy of itself", "measured": same}, control_holds=own[0] > 1.1,
    )  # fmt: skip
    ctx.figure(
        lambda figure: draw(figure, {"dense": curve, "group Lasso": best.curve}, best.norms, s),
        alt="Left: validation perplexity per epoch of the dense model and of the one that shrinks, which lies above it "
        "while the Lasso acts and comes back to it afterwards. "
        "Right: a strip per LSTM layer with one column per hidden unit, white where training removed the unit.",
        caption="The group Lasso empties hidden units while the model learns. The white ones are then taken out.",
    )


def reduced(text: TextSet, s: Setting) -> TextSet:
    """The first `words` training words and an eighth as many to validate and to test, with <unk> for all but the most
    frequent words (they are numbered by frequency)."""
    size, unknown = min(s.vocabulary, len(text.vocabulary)), text.vocabulary.index(UNK)
    cut = lambda ids, words: np.where(ids < size, ids, unknown)[:words]
    train = cut(text.train, s.words)
    valid, test = (cut(ids, s.words and s.words // 8) for ids in (text.valid, text.test))
    return TextSet(text.name, text.sha256, train, valid, test, text.vocabulary[:size])


def new_model(ctx: Context, text: TextSet, s: Setting, keep: float) -> LSTMLanguageModel:
    """The same first weights and the same dropout draws for every model of this claim."""
    return LSTMLanguageModel(
        len(text.vocabulary), s.hidden, (s.hidden, s.hidden), keep=keep, init_scale=0.1, rng=ctx.rng("model")
    )


@dataclass(frozen=True)
class Shrunk:
    """What one lambda gave: the small model, its proof, the perplexities on the way, the norms of all first units."""

    lam: float
    small: LSTMLanguageModel
    certificate: Certificate
    curve: list[float]
    norms: np.ndarray
    wrong: float


def shrunk_model(ctx: Context, text: TextSet, s: Setting, lam: float, bar) -> Shrunk | None:
    """Train densely, then with the Lasso, take the empty units out, and train what is left: as many epochs in all.

    None if the Lasso emptied no unit.
    """
    bar.set(f"group Lasso, lambda {lam:g}")
    model = new_model(ctx, text, s, s.keep_sparse)
    x = inputs(model, text, s)
    curve = train(model, text, s, bar, range(s.lasso_from))
    penalty = GroupLasso(hidden_units(model, x), lam=lam, per="sum", gap=1e-4)
    curve += train(model, text, s, bar, range(s.lasso_from, s.lasso_to), penalty)
    if not dead_units(model, x):
        return None
    small, certificate = compact(model, x)
    wrong = one_unit_more(small, x[0])
    bar.set("the small model")
    curve += train(small, text, s, bar, range(s.lasso_to, s.epochs))
    return Shrunk(lam, small, certificate, curve, penalty.norms(), wrong)


def inputs(model: LSTMLanguageModel, text: TextSet, s: Setting):
    """One batch of validation words and the zero states: what compact runs both networks on."""
    x, _ = next(batch_stream(text.valid, s.batch, s.steps))
    return x, model.zero_states(s.batch)


def hidden_units(model: LSTMLanguageModel, x):
    """The groups of the paper: hidden units only. The embedding's dimensions are units too, but the paper left them."""
    return groups(model, x, by="unit", layers=[f"layers.{k}" for k in range(len(model.layers))])


def train(model, text: TextSet, s: Setting, bar, epochs: range, penalty: GroupLasso | None = None) -> list[float]:
    """Truncated back-propagation through time; returns the validation perplexity after each epoch."""
    optimizer = SGD(model.parameters(), lr=1.0)
    curve = []
    for epoch in epochs:
        optimizer.lr = 0.5 ** max(epoch + 1 - s.slow_after, 0)
        states = model.zero_states(s.batch)
        for x, y in batch_stream(text.train, s.batch, s.steps):
            logits, states = model(x, detach(states))
            loss = cross_entropy(logits, y.ravel(), reduction="sum") * (1 / s.batch)
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm(optimizer.params, 5.0)
            optimizer.step()
            if penalty is not None:
                penalty.prox_(optimizer, per="sum")
            bar.update()
        curve.append(perplexity(model, batch_stream(text.valid, s.batch, s.steps)))
    return curve


def dead_units(model, x) -> float:
    """The fraction of hidden units whose weights are all exactly 0."""
    norms = GroupLasso(hidden_units(model, x), lam=1.0).norms()
    return float(np.mean(norms == 0))


def remove_at_random(dense, small, x, stream, rng) -> float:
    """Perplexity of the dense model when random units are silenced, as many in each layer as training removed."""
    model, chosen = copy.deepcopy(dense), []
    for k, layer in enumerate(small.layers):
        own = [u for u in units(model, x) if u.layer == f"layers.{k}"]
        gone = len(own) - layer.weight_hh.shape[1]
        chosen += [own[i] for i in rng.choice(len(own), gone, replace=False)]
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


def speed_up(first, second, text: TextSet, *, rounds: int = 15) -> tuple[float, tuple[float, float]]:
    """time(first) / time(second) of inference, batch 10, 30 steps: median and quartiles of alternating runs."""
    x, _ = next(batch_stream(text.valid, 10, 30))
    ratios = []
    with no_grad():
        for turn in range(rounds + 2):
            seconds = []
            for model in (first, second):
                states = model.eval().zero_states(10)
                start = time.perf_counter()
                model(x, states)
                seconds.append(time.perf_counter() - start)
            if turn >= 2:  # the first two warm caches and compile
                ratios.append(seconds[0] / seconds[1])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(middle), (float(low), float(high))


def draw(figure, history: dict[str, list[float]], norms: np.ndarray, s: Setting) -> None:
    curves, strips = figure.subplots(1, 2)
    for (name, values), colour, marker in zip(history.items(), (OKABE_ITO[5], OKABE_ITO[6]), "os", strict=True):
        curves.plot(range(1, len(values) + 1), values, color=colour, marker=marker, label=name)
    curves.axvspan(s.lasso_from + 0.5, s.lasso_to + 0.5, color=OKABE_ITO[2], alpha=0.25, label="Lasso on")
    curves.set(xlabel="epoch", ylabel="validation perplexity", yscale="log")
    curves.legend()
    kept = (norms.reshape(-1, s.hidden) > 0).astype(float)
    strips.imshow(kept, cmap="Greys", vmin=0, vmax=1.25, aspect="auto", interpolation="nearest")
    strips.set(xlabel="hidden unit (white: removed)", yticks=range(len(kept)))
    strips.set_yticklabels([f"LSTM {k + 1}\n{int(row.sum())} of {row.size}" for k, row in enumerate(kept)])


CLAIM = Claim(
    "iss-lm", chapter="2", title="An LSTM language model loses hidden units by training and stays as good",
    seconds={"quick": 70, "full": 5400}, run=run,
)  # fmt: skip
