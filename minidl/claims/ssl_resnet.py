"""Claim ssl-resnet: group Lasso takes whole layers out of a ResNet while it learns, and it stays as good.

Said (Wen et al. 2016, section 4.2): ResNet-20 on CIFAR-10 errs in 8.82 %; with 14 layers left by the Lasso in 8.54 %.

A group is one 3 x 3 convolution of a residual block. Where it is 0 the branch is a constant, and the block is its
shortcut: both convolutions leave the network (sparsity/branches.py). Then what is left is trained on. All networks
start from the same weights and see the same pictures; the dense one for as many steps, at as many rates as there are
trainings with the Lasso, chosen on pictures that are held back.

A lambda that stays as it is takes nothing or nearly everything in trainings as short as these (of 20 layers 0.007 left
20, 0.014 eight, 0.028 four). So it is steered: to a share of the groups that is 0 (sparsity/steer.py).

Published groups hold a convolution's weights alone. BatchNorm undoes their scale: the smaller they get, the longer is
their gradient, up to 1 / sqrt(eps) = 316 times as long at 0, and in trainings as short as these no group becomes 0.
Here a group also holds the scale (gamma) of the BatchNorm behind; full mode trains with the published groups as well.
Reduced: images of 16 x 16 pixels, 20,000 training images at most, few epochs; quick mode has a ResNet-14.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import mistakes, paired
from minidl.claims.trainings import (
    Every,
    Pictures,
    chosen_by_hand,
    exact,
    faster,
    not_worse,
    part,
    pictures,
    smooth,
    train,
)  # fmt: skip
from minidl.models.resnet import ResNet, resnet
from minidl.optim import SGD
from minidl.sparsity import Certificate, GroupLasso, Groups, NothingToRemove, Steer, compact, groups
from minidl.train import predict


@dataclass(frozen=True)
class Setting:
    """rates: tried for the dense network, the last of them also with the Lasso; `lasso` and `fine_tune` are steps."""

    layers: int
    rates: tuple[float, ...]
    lam: float  # lambda in the first steps
    gone: tuple[float, ...]  # shares of the groups, tried one after another, that are to be 0 in two thirds of `lasso`
    published: float | None  # lambda, kept as it is, of one more training, with the published groups
    batch: int
    lasso: int
    fine_tune: int
    images: int | None
    held_back: int
    test: int | None

    steps = property(lambda self: self.lasso + self.fine_tune)


QUICK = Setting(
    layers=14, rates=(0.1,), lam=0.05, gone=(0.33,), published=None, batch=32, lasso=220, fine_tune=300, images=4000,
    held_back=500, test=1000,
)  # fmt: skip
FULL = Setting(
    layers=20, rates=(0.2, 0.1, 0.05), lam=0.02, gone=(0.17, 0.34, 0.5), published=0.014, batch=64, lasso=1600,
    fine_tune=600, images=None, held_back=2000, test=None,
)  # fmt: skip
ALLOWED = 1.0
"""So many points more errors count as `as good`."""


@dataclass(frozen=True)
class Shrunk:
    """What one wanted share gave: the network just cut, and fine-tuned; lambda and all norms every ten steps."""

    wanted: float
    lam: list[float]
    zeroed: ResNet
    cut: ResNet
    small: ResNet
    certificate: Certificate | None  # None where nothing became 0
    losses: list[float]
    norms: np.ndarray
    error: float

    @property
    def gone(self) -> list[int]:
        """The blocks whose branch left."""
        return [k for k, block in enumerate(self.small.blocks) if not block.conv2.state_dict()]


def convolutions(model: ResNet) -> list[str]:
    """The 3 x 3 convolutions of the residual blocks that the network holds, by name."""
    names = [name.removesuffix(".weight") for name in model.state_dict() if name.startswith("blocks.")]
    return [name for name in names if name.endswith((".conv1", ".conv2"))]


def layer_groups(model: ResNet, scales: bool) -> Groups:
    """A group for each of them; scales: with the scale (gamma) of the BatchNorm behind it."""
    faces, shapes = {}, {name: p.shape for name, p in model.named_parameters()}
    for k, name in enumerate(convolutions(model)):
        for member in (name, name.replace("conv", "bn"))[: 1 + scales]:
            faces[f"{member}.weight"] = 0, np.full(shapes[f"{member}.weight"][0], k)
    return groups(model, by=faces)


class Lab:
    """Trains networks, each of them once: an interrupted run does not train them again."""

    def __init__(self, ctx: Context, s: Setting, data: Pictures):
        self.ctx, self.s, self.data = ctx, s, data
        self.bar = ctx.progress(0, "")

    def fresh(self) -> ResNet:
        return resnet(self.s.layers, rng=self.ctx.rng("first weights"))

    def error(self, model: ResNet) -> float:
        return 100 * float(mistakes(model, *self.data.held_back).mean())

    def train(self, model, optimizer, steps: range, rate: float, callbacks=()) -> list[float]:
        s, rates = self.s, lambda step: rate if step < 0.75 * self.s.steps else rate / 10
        return train(
            self.ctx, self.data.train, model, optimizer, steps, s.batch, rates, self.bar, augment=self.data.augmented,
            callbacks=callbacks,
        )  # fmt: skip

    def sgd(self, model: ResNet) -> SGD:
        return SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)

    def dense(self, rate: float) -> tuple[ResNet, ResNet, list[float]]:
        """A network without the Lasso: at the step in which others are cut, at the end; and its losses."""
        halfway, model = self.fresh(), self.fresh()

        def trained() -> dict:
            optimizer = self.sgd(model)
            losses = self.train(model, optimizer, range(self.s.lasso), rate)
            before = model.state_dict()
            losses += self.train(model, optimizer, range(self.s.lasso, self.s.steps), rate)
            return {"before": before, "state": model.state_dict(), "losses": losses}

        found = part(self.ctx, f"dense, rate {rate:g}", self.s.steps, self.bar, trained)
        halfway.load_state_dict(found["before"])
        model.load_state_dict(found["state"])
        return halfway, model, found["losses"]

    def shrunk(self, gone: float, published: bool = False) -> Shrunk:
        """Training with the Lasso until that share of the groups is 0, compaction, fine-tuning.

        published: groups without BatchNorm's scales, and a lambda that is not steered.
        """
        name = f"{gone:.0%} of the groups" if not published else "published groups"
        found = part(self.ctx, name, self.s.steps, self.bar, functools.partial(self._shrink, gone, published))
        zeroed = self.fresh()
        zeroed.load_state_dict(found["zeroed"])
        cut, certificate, _ = self.cut(zeroed, self.sgd(zeroed))
        small = copy.deepcopy(cut)
        small.load_state_dict(found["small"])
        return Shrunk(
            gone, found["lam"], zeroed, cut, small, certificate, found["losses"], found["norms"], self.error(small)
        )

    def _shrink(self, gone: float, published: bool) -> dict:
        s, model, norms, lams = self.s, self.fresh(), [], []
        groups, optimizer = layer_groups(model, scales=not published), self.sgd(model)
        penalty = GroupLasso(groups, lam=s.published if published else s.lam)

        def look() -> None:
            norms.append(penalty.norms())
            lams.append(penalty.lam)

        callbacks = [penalty, Every(10, look)]
        if not published:
            callbacks.append(Steer(penalty, gone, over=2 * s.lasso // 3, every=min(20, s.lasso // 12)))
        losses = self.train(model, optimizer, range(s.lasso), s.rates[-1], callbacks)
        zeroed = model.state_dict()
        small, _, optimizer = self.cut(model, optimizer)
        losses += self.train(small, optimizer, range(self.s.lasso, self.s.steps), self.s.rates[-1])
        return {"zeroed": zeroed, "small": small.state_dict(), "losses": losses, "norms": np.array(norms), "lam": lams}

    def cut(self, model: ResNet, optimizer: SGD):
        """compact(), and the model itself with None for a certificate where nothing is 0.

        maps: a first convolution that alone is 0 makes its branch constant too, but another constant at the border.
        """
        try:
            return compact(model, self.data.held_back[0][:4], optimizer, maps=True)
        except NothingToRemove:
            return model, None, optimizer

    def without_random_blocks(self, model: ResNet, count: int) -> tuple[ResNet, ResNet]:
        """The model with so many branches out, chosen at random: just cut, and fine-tuned."""
        model = copy.deepcopy(model)
        for k in self.ctx.rng("random blocks").choice(len(model.blocks), count, replace=False):
            for conv in (model.blocks[k].conv1, model.blocks[k].conv2):
                conv.weight.data = np.zeros_like(conv.weight.data)
        cut, _, optimizer = self.cut(model, self.sgd(model))
        tuned = copy.deepcopy(cut)

        def trained() -> dict:
            small = copy.deepcopy(cut)
            self.train(small, self.sgd(small), range(self.s.lasso, self.s.steps), self.s.rates[-1])
            return small.state_dict()

        tuned.load_state_dict(part(self.ctx, f"{count} random blocks out", self.s.fine_tune, self.bar, trained))
        return cut, tuned


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    found = ctx.dataset("cifar10")
    data = pictures(found, size=16, held_back=s.held_back, scale=True, train=s.images, test=s.test)
    lab, networks = Lab(ctx, s, data), len(s.rates) + len(s.gone) + (s.published is not None)
    with ctx.progress(networks * s.steps + s.fine_tune, f"{networks + 1} networks") as lab.bar:
        dense = {rate: lab.dense(rate) for rate in s.rates}
        errors = {rate: lab.error(model) for rate, (_, model, _) in dense.items()}
        best = min(errors, key=lambda rate: errors[rate])
        halfway, whole, losses = dense[best]
        trials = [lab.shrunk(gone) for gone in s.gone]
        r = taken(trials, errors[best] + ALLOWED)
        left = 2 + len(convolutions(r.small))
        ctx.note(
            f"ResNet-{s.layers}, {len(data.train[0]):,} images of 16 x 16 pixels, batch {s.batch}, {s.lasso} steps and "
            f"{s.fine_tune} more, the last quarter of all at a tenth of the rate. Errors on {len(data.held_back[1]):,} "
            "held-back training images: dense: "
            + "; ".join(f"rate {rate:g}: {e:.2f} %" for rate, e in errors.items())
            + f". With the Lasso, rate {s.rates[-1]:g}: "
            + "; ".join(
                f"steered to {t.wanted:.0%} of the groups at 0, by lambda {min(t.lam):.2g} to {max(t.lam):.2g}: "
                f"{2 + len(convolutions(t.small))} layers, {t.error:.2f} %" for t in trials
            )
            + f". Taken: {r.wanted:.0%} (published: lambda 0.007, in 64,000 steps)."
        )  # fmt: skip
        plain = lab.cut(halfway, lab.sgd(halfway))[0]
        if s.published is not None:
            ctx.row(
                f"layers left of {s.layers} with the published groups, lambda {s.published:g}", said="14 of 20",
                measured=2 + len(convolutions(lab.shrunk(0.0, published=True).small)),
            )  # fmt: skip
        ctx.row(
            f"layers left of {s.layers}", said="14 of 20", measured=left, trials=len(s.gone),
            criterion=f"at most {s.layers - 2}: a block's branch is gone at least", holds=left <= s.layers - 2,
            control={"what": "lambda = 0: the proximal step is skipped", "measured": 2 + len(convolutions(plain))},
            control_holds=2 + len(convolutions(plain)) <= s.layers - 2,
        )  # fmt: skip
        if r.certificate is not None:
            ctx.note(str(r.certificate))
            compare(ctx, lab, r, halfway, whole)
    chosen_by_hand(ctx, settings=8)
    ctx.figure(
        lambda figure: draw(figure, s, r, losses),
        alt="Left: the norm of each block convolution's weights against steps; some fall to 0, the two of a block "
        f"soon after each other. Right: both training losses fall; the network that loses {s.layers - left} of its "
        f"{s.layers} layers at step {s.lasso} has no jump there.",
        caption="Convolutions of residual blocks whose weights become 0 leave the network.",
    )


def taken(found: list[Shrunk], most: float) -> Shrunk:
    """The one with the fewest layers whose error is at most `most` %; if there is none, the one with the best error."""
    good = [r for r in found if r.error <= most and r.certificate is not None]
    return min(good, key=lambda r: (-len(r.gone), r.error)) if good else min(found, key=lambda r: r.error)


def compare(ctx: Context, lab: Lab, r: Shrunk, halfway: ResNet, whole: ResNet) -> None:
    """The rows about the small network: errors, exactness, cost, time."""
    s, (x, y), count = lab.s, lab.data.test, len(r.gone)
    certificate, trials = r.certificate, len(s.gone)
    assert certificate is not None
    random_cut, random_tuned = lab.without_random_blocks(halfway, count)
    wrong = {
        name: mistakes(model, x, y) for name, model in
        (("dense", whole), ("small", r.small), ("random", random_tuned), ("just cut", random_cut))
    }  # fmt: skip
    for name, said in (("dense", 8.82), ("small", 8.54)):
        ctx.row(
            f"test error of the {name} network", said=said, measured=100 * float(wrong[name].mean()), unit="%",
            trials=len(s.rates) if name == "dense" else trials,
        )  # fmt: skip
    hurt = f"{count} random blocks taken out of the dense network, no training after it", wrong["just cut"]
    not_worse(ctx, "small", wrong["small"], wrong["dense"], ALLOWED, said=-0.28, trials=trials, hurt=hurt)
    less, error = paired(wrong["small"], wrong["random"])
    ctx.row(
        f"test error, learned less {count} random blocks out, both fine-tuned", measured=less, unit="points",
        interval=(less - 2 * error, less + 2 * error), criterion="below 0 by two standard errors",
        holds=less < -2 * error, contradicted=less > 2 * error, trials=trials,
    )  # fmt: skip
    inputs, spoilt = lab.data.held_back[0][:4].astype(np.float64), copy.deepcopy(r.cut)
    weight = spoilt.conv.weight.data.copy()
    weight[np.argmax(np.abs(weight).sum((1, 2, 3)))] = 0
    spoilt.conv.weight.data = weight
    whole_says, spoilt_says = (predict(m.astype(np.float64), inputs) for m in (copy.deepcopy(r.cut), spoilt))
    far = float(np.abs(whole_says - spoilt_says).max())
    exact(ctx, certificate, "one filter of the first convolution silenced too", far)
    ctx.row(
        "multiply-adds left", measured=100 * certificate.macs_after / certificate.macs_before, unit="%", trials=trials
    )
    faster(ctx, whole, r.small, x[:64], 1.05)


def draw(figure, s: Setting, r: Shrunk, dense_losses: list[float]) -> None:
    left, right = figure.subplots(1, 2)
    for k, norms in enumerate(r.norms.T):  # two convolutions a block
        colour = OKABE_ITO[6 if k // 2 in r.gone else 5]
        left.plot(10 * np.arange(len(norms)), norms, "--" if k % 2 else "-", color=colour, linewidth=1)
    for style, of, label in (("-", 6, "leaves"), ("-", 5, "stays"), ("-", 0, "first"), ("--", 0, "second of block")):
        left.plot([], [], style, color=OKABE_ITO[of], label=label)
    left.set(xlabel="step", ylabel="norm of a group", ylim=(0, None))
    left.legend(fontsize="small")
    for losses, colour, dash, name in (
        (dense_losses, OKABE_ITO[0], "-", "dense"), (r.losses, OKABE_ITO[5], "--", "with the Lasso, then small"),
    ):  # fmt: skip
        right.plot(*smooth(losses), color=colour, linestyle=dash, label=name)
    right.axvline(s.lasso, color=OKABE_ITO[2], linestyle=":", label="cut")
    right.set(xlabel="step", ylabel="training loss")
    right.legend(fontsize="small")


CLAIM = Claim(
    "ssl-resnet", chapter="1", title="Group Lasso takes whole layers out of a ResNet, and it stays as good",
    seconds={"quick": 80, "full": 2600}, run=run,
)  # fmt: skip
