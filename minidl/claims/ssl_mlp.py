"""Claim ssl-mlp: group Lasso removes neurons and input pixels of an MLP while it learns.

Said (Wen et al. 2016, figure 4), for 784 pixels, 500 and 300 neurons and 10 classes, with an error of 1.43 %:

             error    left of 784-500-300    multiply-adds of the layers, % of dense
    MLP 2    1.34 %   469-294-166            35.18, 32.54, 55.33
    MLP 3    1.53 %   434-174-78             19.26, 9.05, 26.00

and the 40 % of MLP 2's pixels that no neuron reads lie at the border. Groups are rows (what a neuron reads) and columns
(what reads it) of the first two layers at once, and columns of the last. A neuron goes when its row is 0 (it says the
same number always, which the next layer's bias takes over) or its column is (nobody reads it); a pixel's column that is
0 stays in the matrix, and stays 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.lab import IMAGES, Lab, NetworkRows, Schedule, Shrunk, taken
from minidl.claims.shrinking import BATCH, mistakes, randomly_emptied, randomly_shrunk, speed_up
from minidl.models import mlp
from minidl.optim import multistep
from minidl.sparsity import Certificate, GroupLasso, groups
from minidl.tensor import Tensor, no_grad

LAYERS = "0", "2", "4"
SIZES = 784, 500, 300, 10
BY = "row+column"


@dataclass(frozen=True)
class Said:
    """A row of the published figure: error in %, pixels and neurons left, multiply-adds of each layer in %."""

    name: str
    error: float
    left: tuple[int, int, int]
    share: tuple[float, float, float]


MLP2 = Said("MLP 2", 1.34, (469, 294, 166), (35.18, 32.54, 55.33))
MLP3 = Said("MLP 3", 1.53, (434, 174, 78), (19.26, 9.05, 26.00))
DENSE_ERROR = 1.43


LIKE = 1, 5e-4
"""Factor of the rate and weight decay of the networks with the Lasso: a trial is compared with its dense like."""


@dataclass(frozen=True)
class Setting:
    """As ssl-lenet's.

    rows: (row of the figure, how many points more than its dense like a trial may err on held-back images to be
    chosen: the one with the fewest multiply-adds is); dense: (factor of the rate, weight decay) of those tried.
    """

    trial: Schedule
    final: Schedule
    rows: tuple[tuple[Said, float], ...]
    lambdas: tuple[float, ...]
    dense: tuple[tuple[float, float], ...]
    held_back: int


_SHORT = Schedule(rate=0.2, lasso=1800, fine_tune=600)
QUICK = Setting(
    trial=_SHORT,
    final=_SHORT,
    rows=((MLP2, 0.5),),
    lambdas=(0.0004, 0.0006),
    dense=((0.5, 5e-4), (1, 5e-4)),
    held_back=2000,
)
FULL = Setting(
    trial=Schedule(rate=0.1, lasso=6000, fine_tune=1500), final=Schedule(rate=0.05, lasso=16_000, fine_tune=8000),
    rows=((MLP2, 0.1), (MLP3, 0.3)), lambdas=(0.0002, 0.0003, 0.0004, 0.0006, 0.0008, 0.001),
    dense=((0.5, 5e-4), (1, 5e-4), (2, 5e-4), (0.5, 1e-4), (1, 1e-4), (2, 1e-4)), held_back=10_000,
)  # fmt: skip


class MlpLab(Lab):
    """784-500-300-10. The rate falls to a tenth at half of all steps, and again at four fifths.

    One proximal step for four steps of SGD costs a quarter, and the noise of four batches has time to cancel before it
    wakes a dead group.
    """

    every = 4
    gain = 2.0

    def fresh(self):
        return mlp(SIZES, rng=self.ctx.rng("first weights"))

    def penalties(self, model, by, lam):
        return [
            GroupLasso(groups(model, by=by, layers=LAYERS[:2]), lam=lam),
            GroupLasso(groups(model, by="column", layers=LAYERS[2:]), lam=lam),
        ]

    def policy(self, rate, plan):
        return multistep(rate, 0.1, at=[plan.steps // 2, 4 * plan.steps // 5])

    @staticmethod
    def scaled(images):
        return images.reshape(len(images), -1) / np.float32(256)


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    digits = ctx.dataset("mnist")
    lab = MlpLab(ctx, digits.split(), s.held_back)
    count = len(s.rows)
    steps = s.trial.lasso + len(s.lambdas) * s.trial.steps + s.final.steps + count * s.final.fine_tune
    if s.trial != s.final:
        steps += len(s.dense) * s.trial.steps + count * s.final.steps
    with ctx.progress(steps, f"{1 + count} networks") as lab.bar:
        dense_trials = {setting: lab.dense(*setting, s.trial) for setting in s.dense}
        errors = [lab.error(model) for model, _ in dense_trials.values()]
        chosen = s.dense[int(np.argmin(errors))]
        like = errors[s.dense.index(LIKE)]
        dense, _ = dense_trials[chosen] if s.trial == s.final else lab.dense(*chosen, s.final)
        trials = [lab.shrunk(BY, lam, s.trial) for lam in s.lambdas]
        ctx.note(
            f"Batch {BATCH}. Chosen on {len(lab.labels):,} held-back training images by trials of {s.trial}: dense: "
            + "; ".join(
                f"rate x {f:g}, weight decay {wd:g}: error {e:.2f} %"
                for (f, wd), e in zip(s.dense, errors, strict=True)
            )
            + ". With the Lasso: " + "; ".join(map(said_of, trials)) + f". The networks of the rows: {s.final}."
        )  # fmt: skip
        idle = lab.without_prox(s.trial)
        test = lab.scaled(digits.test_images), digits.test_labels
        wrong = mistakes(dense, *test)
        ctx.row(
            "test error of the dense network", said=DENSE_ERROR, measured=100 * float(wrong.mean()), unit="%",
            trials=len(s.dense), scale="published" if ctx.full else "reduced",
        )  # fmt: skip
        for said, allowance in s.rows:
            r = lab.shrunk(BY, taken(trials, like + allowance, lambda r: total(share(r.cut))), s.final)
            ctx.note(f"{said.name}: {said_of(r)}, on held-back images ({lab.error(dense):.2f} % of the dense network).")
            if r.certificate:
                ctx.note(f"{said.name}:\n{r.certificate}")
            rows = Rows(ctx, lab, s.final, said, r, dense, idle, len(s.lambdas))
            rows.sizes()
            rows.errors(test, wrong)
            if r.certificate:
                rows.removal(r.certificate)
            figure(ctx, said, r)


def left(model) -> list[int]:
    """Pixels that are read, and neurons with both a row and a column that are not 0."""
    weights = [w.data for w in model.parameters() if w.ndim == 2]
    hidden = [int((a.any(1) & b.any(0)).sum()) for a, b in zip(weights, weights[1:], strict=False)]
    return [int(weights[0].any(0).sum()), *hidden]


def read(r: Shrunk) -> np.ndarray:
    """(28, 28): whether a neuron that is left reads the pixel."""
    return r.cut[0].weight.data.any(0).reshape(28, 28)


def share(model) -> list[float]:
    """The multiply-adds of each layer between what is left, in % of the dense one's."""
    sizes = [*left(model), SIZES[-1]]
    return [100 * a * b / (c * d) for a, b, c, d in zip(sizes, sizes[1:], SIZES, SIZES[1:], strict=False)]


