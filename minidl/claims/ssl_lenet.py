"""Claim ssl-lenet: group Lasso makes Caffe's LeNet small while it learns, and it stays as good.

Said (Wen et al. 2016, Tables 1 and 2), of 20 and 50 filters of 25 and 500 weights with an error of 0.9 %:

              error   filters   channels  multiply-adds  speed-up               error   weights a filter  channels  ...
    LeNet 2   0.8 %   5 and 19  4         25, 7.6 %      1.64, 5.23   LeNet 4   0.8 %   21 and 41         2
    LeNet 3   1.0 %   3 and 12  3         15, 3.6 %      1.99, 7.44   LeNet 5   1.0 %   7 and 14          1

In Table 1 the groups are filters and channels, in Table 2 the shapes of filters: a column (channel, row, column of the
kernel) over all filters of a layer. A channel without a column left is a filter that nobody reads, and goes as well.

All networks start from the same weights and see the same images, from scratch, in one go, as the talk has it. The group
Lasso pulls groups to 0; units that do nothing are taken out, other zeros stay 0; the small network is trained on. In
full mode lambda is chosen by short trainings at three times the rate, on training images that are held back, by a rule
that is fixed before; as many short trainings choose the dense network's rate and weight decay. The test images are
looked at once for each network of the table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.lab import IMAGES, Lab, NetworkRows, Schedule, Shrunk, taken
from minidl.claims.shrinking import BATCH, mistakes, product, randomly_emptied, randomly_shrunk, speed_up
from minidl.models.lenet import LeNet, lenet_caffe
from minidl.optim import inv
from minidl.sparsity import GroupLasso, cost, groups
from minidl.tensor import Tensor, no_grad

CONVS = "conv1", "conv2"
DENSE_MACS = 20 * 25 * 24**2, 50 * 500 * 8**2
COUNTED = {"filter+channel": "filters", "column": "weights of a filter"}


@dataclass(frozen=True)
class Said:
    """A row of the published tables: error in %, filters (or weights of a filter) and channels kept, shares in %."""

    name: str
    by: str
    error: float
    kept: tuple[int, int]
    channels: int
    share: tuple[float, float]
    faster: tuple[float, float]


LENET2 = Said("LeNet 2", "filter+channel", 0.8, (5, 19), 4, (25, 7.6), (1.64, 5.23))
LENET3 = Said("LeNet 3", "filter+channel", 1.0, (3, 12), 3, (15, 3.6), (1.99, 7.44))
LENET4 = Said("LeNet 4", "column", 0.8, (21, 41), 2, (8.4, 8.2), (2.33, 6.93))
LENET5 = Said("LeNet 5", "column", 1.0, (7, 14), 1, (1.4, 2.8), (5.19, 10.82))
DENSE_ERROR = 0.9


LIKE = 1, 5e-4
"""Factor of the rate and weight decay of the networks with the Lasso: a trial is compared with its dense like."""


@dataclass(frozen=True)
class Setting:
    """How the networks are chosen and trained.

    rows: (row of the table, how many points more than its dense like a trial may err on held-back images to be
    chosen: the one with the fewest multiply-adds is); lambdas: what is tried for each kind of group; dense: (factor of
    the rate, weight decay) of the dense networks tried.
    """

    trial: Schedule
    final: Schedule
    rows: tuple[tuple[Said, float], ...]
    lambdas: dict[str, tuple[float, ...]]
    dense: tuple[tuple[float, float], ...]
    held_back: int


_SHORT = Schedule(rate=0.03, lasso=510, fine_tune=290)
QUICK = Setting(
    trial=_SHORT, final=_SHORT, rows=((LENET3, 0.75), (LENET5, 0.75)), dense=((1, 5e-4),), held_back=2000,
    lambdas={"filter+channel": (0.013, 0.017), "column": (0.01,)},
)  # fmt: skip
FULL = Setting(
    trial=Schedule(rate=0.03, lasso=1500, fine_tune=500), final=Schedule(rate=0.01, lasso=10_000, fine_tune=5000),
    rows=((LENET2, 0.1), (LENET3, 0.3), (LENET4, 0.1), (LENET5, 0.3)),
    dense=((0.5, 5e-4), (1, 5e-4), (2, 5e-4), (0.5, 2e-3), (1, 2e-3), (2, 2e-3), (1, 1e-4)), held_back=10_000,
    lambdas={
        "filter+channel": (0.003, 0.005, 0.007, 0.01, 0.014, 0.02, 0.028),
        "column": (0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01),
    },
)  # fmt: skip


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    digits = ctx.dataset("mnist")
    lab = LeNetLab(ctx, digits.split(), s.held_back)
    tried, count = sum(map(len, s.lambdas.values())), len(s.rows)
    steps = s.trial.lasso + tried * s.trial.steps + s.final.steps + count * s.final.fine_tune
    if s.trial != s.final:
        steps += len(s.dense) * s.trial.steps + count * s.final.steps
    with ctx.progress(steps, f"{1 + count} networks") as lab.bar:
        dense_trials = {setting: lab.dense(*setting, s.trial) for setting in s.dense}
        errors = [lab.error(model) for model, _ in dense_trials.values()]
        chosen = s.dense[int(np.argmin(errors))]
        like = errors[s.dense.index(LIKE)]
        dense, losses = dense_trials[chosen] if s.trial == s.final else lab.dense(*chosen, s.final)
        trials = {by: [lab.shrunk(by, lam, s.trial) for lam in lams] for by, lams in s.lambdas.items()}
        ctx.note(
            f"Batch {BATCH}. Chosen on {len(lab.labels):,} held-back training images by trials of {s.trial}: dense: "
            + "; ".join(
                f"rate x {f:g}, weight decay {wd:g}: error {e:.2f} %"
                for (f, wd), e in zip(s.dense, errors, strict=True)
            )
            + "".join(f". By {by}: " + "; ".join(map(said_of, found)) for by, found in trials.items())
            + f". The networks of the rows: {s.final}."
        )
        idle = lab.without_prox(s.trial)
        test = lab.scaled(digits.test_images), digits.test_labels
        wrong = mistakes(dense, *test)
        ctx.row(
            "test error of the dense network", said=DENSE_ERROR, measured=100 * float(wrong.mean()), unit="%",
            trials=len(s.dense), scale="published" if ctx.full else "reduced",
        )  # fmt: skip
        finals = []
        for said, allowance in s.rows:
            lam = taken(trials[said.by], like + allowance, lambda r: total(share(r)))
            r = lab.shrunk(said.by, lam, s.final)
            finals.append((said, r))
            ctx.note(f"{said.name}: {said_of(r)}, on held-back images ({lab.error(dense):.2f} % of the dense network).")
            if r.certificate:
                ctx.note(f"{said.name}:\n{r.certificate}")
            rows = Rows(ctx, lab, s.final, said, r, dense, idle, trials=len(s.lambdas[said.by]))
            rows.sizes()
            rows.errors(test, wrong)
            rows.removal()
            if r.certificate:
                rows.exactness(r.certificate)
            rows.times()
    figures(ctx, s, finals, losses, trials, lab.error(dense))


class LeNetLab(Lab):
    """Caffe's LeNet, rate and solver; the Lasso on the convolutions."""

    def fresh(self) -> LeNet:
        return lenet_caffe(self.ctx.rng("first weights"))

    def penalties(self, model, by, lam):
        return [GroupLasso(groups(model, by=by, layers=CONVS), lam=lam)]  # the grey image's one channel is no group

    def policy(self, rate, plan):
        return inv(rate, gamma=1e-4, power=0.75)

    @staticmethod
    def scaled(images):
        return images[:, None] / np.float32(256)  # (N, 1, 28, 28), as Caffe's example


