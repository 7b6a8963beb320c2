"""`iss-bidaf`: a network that answers questions loses units of its LSTMs by training and stays as good.

Said: six LSTMs of 100 units each become 87, 81, 87, 92, 74, 96 units, or 51, 33, 42, 58, 37, 26, or fewer; EM falls
from 67.98 to 67.36 and 66.32, F1 from 77.85 to 77.16 and 76.22; 2.69 million weights become 2.29 to 0.88, and a
question takes 5.83 to 2.74 ms instead of 6.20. (Wen et al. 2018, table 4, on SQuAD)

The weights are counted by formula, and the LSTMs are timed at these sizes. EM and F1 are those of a small BiDAF that is
trained on real questions, each with the sentence that holds its answer instead of the whole paragraph, and on gaps in
the same sentences (reading.py says why): a much easier task, so they compare with nothing but each other. From the same
half-trained network one goes on densely. The other gets a group Lasso on the units of the six LSTMs, whose lambda is
steered until a part of them is empty, loses these, and goes on as the smaller network it now is: as many steps in all,
with the same questions.

Questions to test on are of titles that no network has seen; those of other titles again served to choose settings.
Where there are no questions, all are gaps in Python's own help text, and the rows name that.
"""

from __future__ import annotations

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.reading import Data, Setting, Trained, Trainer, at_random, judged, prepared
from minidl.claims.shrinking import speed_up
from minidl.data.fetch import digest
from minidl.data.squad import gap, glove_file, scores
from minidl.models.bidaf import LSTMS, BiDAF, weights_of
from minidl.tensor import Tensor, no_grad

TABLE = (  # units of LSTMS; millions of weights and milliseconds as published
    ((100,) * 6, 2.69, 6.20),
    ((87, 81, 87, 92, 74, 96), 2.29, 5.83),
    ((51, 33, 42, 58, 37, 26), 1.17, 4.46),
    ((20, 33, 40, 38, 31, 16), 0.95, 3.59),
    ((23, 22, 35, 35, 25, 14), 0.88, 2.74),
)
STEPS = 150
"""Words of the context that is timed; the published length is not known."""
CHOSEN = 9
"""Settings of quick mode that its author had looked at, on held-back questions."""
REMOVED, COST, WORSE, EXACT = (
    "units removed by training",
    "loss on test questions and gaps, small network over dense one",
    "F1 on test questions and gaps, dense network less small one",
    "float64 difference between the emptied and the small network",
)

QUICK = Setting(
    hidden=12, units=16, batch=32, longest=30, questions=8_000, words=1_500, keep=0.9, dense=600, lasso=240, after=300,
    rate=6e-3, lasso_rate=0.05, lam=2e-2, gone=0.4,
)  # fmt: skip
FULL = Setting(
    hidden=16, units=32, batch=32, longest=50, questions=90_000, words=10_000, keep=0.8, dense=1_500, lasso=600,
    after=400, rate=4e-3, lasso_rate=0.05, lam=2e-2, gone=1 / 2,
)  # fmt: skip


def run(ctx: Context) -> None:
    for_counts(ctx)
    for_time(ctx)
    found = ctx.dataset("squad")
    s, vectors = FULL if ctx.full else QUICK, glove_file(ctx.data_dir)
    data = prepared(found, s, vectors)
    if vectors is not None and data.vectors is not None:
        ctx.datasets["glove"] = vectors.name, digest(data.vectors.tobytes())
    with ctx.progress(s.steps + s.lasso + 2 * s.after, "training") as bar:
        trainer = Trainer(ctx, data, s, bar)
        t = trainer.all()
    units_rows(ctx, data, s, t)
    if t.certificate is None:
        return
    score_rows(ctx, data, s, t, trainer.x)
    ctx.row(
        EXACT, measured=t.certificate.difference,
        criterion=f"at most {t.certificate.tolerance:.1e}", holds=t.certificate.difference <= t.certificate.tolerance,
        control={"what": "one unit of g2 more silenced, one that training kept", "measured": t.wrong},
        control_holds=t.wrong <= t.certificate.tolerance, scale="computed",
    )  # fmt: skip
    ctx.row(
        "multiply-adds, dense over small", measured=t.certificate.macs_before / t.certificate.macs_after, unit="times"
    )
    ctx.figure(
        lambda figure: draw(figure, t.norms, s),
        alt="A strip for each of the six LSTMs with a column for each unit, white where training removed it.",
        caption="The group Lasso empties units of BiDAF's modelling and output LSTMs. The white ones are taken out.",
    )


