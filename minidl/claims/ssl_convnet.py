"""Claim ssl-convnet: rows and columns of zeros make the layers of Caffe's cifar10_full faster at the same error.

Said (Wen et al. 2016, Table 3), for conv1, conv2, conv3 on CIFAR-10:

                  error    zero rows, %        zero columns, %     speed-up of the product
    ConvNet 1     17.9 %   12.5    0     0     0     0     0       1     1     1
    ConvNet 2     17.9 %   50.0  28.1   1.6    0   59.3  35.1      1.43  3.05  1.57
    ConvNet 3     16.9 %   31.3    0    1.6    0   42.8   9.8      1.25  2.01  1.18

A row of a layer's matrix is a filter, a column the weights that all filters have at one place (channel, row, column).
As published, a network is trained first. From there one goes on with the group Lasso on rows and columns, which
overlap, and then without it, what is 0 frozen; the dense one for as many steps, at as many rates as lambdas are tried.
Both are chosen on pictures that are held back. Reduced: 20,000 training images at most, a few epochs where the paper
has 700; quick mode has images of 16 x 16 pixels.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import caffe_sgd, mistakes, product, speed_up
from minidl.claims.trainings import Every, Pictures, chosen_by_hand, exact, not_worse, part, pictures, train
from minidl.errors import InputError
from minidl.models.convnet import ConvNet, convnet
from minidl.sparsity import GroupLasso, NothingToRemove, compact, groups
from minidl.sparsity.freeze import freeze_zeros
from minidl.train import predict

CONVS = "conv1", "conv2", "conv3"
SAID_ROWS, SAID_COLUMNS, SAID_FASTER = [50.0, 28.1, 1.6], [0, 59.3, 35.1], [1.43, 3.05, 1.57]


@dataclass(frozen=True)
class Setting:
    """base: steps of the network that both start from; then `lasso` at the rates, and fine_tune at a tenth of them.

    rates: tried for the dense network; with the Lasso it is .001, as published.
    """

    size: int
    batch: int
    base: int
    lasso: int
    fine_tune: int
    rates: tuple[float, ...]
    lambdas: tuple[float, ...]
    images: int | None
    held_back: int
    test: int | None

    more = property(lambda self: self.lasso + self.fine_tune)


QUICK = Setting(
    size=16, batch=50, base=500, lasso=300, fine_tune=200, rates=(1e-3,), lambdas=(0.025,), images=4000, held_back=500,
    test=1000,
)  # fmt: skip
FULL = Setting(
    size=32, batch=100, base=2000, lasso=600, fine_tune=200, rates=(1e-3, 5e-4, 2e-3), lambdas=(0.015, 0.03, 0.06),
    images=None, held_back=2000, test=None,
)  # fmt: skip
RATE = 1e-3
ALLOWED = 1.0
"""So many points more errors count as `the same`."""


def matrix(model: ConvNet, name: str) -> np.ndarray:
    weight = getattr(model, name).weight.data
    return weight.reshape(len(weight), -1)


def zeros(model: ConvNet) -> tuple[list[float], list[float]]:
    """Percent of the rows, and of the columns, that are 0 in each convolution."""
    found = [matrix(model, name) for name in CONVS]
    return tuple([100 * float((~m.any(axis)).mean()) for m in found] for axis in (1, 0))  # type: ignore[return-value]


def left(model: ConvNet) -> float:
    """The share of the three products' multiply-adds that is left without zero rows and columns, in %."""
    weights, rest = [], []
    for m, pixels in zip((matrix(model, name) for name in CONVS), (16, 4, 1), strict=True):
        weights.append(pixels * m.size)
        rest.append(pixels * int(m.any(1).sum()) * int(m.any(0).sum()))
    return 100 * sum(rest) / sum(weights)