def nonzero(model: LeNet, by: str) -> list[int]:
    """Filters (by="filter+channel") or columns that are not 0 in each convolution."""
    axes = (1, 2, 3) if by == "filter+channel" else 0
    return [int(getattr(model, name).weight.data.any(axes).sum()) for name in CONVS]


def kept(r: Shrunk) -> list[int]:
    return nonzero(r.zeroed, r.by)


def channels(r: Shrunk) -> int:
    """How many channels the second convolution still reads."""
    return int(r.zeroed.conv2.weight.data.any((0, 2, 3)).sum())


def share(r: Shrunk) -> list[float]:
    """The multiply-adds of each convolution, in % of the dense one's."""
    if r.certificate is None:
        return [100.0, 100.0]
    return [100 * r.certificate.after[name].macs / r.certificate.before[name].macs for name in CONVS]


def total(shares) -> float:
    """The multiply-adds of both convolutions together, in % of the dense ones'."""
    return sum(part * macs for part, macs in zip(shares, DENSE_MACS, strict=True)) / sum(DENSE_MACS)


def said_of(r: Shrunk) -> str:
    a, b = kept(r)
    return (
        f"lambda {r.lam:g}: {a} and {b} {COUNTED[r.by]}, {channels(r)} channels, {total(share(r)):.2g} % of the "
        f"multiply-adds, error {r.error:.2f} %"
    )


