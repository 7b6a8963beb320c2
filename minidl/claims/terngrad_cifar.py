"""`terngrad-cifar`: with Adam too a network learns from ternary gradients about as well as from floats.

Said: CifarNet on CIFAR-10 reaches 85.64 % where floats reach 86.56 (batch 128, 2 workers), and 82.80 where floats reach
83.19 (batch 2,048, 16 workers, a sixteenth of the steps). (Wen et al. 2017, table 1)

Here the same network is trained for a few epochs by real MPI ranks that stand for as many workers: Adam, pictures of
24 x 24 cut out, mirrored, lighter or darker, with floats and with trits, from the same first weights, on the same
batches. All tensors are ternary. The control leaves the draw out. This file is also what the ranks run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.terngrad_ranks import (
    Job,
    bytes_row,
    data_parallel,
    in_words,
    main,
    outcome,
    paired,
    right,
    shuffled,
    train_on_cifar10,
    train_steps,
)  # fmt: skip
from minidl.claims.trainings import smooth
from minidl.data.augment import jitter, random_mirror
from minidl.layers import cross_entropy
from minidl.models.cifarnet import cifarnet
from minidl.optim import Adam, constant
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.workers import shard

HERE, RANKS, SIZE = "minidl.claims.terngrad_cifar", 2, 24
RATE, DECAY = 2e-4, 0.004  # weight decay of fc3 and fc4 alone, added after the exchange
TABLE = {128: (2, 86.56, 85.64), 2048: (16, 83.19, 82.80)}  # batch: workers, said of floats and of trits, in %
STEPS = {"quick": 50, "full": 1500}  # of batch 128
SEEDS = 3
POINTS = {"quick": 5.0, "full": 2.0}  # how much less than floats' accuracy is still "about as well"


def jobs_of(full: bool, seed: int) -> list[Job]:
    """Per seed a pair, floats and trits; the control with the first seed alone. Every batch size as many pictures."""
    jobs: list[Job] = []
    for batch, (workers, *_) in TABLE.items() if full else [(128, TABLE[128])]:
        steps = -(-STEPS["full" if full else "quick"] * 128 // batch)
        one = Job("float", workers, f"batch {batch}", steps, seed, tests=10_000 if full else 1000)
        for s in range(seed, seed + SEEDS):
            jobs += [replace(one, seed=s), replace(one, seed=s, mode="ternary")]
        jobs.append(replace(one, mode="floor"))
    return jobs


def run(ctx: Context) -> None:
    jobs = jobs_of(ctx.full, ctx.seed)
    pictures, found = train_on_cifar10(ctx, HERE, RANKS, jobs)
    ctx.note(
        f"{len(pictures.train_labels):,} training images, {SIZE} x {SIZE} cut out of each; Adam, rate {RATE}, nothing "
        f"tuned; {', '.join(f'{job.steps:,} steps of {job.variant}' for job in jobs if job.mode == 'floor')} "
        "(published: 300,000 of 128, 18,750 of 2,048); tested with the last weights on the middle of the test images."
    )
    percent = {job: 100 * float(one["correct"].mean()) for job, one in found.items()}
    for floor in [job for job in jobs if job.mode == "floor"]:
        judge(ctx, floor, percent)
        ternary, floats = (found[replace(floor, mode=mode)] for mode in ("ternary", "float"))
        bytes_row(ctx, f"times fewer bytes handed to mpi4py, {floor.variant}", ternary, floats, floor.steps, 4)
    ctx.figure(
        lambda figure: draw(figure, found),
        alt="Training loss over the pictures seen, a panel for each batch. Mean of the last tenth: "
        + in_words(found, ctx.seed),
        caption="CifarNet's training loss with Adam: floats, trits, and trits without the draw (first seed).",
    )


def judge(ctx: Context, floor: Job, percent: dict[Job, float]) -> None:
    """Accuracy of floats and trits over the seeds of one batch size, and their paired difference."""
    of = lambda mode: [replace(floor, mode=mode, seed=s) for s in range(floor.seed, floor.seed + SEEDS)]
    ternary, floats = ([percent[job] for job in of(mode)] for mode in ("ternary", "float"))
    workers, *said = TABLE[int(floor.variant.split()[1])]
    points = POINTS["full" if ctx.full else "quick"]
    name = f"{floor.variant}, {workers} workers"
    ctx.row(
        f"test accuracy, {name}", said={"float": said[0], "ternary": said[1]}, unit="%", seeds=SEEDS,
        measured={"float": float(np.mean(floats)), "ternary": float(np.mean(ternary))},
    )  # fmt: skip
    better, interval = paired(ternary, floats)
    biased = percent[floor] - percent[replace(floor, mode="float")]
    ctx.row(
        f"test accuracy, ternary minus float, {name}", said=round(said[1] - said[0], 2), measured=better,
        interval=interval, unit="points", seeds=SEEDS,
        criterion=f"the 95 % interval over {SEEDS} paired seeds lies above -{points:g}", holds=interval[0] > -points,
        contradicted=interval[1] < -points,
        control={"what": "trits without the draw, floor(clip(g) / s): biased; one seed", "measured": biased},
        control_holds=biased > -points,
    )  # fmt: skip


def draw(figure, found: dict[Job, dict]) -> None:
    variants = list(dict.fromkeys(job.variant for job in found))
    for axes, variant in zip(np.atleast_1d(figure.subplots(1, len(variants))), variants, strict=True):
        looks = {"float": (OKABE_ITO[0], "-"), "ternary": (OKABE_ITO[6], "--"), "floor": (OKABE_ITO[2], ":")}
        for mode, (colour, style) in looks.items():
            loss = next(one for job, one in found.items() if (job.mode, job.variant) == (mode, variant))["loss"]
            steps, means = smooth(loss, 25)
            seen = steps * int(variant.split()[1])
            axes.plot(seen, means, style, color=colour, label={"floor": "without the draw"}.get(mode, mode))
        axes.set(xlabel="pictures seen", ylabel="training loss", title=variant)
        axes.legend()


CLAIM = Claim(
    "terngrad-cifar", chapter="3", title="CifarNet learns from ternary gradients with Adam",
    seconds={"quick": 100, "full": 4000}, run=run,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what each rank runs


def standardised(x: np.ndarray) -> np.ndarray:
    """Each picture with mean 0 and deviation 1 (at least 1 / sqrt(its numbers): of a grey one nothing is left)."""
    mean, deviation = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (x - mean) / np.maximum(deviation, x[0].size ** -0.5)


def views(images: np.ndarray, rng: np.random.Generator, mirrored: bool) -> np.ndarray:
    """A window of SIZE x SIZE anywhere in each picture, mirrored half of the time, lighter or darker."""
    down, right = rng.integers(0, images.shape[-1] - SIZE + 1, (2, len(images)))
    windows = sliding_window_view(images, (SIZE, SIZE), axis=(-2, -1))  # (N, 3, a, b, SIZE, SIZE), without a copy
    x = windows[np.arange(len(images)), :, down, right].astype(np.float32) / np.float32(255)
    return standardised(jitter(random_mirror(x, rng) if mirrored else x, rng))


def middle(images: np.ndarray) -> np.ndarray:
    edge = (images.shape[-1] - SIZE) // 2
    return standardised(images[..., edge : edge + SIZE, edge : edge + SIZE].astype(np.float32) / np.float32(255))


def train(job: Job, comm, tell, data: dict, mirrored: bool) -> dict:
    """Train this rank's copy of CifarNet on its workers' shares of every batch, and test it on the rank's share."""
    model = cifarnet(size=SIZE, rng=np.random.default_rng([job.seed, 1]))
    decaying = "fc3.weight", "fc4.weight"
    decays, others = (
        [p for name, p in model.named_parameters() if (name in decaying) == wanted] for wanted in (True, False)
    )
    optimizer = Adam([{"params": decays, "weight_decay": DECAY}, {"params": others}], RATE)
    parallel = data_parallel(job, model, comm)
    rows = shuffled(len(data["train_labels"]), int(job.variant.split()[1]), job.seed, 2)

    def cost(step, worker):
        mine = np.sort(shard(rows(step), worker, job.workers))
        rng = np.random.default_rng([job.seed, 3, step, worker])
        x = views(data["train_images"][mine], rng, mirrored)
        return cross_entropy(model(Tensor(x)), data["train_labels"][mine])

    losses = train_steps(parallel, model, optimizer, cost, job.length, rate=constant(RATE), after_step=tell)
    return outcome(parallel, losses) | {"correct": right(model, comm, data, job.tests, middle)}


def warm_up() -> None:
    """One step of one rank without MPI: compiles what the ranks will use."""
    data = {f"{part}_{what}": np.zeros((128, *shape), np.uint8) for part in ("train", "test")
            for what, shape in (("images", (3, 32, 32)), ("labels", ()))}  # fmt: skip
    train(Job("ternary", 2, "batch 128", 1, tests=8), Counted(OneRank()), lambda step: None, data, True)


if __name__ == "__main__":
    main(train, warm_up)