class Lab:
    """Trains networks, each of them once: an interrupted run does not train them again."""

    def __init__(self, ctx: Context, s: Setting, data: Pictures):
        self.ctx, self.s, self.data = ctx, s, data
        self.bar = ctx.progress(0, "")

    def error(self, model: ConvNet) -> float:
        return 100 * float(mistakes(model, *self.data.held_back).mean())

    def part(self, name: str, steps: int, model: ConvNet, function) -> dict:
        """A training as a part: function(model) -> record; what it leaves in `model` is saved along."""

        def trained() -> dict:
            record = function(model) or {}
            return {"state": model.state_dict(), **record}

        found = part(self.ctx, name, steps, self.bar, trained)
        model.load_state_dict(found["state"])
        return found

    def train(self, model, steps: range, rate: float, weight_decay=0.004, callbacks=()) -> None:
        train(
            self.ctx, self.data.train, model, caffe_sgd(model, weight_decay), steps, self.s.batch, lambda step: rate,
            self.bar, callbacks=callbacks,
        )  # fmt: skip

    @functools.cached_property
    def base(self) -> ConvNet:
        model = convnet(size=self.s.size, rng=self.ctx.rng("first weights"))
        self.part("base", self.s.base, model, lambda m: self.train(m, range(self.s.base), RATE))
        return model

    def fine_tune(self, model: ConvNet, rate: float, callbacks=()) -> None:
        first = self.s.base + self.s.lasso
        self.train(model, range(first, first + self.s.fine_tune), rate / 10, callbacks=callbacks)

    def dense(self, rate: float) -> ConvNet:
        model = copy.deepcopy(self.base)

        def trained(model) -> None:
            self.train(model, range(self.s.base, self.s.base + self.s.lasso), rate)
            self.fine_tune(model, rate)

        self.part(f"dense, rate {rate:g}", self.s.more, model, trained)
        return model

    def sparse(self, lam: float) -> tuple[ConvNet, np.ndarray]:
        """The network, and the rows and columns (six numbers) that were not 0, every ten steps."""
        model = copy.deepcopy(self.base)

        def trained(model) -> dict:
            counts: list[list[int]] = []
            lasso = GroupLasso(groups(model, by="row+column", layers=CONVS), lam=lam, gap=1e-4)
            watch = Every(10, lambda: counts.append([alive for alive, _ in lasso.alive().values()]))
            steps = range(self.s.base, self.s.base + self.s.lasso)
            self.train(model, steps, RATE, 0.0, [lasso, watch])
            self.fine_tune(model, RATE, frozen(model))
            return {"counts": np.array(counts)}

        found = self.part(f"lambda {lam:g}", self.s.more, model, trained)
        return model, found["counts"]

    def random(self, like: ConvNet, model: ConvNet) -> tuple[ConvNet, ConvNet]:
        """`model` with as many rows and columns of each layer set to 0, at random: as it is, and fine-tuned."""
        emptied, rng = copy.deepcopy(model), self.ctx.rng("random rows and columns")
        for name in CONVS:
            kept = matrix(like, name)
            mask = np.outer(*(rng.permutation(kept.any(axis)) for axis in (1, 0)))
            layer = getattr(emptied, name)
            layer.weight.data = layer.weight.data * mask.reshape(layer.weight.shape)
        tuned = copy.deepcopy(emptied)
        self.part("random rows and columns", self.s.fine_tune, tuned,
                  lambda m: self.fine_tune(m, RATE, frozen(m)))  # fmt: skip
        return emptied, tuned


def frozen(model: ConvNet) -> list:
    """What keeps rows and columns 0 that are 0 now, as a list of callbacks; empty if there are none."""
    try:
        return [freeze_zeros(model, by="row+column")]
    except InputError:
        return []


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    found = ctx.dataset("cifar10")
    data = pictures(found, size=s.size, held_back=s.held_back, scale=False, train=s.images, test=s.test)
    lab, networks = Lab(ctx, s, data), len(s.rates) + len(s.lambdas)
    with ctx.progress(s.base + networks * s.more + s.fine_tune, f"{networks + 2} networks") as lab.bar:
        before = lab.error(lab.base)
        dense = {rate: lab.dense(rate) for rate in s.rates}
        errors = {rate: lab.error(model) for rate, model in dense.items()}
        best = min(errors, key=lambda rate: errors[rate])
        trials = {lam: lab.sparse(lam) for lam in s.lambdas}
        found_errors = {lam: lab.error(model) for lam, (model, _) in trials.items()}
        good = [lam for lam, e in found_errors.items() if e <= errors[best] + ALLOWED]
        key = (lambda lam: left(trials[lam][0])) if good else found_errors.__getitem__  # none good: the best error
        lam = min(good or s.lambdas, key=key)
        small, counts = trials[lam]
        ctx.note(
            f"{len(data.train[0]):,} images of {s.size} x {s.size} pixels, batch {s.batch}; {s.base:,} steps, then "
            f"{s.lasso:,} and {s.fine_tune:,} more at a tenth of the rate. On {len(data.held_back[1]):,} held-back "
            f"training images: {before:.2f} % errors before; dense: "
            + "; ".join(f"rate {rate:g}: {e:.2f} %" for rate, e in errors.items())
            + "; with the Lasso, rate 0.001: "
            + "; ".join(f"lambda {k:g}: {found_errors[k]:.2f} % with {left(m):.0f} % of the products left"
                        for k, (m, _) in trials.items())
            + f". Taken: lambda {lam:g} (published: about 0.003, in 200,000 steps)."
        )  # fmt: skip
        sizes(ctx, s, small, dense[best])
        if left(small) < 100:
            compare(ctx, lab, small, dense[best])
    chosen_by_hand(ctx, settings=6)
    ctx.figure(
        lambda figure: draw(figure, s, small, counts),
        alt="Left: the shares of rows and columns of each layer that are not 0 fall while the Lasso acts. Right: the "
        "matrices of conv2 and conv3, dark where a weight is not 0: whole rows and whole columns are white.",
        caption=f"lambda {lam:g}: what the group Lasso leaves of the layers' matrices.",
    )