def total(shares) -> float:
    """All layers' multiply-adds together, in % of the dense ones'."""
    macs = [a * b for a, b in zip(SIZES, SIZES[1:], strict=False)]
    return sum(part * m for part, m in zip(shares, macs, strict=True)) / sum(macs)


def said_of(r: Shrunk) -> str:
    pixels, first, second = left(r.cut)
    return f"lambda {r.lam:g}: {pixels}-{first}-{second}, error {r.error:.2f} %"


class Rows(NetworkRows):
    """The rows of the report about one network of the figure."""

    dense_error, places, unit = DENSE_ERROR, 2, "neuron"

    def sizes(self) -> None:
        said, found, idle = self.said, left(self.r.cut), left(self.idle)
        self.row(
            "pixels and neurons left", said=f"784-500-300 become {said.left[0]}-{said.left[1]}-{said.left[2]}",
            measured=found, criterion="at most 600 of the 800 neurons: a quarter is gone", holds=sum(found[1:]) <= 600,
            control={"what": "the same training without the proximal step", "measured": idle},
            control_holds=sum(idle[1:]) <= 600,
        )  # fmt: skip
        shares, none, full = share(self.r.cut), total(share(self.dense)), self.ctx.full
        limit = total(said.share) if full else 60.0
        self.row(
            "multiply-adds of the three layers", said=list(said.share), measured=shares, unit="% of dense",
            criterion=f"all together at most {limit:.1f} %" + ", as published" * full, holds=total(shares) <= limit,
            control={"what": "lambda = 0: the dense network, all together", "measured": none},
            control_holds=none <= limit,
        )  # fmt: skip
        self.pixels()

    def pixels(self) -> None:
        """Digits are fitted into the central 20 x 20 pixels: what lies outside says least."""
        outside = np.ones((28, 28), bool)
        outside[4:24, 4:24] = False
        unread = ~read(self.r)
        if not unread.any():
            self.row("pixels that no neuron reads", said="40 %, at the border", measured=0.0, unit="%")
            return
        random = self.ctx.rng("random pixels", self.said.name).permutation(outside.ravel())[: unread.sum()]
        measured, chance = 100 * float(outside[unread].mean()), 100 * float(random.mean())
        self.row(
            "pixels that no neuron reads", said="40 %, at the border" if self.said is MLP2 else None,
            measured=100 * float(unread.mean()), unit="%",
        )  # fmt: skip
        self.row(
            "of them outside the central 20 x 20 pixels", said="the border", measured=measured, unit="%",
            criterion="at least 75 %", holds=measured >= 75,
            control={"what": "as many pixels chosen at random", "measured": chance}, control_holds=chance >= 75,
        )  # fmt: skip

    def removal(self, proof: Certificate) -> None:
        """What removal costs before anything is trained again, beside chance; the proof; the time."""
        r, lab, x = self.r, self.lab, self.lab.images[:IMAGES]
        dense, pixels, draws = lab.error(self.dense), left(r.cut)[0], []
        for k in range(9):
            rng = self.ctx.rng("at random", self.said.name, k)
            fewer = randomly_emptied(self.dense, {f"{LAYERS[0]}.weight": pixels}, rng)
            draws.append(lab.error(randomly_shrunk(fewer, x, proof.kept, rng)))
        self.row(
            "error when the neurons have just been removed, held-back images", measured=r.before, unit="%",
            criterion=f"at most 1 point above the dense network's {dense:.2f}", holds=r.before <= dense + 1,
            control={"what": "as many random neurons and pixels of the dense network (median of 9)",
                     "measured": float(np.median(draws))},
            control_holds=float(np.median(draws)) <= dense + 1,
        )  # fmt: skip
        self.exactness(proof)
        batch = Tensor(lab.images[:BATCH])
        with no_grad():
            dense_run, small_run = functools.partial(self.dense, batch), functools.partial(r.small, batch)
            ratio, quartiles = speed_up(dense_run, small_run)
            same, own = speed_up(dense_run, dense_run)
        self.row(
            f"speed-up of inference, batch {BATCH}", measured=ratio, interval=quartiles, unit="times",
            criterion="lower quartile above 1.1", holds=quartiles[0] > 1.1,
            control={"what": "the dense network against itself", "measured": same}, control_holds=own[0] > 1.1,
        )  # fmt: skip