# -- the published table -----------------------------------------------------------------------------------------------
def for_counts(ctx: Context) -> None:
    """Weights of the table's rows. What is no LSTM or score is taken from its first row: 2.69 M less 2,164,402."""
    rest = 2.69e6 - weights_of(TABLE[0][0])
    for widths, said, _ in TABLE[1:]:
        millions, shrunk = ((rest + weights_of(widths, a1i=rows)) / 1e6 for rows in (200, None))
        agrees = lambda m, said=said: said - 0.005 <= m < said + 0.01
        ctx.row(
            f"weights with {', '.join(map(str, widths))} units", said=said, unit="million", measured=round(millions, 4),
            criterion="the published figure, rounded or cut off", holds=agrees(millions), scale="computed",
            control={"what": "with as many rows for a1i as g1 has units", "measured": round(shrunk, 4)},
            control_holds=agrees(shrunk),
        )  # fmt: skip
    ctx.note(
        "The published counts keep 200 rows of the output LSTMs for a1i, the start's mean of g1, whatever is left of "
        "g1. In a network that was really shrunk, a1i has as many numbers as g1: those counts are the controls."
    )


def for_time(ctx: Context) -> None:
    """The LSTM stack at the table's sizes, batch 1: g0, g1, g2 on random numbers."""
    first = stack(TABLE[0][0], ctx.rng("stack"))
    for widths, _, said in TABLE[1:]:
        faster, quartiles = speed_up(first, stack(widths, ctx.rng("stack")), rounds=7)
        control: dict = {}
        if widths == TABLE[-1][0]:
            same, own = speed_up(first, stack(TABLE[0][0], ctx.rng("stack")), rounds=7)
            control = dict(
                criterion="lower quartile above 1.2", holds=quartiles[0] > 1.2, control_holds=own[0] > 1.2,
                control={"what": "the stack of 100 units against another one", "measured": same},
            )  # fmt: skip
        ctx.row(
            f"speed-up of the LSTMs with {', '.join(map(str, widths))} units, batch 1, {STEPS} words",
            said=f"6.20 / {said} ms = {6.20 / said:.2f}", measured=faster, interval=quartiles, unit="times",
            scale="published", **control,
        )  # fmt: skip


def stack(widths, rng):
    """A function that runs g0, g1 and g2 of a BiDAF with these widths; what attention says is random."""
    model = BiDAF(2, 2, rng=rng, widths=widths).eval()
    p0, ids = Tensor(rng.standard_normal((STEPS, 1, 800)).astype(np.float32)), np.ones((STEPS, 1), int)

    def run_once():
        with no_grad():
            g1 = model.g1(model.g0(p0, ids), ids)
            return model.g2(np.concatenate([p0, g1, g1, g1], axis=2), ids)

    return run_once


# -- rows --------------------------------------------------------------------------------------------------------------
def units_rows(ctx: Context, data: Data, s: Setting, t: Trained) -> None:
    """How many units training took away, and how they were taken."""
    start = "no GloVe" if data.vectors is None else f"{data.known:,} of them starting with GloVe's vectors"
    ctx.note(
        f"{len(data.train):,} questions to learn from, {len(data.held_back):,} held back, {len(data.test):,} for "
        f"tests, each with the sentence of at most {s.longest} words that holds its answer; half of a batch are gaps "
        f"in such sentences; {len(data.vocabulary.words):,} words, {start}; the contextual LSTM of {s.hidden} units, "
        f"the others of {s.units}, dropout {1 - s.keep:.1f}, batch {s.batch}; {s.dense:,} steps that both networks "
        f"share, {s.lasso:,} with the Lasso, {s.after:,} after it; lambda steered from {s.lam:g} to {s.gone:.0%} empty "
        f"units, at the end {t.lam:.3g}. One training each, none chosen among several here; quick mode's sizes, steps, "
        f"rates and share were chosen by hand among {CHOSEN} settings on the held-back questions."
    )
    gone = 1 - sum(t.cut.widths) / (6 * s.units) if t.cut else 0.0
    ctx.row(
        REMOVED, said="600 become 517, 247, 178 or 154: 0.14 to 0.74", measured=gone, unit="of all",
        criterion="at least a quarter", holds=gone >= 0.25,
        control={"what": "the dense network, trained alike with lambda = 0", "measured": t.dead},
        control_holds=t.dead >= 0.25,
    )  # fmt: skip
    if t.cut and t.certificate:
        ctx.note(str(t.certificate))
        for name, kept, *said in zip(LSTMS, t.cut.widths, *(widths for widths, _, _ in TABLE[1:]), strict=True):
            paper = f"{', '.join(map(str, said))} of 100"
            ctx.row(f"units kept in {name}", said=paper, measured=kept, unit=f"of {s.units}")