class Rows(NetworkRows):
    """The rows of the report about one row of the published tables."""

    dense_error = DENSE_ERROR

    def sizes(self) -> None:
        said, r = self.said, self.r
        counted = COUNTED[said.by]
        of = [20, 50] if said.by == "filter+channel" else [25, 500]
        most, idle = 0.75 * sum(of), nonzero(self.idle, said.by)
        self.row(
            f"{counted} kept in conv1 and conv2", said=f"{of[0]} and {of[1]} become {said.kept[0]} and {said.kept[1]}",
            measured=kept(r), criterion=f"at most {most:g} in all: a quarter is gone", holds=sum(kept(r)) <= most,
            control={"what": "the same training without the proximal step", "measured": idle},
            control_holds=sum(idle) <= most,
        )  # fmt: skip
        self.row("channels that conv2 reads", said=f"20 become {said.channels}", measured=channels(r))
        limit = total(said.share) if self.ctx.full else 50.0
        none = 100.0 * sum(cost(self.dense, self.lab.images[:1])[name].kept for name in CONVS) / sum(DENSE_MACS)
        self.row(
            "multiply-adds of conv1 and conv2", said=list(said.share), measured=share(r), unit="% of dense",
            criterion=f"both together at most {limit:.1f} %" + ", as published" * self.ctx.full,
            holds=total(share(r)) <= limit,
            control={"what": "lambda = 0: the dense network, both together", "measured": none},
            control_holds=none <= limit,
        )  # fmt: skip

    def removal(self) -> None:
        """What removal costs before anything is trained again, beside removal at random."""
        said, r, lab = self.said, self.r, self.lab
        x, now = lab.images[:IMAGES], r.before
        draws = []
        for k in range(
            9 if total(share(r)) < 75 else 0
        ):  # where next to nothing is removed, chance does no harm either
            rng = self.ctx.rng("at random", said.name, k)
            if said.by == "column":
                counts = {f"{name}.weight": n for name, n in zip(CONVS, kept(r), strict=True)}
                draws.append(lab.error(randomly_emptied(self.dense, counts, rng)))
            elif r.certificate:
                draws.append(lab.error(randomly_shrunk(self.dense, x, r.certificate.kept, rng)))
        limit = lab.error(self.dense) + 3
        if draws:
            self.row(
                "error when the groups have just been removed, held-back images", measured=now, unit="%",
                criterion=f"at most 3 points above the dense network's {limit - 3:.2f}", holds=now <= limit,
                control={"what": "as many random groups of the dense network (median of 9)",
                         "measured": float(np.median(draws))},
                control_holds=float(np.median(draws)) <= limit,
            )  # fmt: skip

    def times(self) -> None:
        """Forward passes: the product alone, as the paper times it; the whole layer; the network.

        Shapes leave a reduced GEMM: the layer gathers the pixels it still reads, and multiplies.
        """
        said, r = self.said, self.r
        x = Tensor(self.lab.images[:BATCH])
        products = [
            speed_up(product(getattr(self.dense, name).weight.data, pixels), product(getattr(r.small, name).weight.data,
                     pixels))[0]
            for name, pixels in (("conv1", BATCH * 24 * 24), ("conv2", BATCH * 8 * 8))
        ]  # fmt: skip
        self.row(
            f"speed-up of the matrix products of conv1 and conv2 alone, batch {BATCH}", said=list(said.faster),
            measured=products, unit="times",
        )  # fmt: skip
        with no_grad():
            inside = {m: m.pool(m.conv1(x)) for m in (self.dense, r.small)}
            layers = [
                (functools.partial(self.dense.conv1, x), functools.partial(r.small.conv1, x)),
                (functools.partial(self.dense.conv2, inside[self.dense]),
                 functools.partial(r.small.conv2, inside[r.small])),
            ]  # fmt: skip
            found = [speed_up(*pair) for pair in layers]
            same, own = speed_up(layers[1][0], layers[1][0])
            self.row(
                f"speed-up of conv1 and conv2 as layers, all included, batch {BATCH}", said=list(said.faster),
                measured=[median for median, _ in found], interval=found[1][1], unit="times",
                criterion="lower quartile of conv2 above 1.1", holds=found[1][1][0] > 1.1,
                control={"what": "the dense conv2 against itself", "measured": same}, control_holds=own[0] > 1.1,
            )  # fmt: skip
            whole, quartiles = speed_up(functools.partial(self.dense, x), functools.partial(r.small, x))
        self.row(
            f"speed-up of the whole network as an ordinary one, batch {BATCH}", measured=whole, interval=quartiles,
            unit="times",
        )  # fmt: skip


