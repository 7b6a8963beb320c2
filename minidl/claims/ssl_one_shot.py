"""Claim ssl-one-shot: a network that shrinks while it learns is ready sooner, and its loss goes on without a jump.

Said (the talk; Wen et al. 2016 and 2018): group Lasso from scratch, in one go and with as many epochs as the dense
network, gives "faster training speed & faster inference speed"; pruning after training would need a second training.

Caffe's LeNet is trained twice, from the same weights and with the same images, by turns. One has the group Lasso on
filters and channels for the first steps; every so many steps units that have become 0 are taken out (compact), with the
velocities that belong to them, and the training goes on with what is left. A step's time is the median of its block,
all included; the time of taking out and proving is added. Random units that go at the same steps are the control of the
loss, and the dense network with the same, vain, attempts that of the time.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import BATCH, caffe_sgd, mistakes, with_arrays
from minidl.claims.trainings import Part, chosen_by_hand, faster, not_worse, part, smooth, train
from minidl.data.images import ImageSet
from minidl.layers import cross_entropy
from minidl.models.lenet import LeNet, lenet_caffe
from minidl.optim import inv
from minidl.sparsity import GroupLasso, NothingToRemove, compact, groups, silence_, units
from minidl.tensor import Tensor
from minidl.train import predict

CONVS = "conv1", "conv2"
LAYERS = (*CONVS, "ip1")


@dataclass(frozen=True)
class Setting:
    """trials: (rate of the dense network, lambda of the small one) of each pair; the small ones have rates[0].

    lasso, steps: with the Lasso, and in all; every: steps between two attempts to take units out.
    """

    trials: tuple[tuple[float, float], ...]
    lasso: int
    steps: int
    every: int
    held_back: int


QUICK = Setting(trials=((0.03, 0.018),), lasso=320, steps=640, every=80, held_back=2000)
FULL = Setting(
    trials=((0.01, 0.004), (0.02, 0.006), (0.005, 0.009)), lasso=4000, steps=10_000, every=500, held_back=10_000
)
JUMP = 1e-4
"""A relative step of the loss up to here is rounding in float32."""


def scaled(images: np.ndarray) -> np.ndarray:
    """Grey values / 256, as Caffe's example: (N, 28, 28) uint8 -> (N, 1, 28, 28) float32."""
    return images[:, None] / np.float32(256)


@dataclass(frozen=True, eq=False)
class Digits:
    """What the networks learn from, and what they are watched on: training images that are held back."""

    train: Part
    held_back: Part


class Course:
    """One network's training, block by block: what it has become, and the record of how."""

    def __init__(self, ctx: Context, s: Setting, digits: Digits, rate: float, lam: float = 0.0):
        self.ctx, self.s, self.digits, self.rate, self.lam = ctx, s, digits, rate, lam
        self.images, self.labels = digits.held_back
        self.model = lenet_caffe(ctx.rng("first weights"))
        self.optimizer = caffe_sgd(self.model, 0.0 if lam else 5e-4)
        self.penalty = self._lasso()
        self.record: dict[str, list] = {
            "losses": [], "errors": [], "step_seconds": [], "cut_seconds": [], "sizes": [], "jumps": []
        }  # fmt: skip

    def _lasso(self) -> GroupLasso | None:
        if not self.lam:
            return None
        return GroupLasso(groups(self.model, by="filter+channel", layers=CONVS), lam=self.lam)

    def sizes(self) -> list[int]:
        return [len(getattr(self.model, name).weight.data) for name in LAYERS]

    def loss(self) -> float:
        """On the first held-back images."""
        logits = predict(self.model, self.images[:500]).astype(np.float64)
        return cross_entropy(Tensor(logits), self.labels[:500]).item()

    def block(self, first: int, bar, wanted: list[int] | None = None) -> None:
        """The steps from `first` to the next attempt, and the attempt: of what is 0, or of units at random until
        `wanted` are left in each layer."""
        ends: list[float] = []
        lasso = self.penalty if first < self.s.lasso else None
        if first == self.s.lasso:
            self.optimizer.weight_decay = 5e-4

        def after_step(step: int) -> None:
            if lasso is not None:
                lasso.prox_(self.optimizer)
            ends.append(time.perf_counter())

        steps, policy = range(first, first + self.s.every), inv(self.rate, gamma=1e-4, power=0.75)
        losses = train(
            self.ctx, self.digits.train, self.model, self.optimizer, steps, BATCH, policy, bar, after_step=after_step
        )
        before, start = self.loss(), time.perf_counter()
        cut = steps.stop <= self.s.lasso and self._cut(wanted)
        seconds = time.perf_counter() - start
        for name, value in (
            ("losses", losses), ("errors", 100 * float(mistakes(self.model, self.images, self.labels).mean())),
            ("step_seconds", float(np.median(np.diff(ends)))), ("cut_seconds", seconds), ("sizes", self.sizes()),
            ("jumps", abs(self.loss() - before) / before if cut else 0.0),
        ):  # fmt: skip
            self.record[name].append(value)

    def _cut(self, wanted: list[int] | None) -> bool:
        x = self.images[:8]
        if wanted is not None:
            rng, found, chosen = self.ctx.rng("random units", *self.sizes()), units(self.model, x), []
            for layer, count in zip(LAYERS, wanted, strict=True):
                own = [u for u in found if u.layer == layer]
                chosen += [own[k] for k in rng.choice(len(own), len(own) - count, replace=False)]
            silence_(self.model, chosen)
        try:
            self.model, _, self.optimizer = compact(self.model, x, self.optimizer)
        except NothingToRemove:
            return False
        self.penalty = self._lasso()
        return True

    def done(self) -> dict:
        return {"state": self.model.state_dict(), "rate": self.rate, "lam": self.lam, **self.record}


