"""Claim smoothout-f1: a large batch finds sharper minima, and SmoothOut's noise leads it out of them.

The fully-connected net F1 learns MNIST's digits three times from the same weights, in the same order, for the same
number of epochs: with a small batch, with a large one, and with a large one and SmoothOut. Both large batches are cut
into ghost batches of 128, whose gradients are averaged (each has its own BatchNorm statistics and its own noise), so
that they differ in the noise alone. Settings are chosen on held-back training images, as many for each of the three;
the test images are looked at once for each trained network.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim
from minidl.data import batches
from minidl.layers import cross_entropy
from minidl.models.mlp import f1
from minidl.optim import SGD, clip_grad_norm, multistep
from minidl.smoothout import renew_statistics, sharpness, smoothing, smoothout
from minidl.smoothout.sharpness import mean_loss
from minidl.tensor import Tensor
from minidl.train import accuracy

SMALL = GHOST = 128
SMALL_RATE = 0.1
NOISES = (0.003, 0.01, 0.03)
CURVE = (0.01, 0.02, 0.03, 0.05)
SEEDS = range(5)
CONTROL_SEEDS = range(2)  # a = 0 gives the same bits as no noise: two seeds show it
T_975 = {2: 12.706, 5: 2.776}
"""Student's t, 97.5 %, for that many pairs: the half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Task:
    """What is to be learned, and how large the experiment is."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    hidden: int
    epochs: int
    large: int
    held_back: int  # training images that choose the settings; learned from afterwards
    measured: int  # training images over which sharpness and the curve are taken


@dataclass(frozen=True)
class Method:
    """One way to train. a = None does not enter SmoothOut's code at all; a = 0 enters it and adds zeros."""

    name: str
    batch: int
    rate: float
    a: float | None = None


def run(ctx):
    data = ctx.dataset("mnist")
    whole = ctx.full and len(data.train_images) == 60_000
    n = 60_000 if whole else 4000
    task = Task(
        pixels(data.train_images[:n]), data.train_labels[:n], pixels(data.test_images), data.test_labels,
        hidden=512 if ctx.full else 64, epochs=50 if ctx.full else 24, large=2048 if whole else 1024,
        held_back=10_000 if whole else 1000, measured=5000 if whole else 1000,
    )  # fmt: skip
    ratio = task.large / SMALL
    trials, finals = 3 * len(NOISES), 3 * len(SEEDS) + len(CONTROL_SEEDS)
    with ctx.progress((trials + finals) * task.epochs, "training") as bar:
        bar.set(f"{trials} trials on held-back images")
        small = choose(ctx, task, bar, [Method("small batch", SMALL, SMALL_RATE * k) for k in (0.5, 1, 2)])
        scaled = [Method("large batch", task.large, SMALL_RATE * k) for k in (1, ratio**0.5, ratio)]
        large = choose(ctx, task, bar, scaled)
        smooth = choose(ctx, task, bar, [replace(large, name="large batch + SmoothOut", a=a) for a in NOISES])
        methods = small, large, smooth
        found = {m: [] for m in methods}
        for seed in SEEDS:
            for m in methods:
                bar.set(f"{m.name}, seed {seed}")
                found[m].append(measure(ctx, task, train(ctx, task, bar, m, seed), seed))
        bar.set("control, a = 0")
        zero = replace(smooth, a=0.0)
        control = [measure(ctx, task, train(ctx, task, bar, zero, seed), seed) for seed in CONTROL_SEEDS]
    report(ctx, methods, found, control, scale="published" if whole else "reduced")
    ctx.figure(
        lambda fig: draw(fig, methods, found),
        alt="Three panels. " + " ".join(
            f"{m.name}: {np.mean([r.accuracy for r in found[m]]):.2f} % of the test images right, "
            f"sharpness {np.mean([r.sharpness for r in found[m]]):.2f}, loss risen by "
            f"{np.mean([r.curve[-1] for r in found[m]]):.3f} nats under noise of {CURVE[-1]}." for m in methods
        ),
        caption="Test accuracy and sharpness, a point for each seed and a line at the mean; and how far the training "
                "loss rises when noise of size a is added to the weights (mean over seeds and draws).",
    )  # fmt: skip
    ctx.note(
        f"F1 with 5 x {task.hidden} hidden units, {n:,} training images, {task.epochs} epochs, batches of "
        f"{SMALL} and {task.large:,}; the published net has 5 x 512, 60,000 images and 50 epochs. SGD with momentum "
        "0.9, weight decay 1e-4, gradients clipped at norm 5, the rate divided by 10 after 20, 40 and 60 % of the "
        "epochs. Both large batches use ghost batches of 128. BatchNorm's statistics are taken anew, over the training "
        "images, at the end of every training."
    )
    ctx.note(
        f"Chosen on {task.held_back:,} held-back training images with one seed, out of {len(NOISES)} settings each: "
        f"rate {small.rate:.3g} for the small batch, rate {large.rate:.3g} for the large one, a = {smooth.a:g} for "
        "SmoothOut, which takes over the large batch's rate. The published a for F1 is not known."
    )
    ctx.note(
        f"Sharpness is Keskar's, over {task.measured:,} training images in evaluation mode, eps = 5e-4, ten "
        "iterations of L-BFGS-B from the weights themselves."
    )