def figure(ctx: Context, said: Said, r: Shrunk) -> None:
    pixels, first, second = left(r.cut)
    ctx.figure(
        lambda figure: draw(figure, r),
        alt=f"Left: 28 x 28 pixels. The {pixels} that a neuron reads are grey to black, most of them in the middle; "
        f"the others, most of them at the border, are white. Right: over the steps with the Lasso the rows and columns "
        f"that are not 0 become fewer.",
        caption=f"{said.name}: the input neurons that are left, {pixels} of 784 (dark: how strongly they are read), "
        f"and the groups that are not 0. In the end {first} and {second} neurons are left.",
    )


def draw(figure, r: Shrunk) -> None:
    """The pixels that are read, by the norm of their column; how many groups are not 0."""
    picture, lines = figure.subplots(1, 2, width_ratios=(1, 1.2))
    norms = np.sqrt(np.square(r.cut[0].weight.data).sum(0)).reshape(28, 28)
    shown = np.where(norms > 0, 0.2 * norms.max() + norms, 0)
    picture.imshow(shown, cmap="Greys", vmin=0, vmax=1.2 * norms.max())
    picture.set(xticks=[], yticks=[], title=f"{int((norms > 0).sum())} of 784 pixels are read")
    counts = np.array(r.alive)
    for column, colour, dash, name in (
        (2, OKABE_ITO[3], ":", "pixels (columns of layer 1)"), (0, OKABE_ITO[5], "-", "rows of layer 1"),
        (3, OKABE_ITO[2], "-.", "columns of layer 2"), (1, OKABE_ITO[6], "--", "rows of layer 2"),
        (4, OKABE_ITO[1], (0, (1, 1)), "columns of layer 3"),
    ):  # fmt: skip
        lines.plot(10 * MlpLab.every * (1 + np.arange(len(counts))), counts[:, column], color=colour, linestyle=dash,
                   label=name)  # fmt: skip
    lines.set(xlabel="step", ylabel="not zero", ylim=(0, None))
    lines.legend(fontsize="small")


CLAIM = Claim(
    "ssl-mlp", chapter="1", title="Group Lasso removes neurons and input pixels of an MLP while it learns",
    seconds={"quick": 70, "full": 1700}, run=run,
)  # fmt: skip