def score_rows(ctx: Context, data: Data, s: Setting, t: Trained, x) -> None:
    """Loss, EM and F1 on the test questions and as many gaps in their sentences."""
    rng, n = ctx.rng("gaps in the test sentences"), len(data.test)
    asked = data.test + [gap(q, rng) for q in data.test]

    def measured() -> dict:
        models = {
            "dense": t.dense, "small": t.small, "anew": t.anew, "then": t.then, "cut": t.cut, "swapped": t.swapped,
        }  # fmt: skip
        chance = [at_random(t.dense, t.cut.widths, x, ctx.rng("random", k)) for k in range(s.draws)]
        found = [judged(m, asked, data.vocabulary) for m in (*models.values(), *chance)]
        return {"each": [j.each for j in found], "loss": [j.loss for j in found]}

    found = ctx.kept("test", measured)
    dense, small, anew, then, cut, swapped, *_ = found["loss"]
    each = np.stack(found["each"])  # (networks, questions, 2)
    less = each[0, :, 1] - each[:, :, 1]  # points of F1
    worse, error = float(less[1].mean()), float(less[1].std() / len(asked) ** 0.5)
    by_chance = float(np.median(found["loss"][6:]))
    silenced = f"as many units of each LSTM of the dense network silenced at random (median of {s.draws})"
    ctx.row(
        COST, measured=small / dense, criterion="at most 1.05", holds=small <= 1.05 * dense,
        control={"what": silenced, "measured": by_chance / dense}, control_holds=by_chance <= 1.05 * dense,
    )  # fmt: skip
    ctx.row(
        WORSE, said="77.85 - 77.16 = 0.69 to 77.85 - 74.99 = 2.86", measured=worse, unit="points",
        interval=(worse - 2 * error, worse + 2 * error), criterion="at most 3", holds=worse <= 3,
        contradicted=worse - 2 * error > 3, control_holds=float(less[2].mean()) <= 3,
        control={"what": "a network of its sizes drawn anew, trained as long as it was fine-tuned",
                 "measured": float(less[2].mean())},
    )  # fmt: skip
    ctx.row(f"the same difference in F1, {silenced}", measured=float(np.median(less[6:].mean(1))), unit="points")
    ctx.row("loss of a network of its sizes drawn anew and trained as long as it was fine-tuned, over the dense one's",
            measured=anew / dense)  # fmt: skip
    ctx.row("loss when the units are taken out, before fine-tuning, over the dense network's then", measured=cut / then)
    ctx.row("the same, g0 without as many units, the weakest, as training emptied in g2, and g2 as many as in g0",
            measured=swapped / then)  # fmt: skip
    for k, (name, *paper) in enumerate((("dense", 67.98, 77.85), ("small", 67.36, 77.16))):
        for m, (score, said) in enumerate(zip(("EM", "F1"), paper, strict=True)):
            ctx.row(
                f"{score} of the {name} network on questions", said=f"{said} (SQuAD, paragraphs)",
                measured=float(each[k, :n, m].mean()), unit="%",
            )  # fmt: skip
        ctx.row(f"F1 of the {name} network on gaps", measured=float(each[k, n:, 1].mean()), unit="%")
    whole = scores([q.said(0, len(q.words) - 1) for q in data.test], data.test).mean(0)
    ctx.row("F1 of the whole sentence as the answer to a question", measured=float(whole[1]), unit="%")


def draw(figure, norms: np.ndarray, s: Setting) -> None:
    ax = figure.subplots()
    kept = (norms.reshape(6, s.units) > 0).astype(float)
    ax.imshow(kept, cmap="Greys", vmin=0, vmax=1.25, aspect="auto", interpolation="nearest")
    ax.set(xlabel="unit (white: removed)", yticks=range(6))
    ax.set_yticklabels([f"{name}\n{int(row.sum())} of {row.size}" for name, row in zip(LSTMS, kept, strict=True)])
    ax.hlines(np.arange(5) + 0.5, -0.5, s.units - 0.5, color=OKABE_ITO[5], linewidth=0.8)


CLAIM = Claim(
    "iss-bidaf", chapter="2", title="A network that answers questions loses units of its LSTMs and stays as good",
    seconds={"quick": 100, "full": 480}, run=run,
)  # fmt: skip