def figures(ctx: Context, s: Setting, finals, losses: list[float], trials, dense_error: float) -> None:
    filters = next(((said, r) for said, r in finals if r.by == "filter+channel"), None)
    shapes = next(((said, r) for said, r in finals if r.by == "column"), None)
    if filters:
        said, r = filters
        ctx.figure(
            lambda figure: draw_filters(figure, r, losses),
            alt=f"Left: the {kept(r)[0]} kernels of the first layer that are left; the others of 20 are empty squares "
            "with a cross. Right: the training losses of both networks fall, the sparse one more slowly while the "
            "Lasso acts; below, the filters and channels that are not zero become fewer.",
            caption=f"{said.name}: filters that the group Lasso emptied are taken out; then the small network is "
            "trained on.",
        )
    if shapes:
        said, r = shapes
        ctx.figure(
            lambda figure: draw_shapes(figure, r),
            alt=f"Left: a 5 x 5 square in which the {kept(r)[0]} places are dark that the filters of the first layer "
            f"still have. Right: twenty such squares, one for each channel that the second layer reads: all white but "
            f"for {channels(r)}, in which {kept(r)[1]} places are dark.",
            caption=f"{said.name}: the shapes that are left of the filters. Dark: the column's norm.",
        )
    if s.trial != s.final:
        ctx.figure(
            lambda figure: draw_trade(figure, s, finals, trials, dense_error),
            alt="Points: the fewer multiply-adds of the two convolutions are left, the more images are mistaken, with "
            "filters and channels as with shapes. Larger points with names: the networks of the rows.",
            caption="Error on held-back images against multiply-adds left, for every lambda tried (small) and for the "
            "networks of the rows (large).",
        )