def by_turns(ctx: Context, s: Setting, digits: Digits, rate: float, lam: float, bar) -> dict:
    """The dense and the shrinking network, a block of the one and a block of the other."""
    pair = {"dense": Course(ctx, s, digits, rate), "small": Course(ctx, s, digits, s.trials[0][0], lam)}
    for first in range(0, s.steps, s.every):
        for course in pair.values():
            course.block(first, bar)
    return {name: course.done() for name, course in pair.items()}


def at_random(ctx: Context, s: Setting, digits: Digits, small: dict, bar) -> dict:
    """A network without the Lasso that loses as many units in the same layers at the same steps, at random."""
    course = Course(ctx, s, digits, small["rate"])
    for k, first in enumerate(range(0, s.steps, s.every)):
        course.block(first, bar, small["sizes"][k])
    return course.done()


def clock(s: Setting, course: dict, attempts: bool) -> np.ndarray:
    """Seconds of training at the end of each block; attempts: with those for taking units out."""
    seconds = s.every * np.array(course["step_seconds"]) + attempts * np.array(course["cut_seconds"])
    return np.cumsum(seconds)


def first_at(clock: np.ndarray, errors: list[float], goal: float) -> float:
    """The time at which the error is `goal` or less for the first time; infinity if it never is."""
    reached = np.flatnonzero(np.array(errors) <= goal)
    return float(clock[reached[0]]) if len(reached) else np.inf


def run(ctx: Context) -> None:
    s = FULL if ctx.full else QUICK
    digits = ctx.dataset("mnist")
    split, n = digits.split(), s.held_back
    inner = Digits(
        (scaled(split.train_images), split.train_labels), (scaled(split.test_images[:n]), split.test_labels[:n])
    )
    with ctx.progress((2 * len(s.trials) + 1) * s.steps, f"{2 * len(s.trials) + 1} networks") as bar:
        pairs = [
            part(ctx, f"dense at rate {rate:g} and lambda {lam:g}, by turns", 2 * s.steps, bar,
                 functools.partial(by_turns, ctx, s, inner, rate, lam, bar))
            for rate, lam in s.trials
        ]  # fmt: skip
        best = min((pair["dense"] for pair in pairs), key=lambda course: course["errors"][-1])
        goal = best["errors"][-1]
        times = [time_to(s, pair, best, goal) for pair in pairs]
        chosen = int(np.argmax([first / own for first, own, _ in times]))
        if all(np.isinf(own) for _, own, _ in times):  # none gets there: the one that errs least
            chosen = int(np.argmin([pair["small"]["errors"][-1] for pair in pairs]))
        small, beside = pairs[chosen]["small"], pairs[chosen]["dense"]
        random = part(ctx, f"random units as with lambda {small['lam']:g}", s.steps, bar,
                      functools.partial(at_random, ctx, s, inner, small, bar))  # fmt: skip
    ctx.note(
        f"Batch {BATCH}, {s.steps:,} steps, the Lasso in the first {s.lasso:,}, an attempt every {s.every} of them; "
        f"errors on {s.held_back:,} held-back training images. Tried: "
        + "; ".join(
            f"dense at rate {pair['dense']['rate']:g}: {pair['dense']['errors'][-1]:.2f} %, lambda "
            f"{pair['small']['lam']:g}: {pair['small']['errors'][-1]:.2f} % with {pair['small']['sizes'][-1]} units"
            for pair in pairs
        ) + f". Taken: lambda {small['lam']:g}. The dense network's last error, {goal:.2f} %, is reached by the dense "
        f"network itself after {times[chosen][0]:.1f} s, by the small one after {times[chosen][1]:.1f} s."
    )  # fmt: skip
    rows(ctx, s, digits, best, small, beside, random, times[chosen])
    chosen_by_hand(ctx, settings=5)
    ctx.figure(
        lambda figure: draw(figure, s, best, beside, small, random, goal),
        alt="Left: training losses against seconds; that of the shrinking network goes on without a jump where units "
        "are taken out, and ends earlier; with random units taken out at the same steps it jumps up. Right: errors "
        "against seconds, with the dense network's last error as a line.",
        caption="Vertical lines: units are taken out. Seconds of training, all included; random ones with those of the "
        "shrinking network, whose sizes they have.",
    )