# ------------------------------------------------------------------------------------------------------------ training


def pixels(images: np.ndarray) -> np.ndarray:
    """(N, 28, 28) bytes -> (N, 784) float32 in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def train(ctx, task: Task, bar, method: Method, seed, images: slice = slice(None)):
    """One network. Its first weights and the order of the images depend on the seed alone: methods are paired."""
    x, y = task.x[images], task.y[images]
    model = f1(task.hidden, rng=ctx.rng("weights", seed))
    order, noise = ctx.rng("order", seed), ctx.rng("noise", seed)
    optimizer = SGD(model.parameters(), method.rate, momentum=0.9, weight_decay=1e-4)
    rate = multistep(method.rate, 0.1, at=[task.epochs * part for part in (0.2, 0.4, 0.6)])
    for epoch in range(task.epochs):
        optimizer.lr = rate(epoch)
        for xs, ys in batches((x, y), method.batch, order):
            optimizer.zero_grad()
            for part, labels in batches((xs, ys), GHOST):
                with nullcontext() if method.a is None else smoothout(model, a=method.a, rng=noise):
                    loss = cross_entropy(model(Tensor(part)), labels)
                    (loss * (len(part) / len(xs))).backward()  # .grad adds up to the mean over the whole batch
            clip_grad_norm(model.parameters(), 5)
            optimizer.step()
        bar.update()
    renew_statistics(model, (part for (part,) in batches(x, 500)))
    return model


def choose(ctx, task: Task, bar, candidates: list[Method]) -> Method:
    """The candidate with the highest accuracy on held-back images; among equals the one with the lower loss."""
    kept, held = slice(None, -task.held_back), slice(-task.held_back, None)

    def score(method):
        model = train(ctx, task, bar, method, "trial", kept)
        return accuracy(model, task.x[held], task.y[held]), -mean_loss(model, task.x[held], task.y[held])

    return max(candidates, key=score)


# ----------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Result:
    """What is asked of one trained network: per cent right, sharpness in per cent, the rise of the loss over CURVE."""

    accuracy: float
    sharpness: float
    curve: np.ndarray


def measure(ctx, task: Task, model, seed: int) -> Result:
    some = task.x[: task.measured], task.y[: task.measured]
    rise, _ = smoothing(model, *some, a=CURVE, draws=3, rng=ctx.rng("curve", seed))
    return Result(100 * accuracy(model, task.test_x, task.test_y), sharpness(model, *some), rise)


def paired(of, ones, others) -> tuple[float, tuple[float, float]]:
    """The mean of of(one) - of(other) over the pairs, and its 95 % interval (Student's t)."""
    d = np.array([of(one) - of(other) for one, other in zip(ones, others, strict=True)])
    half = T_975[len(d)] * d.std(ddof=1) / len(d) ** 0.5
    return d.mean(), (d.mean() - half, d.mean() + half)


def report(ctx, methods, found, control, scale):
    small, large, smooth = (found[m] for m in methods)
    common = {"seeds": list(SEEDS), "trials": len(NOISES), "scale": scale}
    without = large[: len(CONTROL_SEEDS)]

    def points(one):
        return one.accuracy

    def log_sharpness(one):
        return np.log(one.sharpness)

    def ratio(ones, others):
        mean, interval = paired(log_sharpness, ones, others)
        return np.exp(mean), tuple(np.exp(interval))

    for name, unit in (("accuracy", "% of the test images"), ("sharpness", "% of 1 + loss")):
        measured = {m.name: float(np.mean([getattr(r, name) for r in found[m]])) for m in methods}
        ctx.row(name, measured=measured, unit=unit, **common)
    gap, interval = paired(points, large, small)
    ctx.row(
        "accuracy, large batch minus small batch", said="below 0", measured=gap, unit="points", interval=interval,
        criterion="the 95 % interval of the paired difference is below 0", holds=interval[1] < 0,
        contradicted=interval[0] > 0, **common,
    )  # fmt: skip
    times, interval = ratio(large, small)
    ctx.row(
        "sharpness, large batch over small batch", said="above 1", measured=times, interval=interval,
        criterion="the 95 % interval of the paired ratio is above 1", holds=interval[0] > 1,
        contradicted=interval[1] < 1, **common,
    )  # fmt: skip
    gain, interval = paired(points, smooth, large)
    nothing, around = paired(points, control, without)
    ctx.row(
        "accuracy, large batch with SmoothOut minus without", said="above 0", measured=gain, unit="points",
        interval=interval, criterion="the 95 % interval of the paired difference is above 0", holds=interval[0] > 0,
        contradicted=interval[1] < 0, control={"what": "SmoothOut with a = 0", "measured": nothing},
        control_holds=around[0] > 0, **common,
    )  # fmt: skip
    times, interval = ratio(smooth, large)
    same, around = ratio(control, without)
    ctx.row(
        "sharpness, large batch with SmoothOut over without", said="below 1", measured=times, interval=interval,
        criterion="the 95 % interval of the paired ratio is below 1", holds=interval[1] < 1,
        contradicted=interval[0] > 1, control={"what": "SmoothOut with a = 0", "measured": same},
        control_holds=around[1] < 1, **common,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- drawing


def draw(fig, methods, found):
    fig.set_size_inches(10, 4)
    left, middle, right = fig.subplots(1, 3)
    looks = zip(methods, (OKABE_ITO[5], OKABE_ITO[6], OKABE_ITO[3]), "os^", ("-", "--", ":"), strict=True)
    for place, (m, colour, marker, dash) in enumerate(looks):
        for panel, of in ((left, "accuracy"), (middle, "sharpness")):
            values = [getattr(r, of) for r in found[m]]
            beside = place + np.linspace(-0.15, 0.15, len(values))  # seeds with equal values stay apart
            panel.plot(beside, values, marker, color=colour, alpha=0.8)
            panel.hlines(np.mean(values), place - 0.3, place + 0.3, color=colour, linestyle=dash)
        right.plot(CURVE, np.mean([r.curve for r in found[m]], 0), marker, color=colour, linestyle=dash, label=m.name)
    for panel in (left, middle):
        panel.set_xticks(range(3), [m.name.replace(" + ", "\n+ ").replace(" batch", "\nbatch") for m in methods])
        panel.set_xlim(-0.5, 2.5)
    left.set_title("test accuracy, %")
    middle.set_title("sharpness, %")
    middle.set_ylim(bottom=0)
    right.set_title("rise of the training loss, nats")
    right.set_xlabel("noise a")
    right.legend()


CLAIM = Claim(
    "smoothout-f1",
    chapter="4",
    title="SmoothOut leads large-batch training out of sharp minima (F1 on MNIST)",
    seconds={"quick": 60, "full": 12_000},
    run=run,
)
