"""Claim ssl-lenet: group Lasso on filters and channels makes Caffe's LeNet small while it learns, and it stays as good.

Said (Wen et al. 2016, Table 1): of 20 and 50 filters 5 and 19 are left at 0.8 % error instead of 0.9 %, or 3 and 12 at
1.0 %; the second layer's filters read 4 or 3 of the 20 channels; the two layers run 1.64 and 5.23 times as fast.

Two networks start from the same weights and see the same images. In one of them the group Lasso pulls filters and
channels to 0 (in one go, from scratch, as the talk has it); the zeros are taken out, and the small network, an ordinary
one, is trained on. The other is trained for as many steps without the Lasso: it is what the small one is compared with,
and the control with lambda = 0. Lambda is chosen on training images that are held back; the test images are looked at
once for each of the two networks.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.data.images import ImageSet
from minidl.errors import CompactError
from minidl.layers import Module
from minidl.models import lenet_caffe
from minidl.optim import SGD, inv
from minidl.sparsity import Certificate, GroupLasso, compact, groups, silence_, units
from minidl.tensor import Tensor, no_grad
from minidl.train import accuracy, fit, predict

BATCH = 64


@dataclass(frozen=True)
class Setting:
    """Caffe's rate at the start, steps with the Lasso and after it, lambdas, and how many held-back images choose one.

    The quick run has a fifteenth of the steps, so its rate is three times that of Caffe's example, in every network.
    """

    rate: float

    lasso: int
    fine_tune: int
    lambdas: tuple[float, ...]
    held_back: int


QUICK = Setting(rate=0.03, lasso=510, fine_tune=290, lambdas=(0.013, 0.017), held_back=2000)
FULL = Setting(rate=0.01, lasso=10_000, fine_tune=5000, lambdas=(0.008, 0.012, 0.018), held_back=10_000)
WORSE = 0.0075
"""Taken is the lambda with the fewest multiply-adds of those whose small network errs at most this much more often."""


@dataclass(frozen=True)
class Shrunk:
    """What one lambda gave: the small network before and after fine-tuning, the proof, and the way there."""

    lam: float
    small: Module
    certificate: Certificate
    kept: dict[str, int]  # groups that are not 0 after the Lasso: the counts of the published table
    error_before: float  # on held-back images, before fine-tuning
    error: float  # and after it
    losses: list[float]
    alive: list[list[int]]  # the counts every ten steps
    kernels: np.ndarray  # of the first layer when the Lasso had done its work


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    digits = ctx.dataset("mnist")
    chosen_on = digits.split()
    held_back = scaled(chosen_on.test_images[: s.held_back]), chosen_on.test_labels[: s.held_back]
    steps = s.lasso + s.fine_tune
    with ctx.progress(steps * (1 + len(s.lambdas)), "training") as bar:
        dense = lenet_caffe(ctx.rng("first weights"))
        losses = train(ctx, s, chosen_on, dense, solver(dense), range(steps), bar)
        tried = [shrunk_network(ctx, s, chosen_on, held_back, lam, bar) for lam in s.lambdas]
    kept_dense = alive(penalty_of(dense, 1.0))
    error_dense = 1 - accuracy(dense, *held_back)
    runs = [r for r in tried if r is not None]
    if not runs:
        ctx.note(f"No filter or channel became 0 with lambda {', '.join(f'{lam:g}' for lam in s.lambdas)}.")
        kept_row(ctx, kept_dense, kept_dense, len(s.lambdas))
        return
    good = [r for r in runs if r.error <= error_dense + WORSE]
    best = min(good, key=lambda r: r.certificate.macs_after) if good else min(runs, key=lambda r: r.error)
    ctx.note(
        f"Batch {BATCH}, rate {s.rate:g}, {s.lasso:,} steps with the group Lasso, {s.fine_tune:,} with the small "
        f"network; {steps:,} with the dense one. Chosen on {len(held_back[1]):,} held-back training images, of which "
        f"the dense one gets {error_dense:.2%} wrong: "
        + "; ".join(f"lambda {r.lam:g}: filters {r.kept['conv1']}-{r.kept['conv2']}, error {r.error:.2%}" for r in runs)
        + f". Taken: lambda {best.lam:g}."
    )
    ctx.note(str(best.certificate))
    kept_row(ctx, best.kept, kept_dense, len(s.lambdas))
    error_rows(ctx, digits, held_back, dense, error_dense, best, len(s.lambdas))
    cost_rows(ctx, held_back[0], dense, best)
    ctx.figure(
        lambda figure: draw(figure, dense=losses, best=best),
        alt=f"Left: the {len(best.certificate.kept['conv1'])} kernels of the first layer that are left; the others "
        "of 20 are empty squares with a cross. Right: the training losses of both networks fall, the sparse one "
        "more slowly while the Lasso acts; below, the filters and channels that are not zero become fewer.",
        caption="Filters that the group Lasso emptied are taken out; then the small network is trained on.",
    )


def scaled(images: np.ndarray) -> np.ndarray:
    """Grey values / 256, as Caffe's example: (N, 28, 28) uint8 -> (N, 1, 28, 28) float32."""
    return images[:, None] / np.float32(256)