def sizes(ctx: Context, s: Setting, small: ConvNet, dense: ConvNet) -> None:
    for what, measured, said in zip(("rows", "columns"), zeros(small), (SAID_ROWS, SAID_COLUMNS), strict=True):
        ctx.row(f"{what} of conv1, conv2, conv3 that are 0", said=said, measured=measured, unit="%",
                trials=len(s.lambdas))  # fmt: skip
    ctx.row(
        "multiply-adds of the three products left without zero rows and columns", said=38.7, measured=left(small),
        unit="% of all", criterion="at most 75", holds=left(small) <= 75, trials=len(s.lambdas),
        control={"what": "lambda = 0: the proximal step is skipped", "measured": left(dense)},
        control_holds=left(dense) <= 75,
    )  # fmt: skip


def compare(ctx: Context, lab: Lab, small: ConvNet, dense: ConvNet) -> None:
    """The rows about errors, exactness and time."""
    s, (x, y) = lab.s, lab.data.test
    emptied, tuned = lab.random(small, dense)
    wrong = [mistakes(model, x, y) for model in (dense, small, tuned, emptied)]
    for name, said, of in (("dense", 17.9, 0), ("sparse", 17.9, 1), ("randomly emptied, fine-tuned", None, 2)):
        ctx.row(f"test error of the {name} network", said=said, measured=100 * float(wrong[of].mean()), unit="%",
                trials=len(s.lambdas) if of == 1 else len(s.rates))  # fmt: skip
    hurt = "as many rows and columns of the dense network set to 0 at random, no training after it", wrong[3]
    not_worse(ctx, "sparse", wrong[1], wrong[0], ALLOWED, said=0.0, trials=len(s.lambdas), hurt=hurt)
    exactness(ctx, lab, small)
    faster, scattered, rng = [], [], ctx.rng("scattered")
    for name in CONVS:
        whole, m = matrix(dense, name), matrix(small, name)
        pixels = (s.size >> CONVS.index(name)) ** 2
        mixed = whole * rng.permutation((m != 0).ravel()).reshape(m.shape)
        first, rounds = np.abs(whole) + 1, 200 if ctx.full else 50
        faster.append(speed_up(product(first, pixels), product(m, pixels), rounds))
        scattered.append(speed_up(product(first, pixels), product(mixed, pixels), rounds))
    mean, low, idle = (
        float(np.exp(np.mean(np.log(some))))
        for some in ([m for m, _ in faster], [q[0] for _, q in faster], [q[0] for _, q in scattered])
    )
    ctx.row(
        "speed-up of the products of conv1, conv2, conv3, one image", said=SAID_FASTER,
        measured=[m for m, _ in faster], unit="times", criterion="geometric mean of the lower quartiles above 1.1",
        holds=low > 1.1, control_holds=idle > 1.1, interval=(low, mean),
        control={"what": "as many weights of each layer 0, but scattered", "measured": [m for m, _ in scattered]},
    )  # fmt: skip


def exactness(ctx: Context, lab: Lab, small: ConvNet) -> None:
    """The network that reads only the columns some filter uses, without the rows that can leave."""
    x = lab.data.held_back[0][:4]
    try:
        cut, certificate = compact(small, x, columns=True)
    except NothingToRemove as error:
        ctx.note(str(error))
        return
    ctx.note(str(certificate))
    spoilt = copy.deepcopy(cut).astype(np.float64)
    norms = np.square(spoilt.ip1.weight.data).sum(0)
    spoilt.ip1.weight.data = spoilt.ip1.weight.data * (norms < norms.max())
    inputs = x.astype(np.float64)
    far = float(np.abs(predict(spoilt, inputs) - predict(copy.deepcopy(cut).astype(np.float64), inputs)).max())
    exact(ctx, certificate, "one input of ip1 silenced too", far)


def draw(figure, s: Setting, small: ConvNet, counts: np.ndarray) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.2))
    axes = left.subplots()
    shapes = [matrix(small, name).shape[axis] for axis in (0, 1) for name in CONVS]  # in the order of the groups
    for k, alive in enumerate(counts.T):
        axes.plot(
            s.base + 10 * np.arange(len(alive)), 100 * alive / shapes[k], "-" if k < 3 else "--",
            color=OKABE_ITO[(5, 6, 3)[k % 3]], label=f"{CONVS[k % 3]} {('rows', 'columns')[k // 3]}",
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="not 0, %", ylim=(0, 105))
    axes.legend(fontsize="small")
    for name, axes in zip(CONVS[1:], right.subplots(2, 1), strict=True):
        m = matrix(small, name)
        axes.imshow(m != 0, cmap="Greys", vmin=0, vmax=1.4, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[], ylabel=name, xlabel=f"{m.any(1).sum()} of {m.shape[0]} rows, "
                 f"{m.any(0).sum()} of {m.shape[1]} columns")  # fmt: skip


CLAIM = Claim(
    "ssl-convnet", chapter="1", title="Rows and columns of zeros make the layers of cifar10_full faster",
    seconds={"quick": 80, "full": 1800}, run=run,
)  # fmt: skip