def draw_filters(figure, r: Shrunk, dense_losses: list[float]) -> None:
    """The kernels that are left of the first layer; the losses; how many filters and channels are not zero."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    kernels = r.zeroed.conv1.weight.data[:, 0]
    for kernel, axes in zip(kernels, left.subplots(5, 4).ravel(), strict=True):
        if kernel.any():
            axes.imshow(kernel, cmap="Greys")
        else:
            axes.plot([0, 1], [0, 1], color=OKABE_ITO[6])
            axes.plot([0, 1], [1, 0], color=OKABE_ITO[6])
            axes.set_box_aspect(1)
        axes.set(xticks=[], yticks=[])
    left.suptitle(f"first layer: {kept(r)[0]} of {len(kernels)} filters kept", fontsize="medium")
    above, below = right.subplots(2, 1, sharex=True)
    window = max(len(dense_losses) // 60, 1)
    for losses, colour, dash, name in (
        (dense_losses, OKABE_ITO[0], "-", "dense"), (r.losses, OKABE_ITO[5], "--", "with the Lasso, then small"),
    ):  # fmt: skip
        mean = np.convolve(losses, np.full(window, 1 / window), "valid")
        above.plot(np.arange(len(mean)) + window, mean, color=colour, linestyle=dash, label=name)
    above.set(ylabel="training loss", yscale="log")
    above.legend(fontsize="small")
    counts = np.array(r.alive)
    for column, colour, dash, name in (
        (1, OKABE_ITO[6], "--", "conv2 filters"), (0, OKABE_ITO[5], "-", "conv1 filters"),
        (2, OKABE_ITO[3], ":", "conv2 channels"),
    ):  # fmt: skip
        below.plot(10 * (1 + np.arange(len(counts))), counts[:, column], color=colour, linestyle=dash, label=name)
    below.set(xlabel="step", ylabel="not zero", ylim=(0, None))
    below.legend(fontsize="small")


def draw_shapes(figure, r: Shrunk) -> None:
    """The norm of every column: 5 x 5 places of conv1's filters, and of conv2's for each of 20 channels."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    for part, weight, shape in ((left, r.zeroed.conv1, (1, 1)), (right, r.zeroed.conv2, (4, 5))):
        norms = np.sqrt(np.square(weight.weight.data).sum(0))
        for norm, axes in zip(norms, np.ravel(part.subplots(*shape)), strict=True):
            axes.imshow(np.where(norm > 0, 0.25 * norms.max() + norm, 0), cmap="Greys", vmin=0, vmax=1.25 * norms.max())
            axes.set(xticks=[], yticks=[])
    left.suptitle(f"conv1: {kept(r)[0]} of 25 places", fontsize="medium")
    right.suptitle(f"conv2: {kept(r)[1]} of 500, in {channels(r)} of 20 channels", fontsize="medium")


def draw_trade(figure, s: Setting, finals, trials, dense_error: float) -> None:
    axes = figure.subplots()
    for by, marker, colour in (("filter+channel", "o", OKABE_ITO[5]), ("column", "s", OKABE_ITO[6])):
        found = trials.get(by, [])
        axes.plot([total(share(r)) for r in found], [r.error for r in found], marker, color=colour, markersize=4,
                  label=f"{by}: trials, {s.trial}")  # fmt: skip
        for said, r in finals:
            if r.by == by:
                axes.plot(total(share(r)), r.error, marker, color=colour, markersize=10)
                axes.annotate(said.name, (total(share(r)), r.error), xytext=(8, 4), textcoords="offset points",
                              ha="right" if total(share(r)) > 50 else "left")  # fmt: skip
    axes.axhline(dense_error, color=OKABE_ITO[0], linestyle="--", label=f"dense, {s.final}")
    axes.set(xlabel="multiply-adds of conv1 and conv2, % of dense", ylabel="error, %", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize="small")


CLAIM = Claim(
    "ssl-lenet", chapter="1", title="Group Lasso removes filters, channels and shapes of LeNet while it learns",
    seconds={"quick": 85, "full": 4000}, run=run,
)  # fmt: skip