def solver(model, weight_decay: float = 5e-4) -> SGD:
    """Caffe's: momentum .9 with the rate, which `train` sets at every step, inside the buffer."""
    return SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=weight_decay, form="caffe")


def train(ctx, s: Setting, digits: ImageSet, model, optimizer, steps: range, bar, after_step=None) -> list[float]:
    """The steps of this range; step k sees the same images in every network of this claim. Returns the losses.

    Caffe's rate belongs to momentum .9: with another, rate / (1 - momentum), how far a gradient leads, is kept.
    """

    def stream():
        for step in steps:
            rows = ctx.rng("batch", step).integers(0, len(digits.train_images), BATCH)
            yield scaled(digits.train_images[rows]), digits.train_labels[rows]

    policy = inv(s.rate * (1 - optimizer.momentum) / 0.1, gamma=1e-4, power=0.75)
    rates = [policy(step) for step in steps]
    return fit(model, stream(), optimizer, schedule=rates.__getitem__, after_step=after_step, progress=bar)


def penalty_of(model, lam: float) -> GroupLasso:
    """Filters and channels of both convolutions, overlapping. The one channel of the grey image is no group."""
    return GroupLasso(groups(model, by="filter+channel", layers=["conv1", "conv2"]), lam=lam)


def alive(penalty: GroupLasso) -> dict[str, int]:
    """The groups that are not 0: filters of conv1 and of conv2, channels of conv2."""
    counts = [count for count, _ in penalty.alive().values()]
    return dict(zip(("conv1", "conv2", "channels"), counts, strict=True))


def shrunk_network(ctx, s: Setting, digits, held_back, lam: float, bar) -> Shrunk | None:
    """Training with the Lasso, compaction, fine-tuning; None if nothing became 0."""
    model = lenet_caffe(ctx.rng("first weights"))
    optimizer, penalty, counts = solver(model, weight_decay=0.0), penalty_of(model, lam), []

    def after_step(k):
        penalty.prox_(optimizer)
        if optimizer.steps % 10 == 1:
            counts.append(list(alive(penalty).values()))

    bar.set(f"group Lasso, lambda {lam:g}")
    calm = 2 * s.lasso // 3
    losses = train(ctx, s, digits, model, optimizer, range(calm), bar, after_step)
    optimizer.momentum = 0.97  # the noise of single batches wakes dead groups: average over 33 of them, not 10
    losses += train(ctx, s, digits, model, optimizer, range(calm, s.lasso), bar, after_step)
    try:
        small, certificate, optimizer = compact(model, held_back[0][:8], optimizer=optimizer)
    except CompactError:
        bar.update(s.fine_tune)
        return None
    before = 1 - accuracy(small, *held_back)
    optimizer.momentum, optimizer.weight_decay = 0.9, 5e-4
    losses += train(ctx, s, digits, small, optimizer, range(s.lasso, s.lasso + s.fine_tune), bar)
    error = 1 - accuracy(small, *held_back)
    return Shrunk(lam, small, certificate, alive(penalty), before, error, losses, counts, model.conv1.weight.data)