def time_to(s: Setting, pair: dict, best: dict, goal: float) -> tuple[float, float, float]:
    """Seconds to the goal: dense, small, and dense with the same attempts. A dense step is timed beside the small."""
    dense = pair["dense"]
    return (
        first_at(clock(s, dense, False), best["errors"], goal),
        first_at(clock(s, pair["small"], True), pair["small"]["errors"], goal),
        first_at(clock(s, dense, True), best["errors"], goal),
    )


def rows(ctx: Context, s: Setting, digits: ImageSet, best, small, beside, random, times) -> None:
    trials, sizes = len(s.trials), small["sizes"][-1]
    ctx.row(
        "filters of conv1 and conv2 left", said="5 and 19 of 20 and 50 (LeNet 2)", measured=sizes[:2], trials=trials,
        criterion="at least a quarter of the 70 gone", holds=sum(sizes[:2]) <= 52, control_holds=False,
        control={"what": "lambda = 0, the same attempts", "measured": beside["sizes"][-1][:2]},
    )  # fmt: skip
    vain = {"what": "lambda = 0 with the same attempts to take units out", "measured": times[0] / times[2]}
    ctx.row(
        "time to the dense network's last error, dense over small", said="faster training", unit="times",
        measured=times[0] / times[1] if np.isfinite(times[1]) else None, trials=trials,
        criterion="reached, and above 1.1", holds=times[0] > 1.1 * times[1], control=vain,
        control_holds=times[0] > 1.1 * times[2],
    )  # fmt: skip
    dense, own, idle = clock(s, beside, False)[-1], clock(s, small, True)[-1], clock(s, beside, True)[-1]
    ctx.row(
        f"time for {s.steps:,} steps, dense over small", said="faster training", measured=dense / own, unit="times",
        trials=trials, criterion="above 1.1", holds=dense > 1.1 * own,
        control={"what": vain["what"], "measured": dense / idle}, control_holds=dense > 1.1 * idle,
    )  # fmt: skip
    ctx.row(
        "largest jump of the loss where units are taken out, relative", said="continuous", measured=max(small["jumps"]),
        criterion=f"units were taken out, and at most {JUMP:g}",
        holds=any(small["jumps"]) and max(small["jumps"]) <= JUMP, trials=trials,
        control={"what": "random units at the same steps", "measured": max(random["jumps"])},
        control_holds=any(random["jumps"]) and max(random["jumps"]) <= JUMP,
    )  # fmt: skip
    x, y = scaled(digits.test_images), digits.test_labels
    models = {name: restored(course) for name, course in (("dense", best), ("small", small), ("random", random))}
    wrong = {name: mistakes(model, x, y) for name, model in models.items()}
    for name, what in (("dense", "dense"), ("small", "small"), ("random", "randomly shrunk")):
        ctx.row(f"test error of the {what} network", measured=100 * float(wrong[name].mean()), unit="%", trials=trials)
    not_worse(ctx, "small", wrong["small"], wrong["dense"], 0.3, said=-0.1, trials=trials)
    faster(ctx, models["dense"], models["small"], x[:BATCH], 1.1, "faster inference")


def restored(course: dict) -> LeNet:
    return with_arrays(lenet_caffe(np.random.default_rng(0)), course["state"])


def draw(figure, s: Setting, best, beside, small, random, goal: float) -> None:
    left, right = figure.subplots(1, 2)
    courses = (
        ("dense", best, clock(s, beside, False), OKABE_ITO[0], "-"),
        ("shrinking", small, clock(s, small, True), OKABE_ITO[5], "--"),
        ("random units out", random, clock(s, small, True), OKABE_ITO[6], ":"),
    )
    for name, course, seconds, colour, dash in courses:
        steps, means = smooth(np.concatenate(course["losses"]))
        at = np.interp(steps, s.every * np.arange(len(seconds) + 1), [0, *seconds])
        left.plot(at, means, dash, color=colour, label=name)
        right.plot(seconds, course["errors"], dash, color=colour, marker=".", label=name)
    for k, jump in enumerate(small["jumps"]):
        if jump:
            left.axvline(clock(s, small, True)[k], color=OKABE_ITO[2], linewidth=0.8, zorder=0)
    right.axhline(goal, color="grey", linewidth=0.8)
    left.set(xlabel="seconds of training", ylabel="training loss", yscale="log")
    right.set(xlabel="seconds of training", ylabel="error on held-back images, %", yscale="log")
    right.legend(fontsize="small")


CLAIM = Claim(
    "ssl-one-shot", chapter="1", title="A network that shrinks while it learns is ready sooner",
    seconds={"quick": 58, "full": 2200}, run=run,
)  # fmt: skip