def kept_row(ctx: Context, kept: dict[str, int], dense: dict[str, int], trials: int) -> None:
    """Filters and channels kept by training, beside the same training with lambda = 0."""
    for name, said, number in (
        ("filters of conv1 and conv2", "20 and 50 become 5 and 19, or 3 and 12", lambda k: [k["conv1"], k["conv2"]]),
        ("channels that conv2 reads", "20 become 4, or 3", lambda k: [k["channels"]]),
    ):
        limit = 0.75 * (70 if "filters" in name else 20)
        ctx.row(
            f"{name} kept by training", said=said, measured=number(kept), trials=trials,
            criterion=f"at most {limit:g} in all: a quarter is gone", holds=sum(number(kept)) <= limit,
            control={"what": "the dense network, trained as long with lambda = 0", "measured": number(dense)},
            control_holds=sum(number(dense)) <= limit,
        )  # fmt: skip


def error_rows(ctx: Context, digits: ImageSet, held_back, dense, error_dense: float, best: Shrunk, trials: int) -> None:
    """Test errors, and what removal costs before anything is trained again."""
    test = scaled(digits.test_images), digits.test_labels
    test_dense, test_small = (100 * (1 - accuracy(m, *test)) for m in (dense, best.small))
    ctx.row("test error of the dense network", said=0.9, measured=test_dense, unit="%")
    ctx.row(
        "test error of the small network", said="0.8 with 5 and 19 filters, 1.0 with 3 and 12", measured=test_small,
        unit="%", trials=trials, criterion="at most 1 percentage point above the dense network's",
        holds=round(test_small - test_dense, 6) <= 1,
    )  # fmt: skip
    draws = [randomly_shrunk(dense, best, held_back[0][:8], ctx.rng("random units", k)) for k in range(9)]
    random = float(np.median([100 * (1 - accuracy(m, *held_back)) for m in draws]))
    now, limit = 100 * best.error_before, 100 * error_dense + 3
    ctx.row(
        "error when the units have just been removed, held-back images", measured=now, unit="%", trials=trials,
        criterion=f"at most 3 percentage points above the dense network's {100 * error_dense:.2f}", holds=now <= limit,
        control={"what": "as many random units of each layer of the dense network (median of 9)", "measured": random},
        control_holds=random <= limit,
    )  # fmt: skip


def randomly_shrunk(dense, best: Shrunk, x, rng) -> Module:
    """The dense network without as many units of each layer, chosen at random, as training removed."""
    model, chosen = copy.deepcopy(dense), []
    found = units(model, x)
    for layer, kept in best.certificate.kept.items():
        own = [u for u in found if u.layer == layer]
        chosen += [own[k] for k in rng.choice(len(own), len(own) - len(kept), replace=False)]
    silence_(model, chosen)
    return compact(model, x)[0]


def cost_rows(ctx: Context, x: np.ndarray, dense, best: Shrunk) -> None:
    """Multiply-adds, measured time, and the proof that removal changed nothing."""
    proof = best.certificate
    share = [100 * proof.after[name].macs / proof.before[name].macs for name in ("conv1", "conv2")]
    ctx.row(
        "multiply-adds of conv1 and conv2 in the small network", said="25 and 7.6, or 15 and 3.6", measured=share,
        unit="% of dense",
    )  # fmt: skip
    ctx.row("multiply-adds in all", measured=100 * proof.macs_after / proof.macs_before, unit="% of dense")
    ratio, quartiles = speed_up(dense, best.small, x[:BATCH])
    same, own = speed_up(dense, copy.deepcopy(dense), x[:BATCH])
    ctx.row(
        f"speed-up of inference, whole network, batch {BATCH}",
        said="1.64 and 5.23, or 1.99 and 7.44, of conv1 and conv2 alone", measured=ratio, interval=quartiles,
        unit=f"times, {ctx.threads} threads", criterion="lower quartile above 1.1", holds=quartiles[0] > 1.1,
        control={"what": "the dense network against a copy of itself", "measured": same}, control_holds=own[0] > 1.1,
    )  # fmt: skip
    less = copy.deepcopy(best.small).astype(np.float64)
    whole = copy.deepcopy(less)
    silence_(less, units(less, x[:8])[:1])
    wrong = float(np.abs(predict(whole, x[:8].astype(float)) - predict(less, x[:8].astype(float))).max())
    ctx.row(
        "float64 difference between the zeroed and the small network", measured=proof.difference,
        criterion=f"at most {proof.tolerance:.1e}", holds=proof.difference <= proof.tolerance,
        control={"what": "one unit more removed, one that training kept", "measured": wrong},
        control_holds=wrong <= proof.tolerance,
    )  # fmt: skip


def speed_up(first, second, x: np.ndarray, rounds: int = 25) -> tuple[float, tuple[float, float]]:
    """time(first) / time(second) of a forward pass: median and quartiles over alternating runs."""
    ratios = []
    first.eval()
    second.eval()
    with no_grad():
        for turn in range(rounds + 3):
            seconds = []
            for model in (first, second):
                start = time.perf_counter()
                model(Tensor(x))
                seconds.append(time.perf_counter() - start)
            if turn >= 3:  # the first ones warm caches and compile
                ratios.append(seconds[0] / seconds[1])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(middle), (float(low), float(high))


def draw(figure, *, dense: list[float], best: Shrunk) -> None:
    """The kernels that are left of the first layer; the losses; how many filters and channels are not zero."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    kept = set(best.certificate.kept["conv1"].tolist())
    for k, axes in enumerate(left.subplots(5, 4).ravel()):
        if k in kept:
            axes.imshow(best.kernels[k, 0], cmap="Greys")
        else:
            axes.plot([0, 1], [0, 1], color=OKABE_ITO[6])
            axes.plot([0, 1], [1, 0], color=OKABE_ITO[6])
            axes.set_box_aspect(1)
        axes.set(xticks=[], yticks=[])
    left.suptitle(f"first layer: {len(kept)} of {len(best.kernels)} filters kept", fontsize="medium")
    above, below = right.subplots(2, 1, sharex=True)
    window = max(len(dense) // 60, 1)
    for losses, colour, dash, name in (
        (dense, OKABE_ITO[0], "-", "dense"), (best.losses, OKABE_ITO[5], "--", "with the Lasso, then small"),
    ):  # fmt: skip
        mean = np.convolve(losses, np.full(window, 1 / window), "valid")
        above.plot(np.arange(len(mean)) + window, mean, color=colour, linestyle=dash, label=name)
    above.set(ylabel="training loss", yscale="log")
    above.legend(fontsize="small")
    counts = np.array(best.alive)
    for column, colour, dash, name in (
        (1, OKABE_ITO[6], "--", "conv2 filters"), (0, OKABE_ITO[5], "-", "conv1 filters"),
        (2, OKABE_ITO[3], ":", "conv2 channels"),
    ):  # fmt: skip
        below.plot(10 * np.arange(len(counts)), counts[:, column], color=colour, linestyle=dash, label=name)
    below.set(xlabel="step", ylabel="not zero", ylim=(0, None))
    below.legend(fontsize="small")


CLAIM = Claim(
    "ssl-lenet", chapter="1", title="Group Lasso removes filters and channels of LeNet while it learns",
    seconds={"quick": 60, "full": 1500}, run=run,
)  # fmt: skip
