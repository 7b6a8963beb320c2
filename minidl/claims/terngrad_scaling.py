"""`terngrad-scaling`: twice the workers and half the steps, and ternary gradients still keep up; without clipping less.

Said, top-1 accuracy of AlexNet with 2, 4, 8 workers: floats 57.33, 57.32, 56.62 %, TernGrad 57.61, 57.28, 57.54 %, with
2 workers but without clipping 54.63 %. GoogLeNet, top-5: floats 88.30, 87.82, 89.00 %, TernGrad 86.77, 85.96, 86.47 %.
(Wen et al. 2017, tables 2 and 3; ImageNet)

Here both networks have a quarter of their filters, BatchNorm behind each convolution, and learn CIFAR-10. For AlexNet
pictures are enlarged to 64 x 64, and its weights are drawn with He's deviation: the published .01 suits the full width.
Each worker has 32 pictures of every batch, so that twice the workers take half the steps, at the published rates. The
last layer and tensors below 1,000 numbers stay in float. Published TernGrad has less dropout than floats have, in
GoogLeNet less weight decay too; here both have TernGrad's, and in full floats with their own are a row. The control
leaves the draw out. Quick mode stops at 4 workers, for 8 would take too few steps. This file is also what ranks run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.terngrad_ranks import (
    Job,
    bytes_row,
    data_parallel,
    main,
    outcome,
    paired,
    right,
    shuffled,
    train_on_cifar10,
    train_steps,
)  # fmt: skip
from minidl.data.augment import random_crop, random_mirror
from minidl.layers import cross_entropy
from minidl.models.alexnet import alexnet
from minidl.models.googlenet import googlenet
from minidl.optim import SGD, poly, step
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.workers import shard

HERE, RANKS, WIDTH, EACH, SMALL = "minidl.claims.terngrad_scaling", 2, 0.25, 32, 1000
NETS: dict[str, dict[str, Any]] = {  # rates by number of workers; dropout and weight decay, of TernGrad and of floats
    "AlexNet": {"rates": {2: 0.01, 4: 0.02, 8: 0.04}, "dropout": (0.2, 0.5), "decay": (5e-4, 5e-4)},
    "GoogLeNet": {"rates": {2: 0.04, 4: 0.08, 8: 0.10}, "dropout": (0.08, 0.2), "decay": (1e-5, 4e-5)},
}
SAID: dict[str, dict[str, Any]] = {
    "AlexNet": {"float": [57.33, 57.32, 56.62], "ternary": [57.61, 57.28, 57.54], "no clip": 54.63},
    "GoogLeNet": {"float": [88.30, 87.82, 89.00], "ternary": [86.77, 85.96, 86.47]},
}
OWN = ", dropout and decay of floats"  # behind a network's name
IMAGES, QUICK_IMAGES = 100_000, 10_240  # that each training sees, with repetition
SEEDS = {"quick": 1, "full": 3}
POINTS = {"quick": 10.0, "full": 3.0}  # how much less than floats' accuracy, in the mean over 2, 4 and 8 workers


def jobs_of(full: bool, seed: int) -> list[Job]:
    jobs: list[Job] = []
    tests, images = (10_000, IMAGES) if full else (1000, QUICK_IMAGES)
    of = lambda mode, workers, net, s: Job(mode, workers, net, images // (EACH * workers), s, tests=tests)
    for net in NETS:
        for s in range(seed, seed + SEEDS["full" if full else "quick"]):
            workers = [*NETS[net]["rates"]] if full else [2, 4]
            jobs += [of(mode, n, net, s) for n in workers for mode in ("float", "ternary")]
            jobs += [of("no clip", 2, net, s), *([of("float", 2, net + OWN, s)] if full else [])]
        jobs.append(of("floor", 2, net, seed))
    return jobs


def run(ctx: Context) -> None:
    jobs = jobs_of(ctx.full, ctx.seed)
    pictures, found = train_on_cifar10(ctx, HERE, RANKS, jobs)
    ctx.note(
        f"{len(pictures.train_labels):,} training images, {jobs[0].steps * 2 * EACH:,} seen in each training, {EACH} a "
        "worker and step; momentum .9; AlexNet's rate falls to a tenth twice, GoogLeNet's with power .5 to 0; rates "
        "and decay as published, nothing tuned; top-1 accuracy with the last weights."
    )
    percent = {job: 100 * float(one["correct"].mean()) for job, one in found.items()}
    for net in NETS:
        rows_of(ctx, net, percent)
        one = next(job for job in jobs if (job.mode, job.variant) == ("ternary", net))
        ternary, floats = found[one], found[replace(one, mode="float")]
        bytes_row(ctx, f"times fewer bytes, {net}, 2 workers", ternary, floats, one.steps, 5)
    ctx.figure(
        lambda figure: draw(figure, percent),
        alt="Test accuracy over the number of workers, a panel for each network. "
        + "; ".join(
            f"{job.variant}, {job.mode}, {job.workers} workers: {percent[job]:.0f} %"
            for job in jobs
            if job.seed == ctx.seed and not job.variant.endswith(OWN)
        ),
        caption="Twice the workers, half the steps: accuracy of small AlexNet and GoogLeNet (mean over the seeds).",
    )


def rows_of(ctx: Context, net: str, percent: dict[Job, float]) -> None:
    """The table's shape for one network."""
    seeds = sorted({job.seed for job in percent})
    workers = sorted({job.workers for job in percent})
    points = POINTS["full" if ctx.full else "quick"]
    of = lambda mode, n, variant=net: np.array(
        [percent[job] for job in percent if (job.mode, job.workers, job.variant) == (mode, n, variant)]
    )
    table = {mode: [float(of(mode, n).mean()) for n in workers] for mode in ("float", "ternary")}
    ctx.row(
        f"test accuracy, {net}, {', '.join(map(str, workers))} workers", unit="%", seeds=seeds,
        said={mode: SAID[net][mode][: len(workers)] for mode in table}, measured=table,
    )  # fmt: skip
    if ctx.full:
        ctx.row(
            f"test accuracy, {net}, 2 workers, floats with their own dropout and decay", unit="%", seeds=seeds,
            measured=float(of("float", 2, net + OWN).mean()),
        )  # fmt: skip
    ternary, floats = (np.mean([of(mode, n) for n in workers], axis=0) for mode in ("ternary", "float"))  # a seed each
    better, interval = (ternary[0] - floats[0], None) if len(seeds) == 1 else paired(ternary, floats)
    low, high = interval or (better, better)
    biased = float(of("floor", 2)[0] - of("float", 2)[0])
    ctx.row(
        f"test accuracy, ternary minus float, {net}, mean over the numbers of workers", unit="points", seeds=seeds,
        said=round(float(np.mean([SAID[net]["ternary"][k] - SAID[net]["float"][k] for k in range(len(workers))])), 2),
        measured=float(better), interval=interval,
        criterion=f"above -{points:g}" + (", and so is the 95 % interval over paired seeds" if interval else ""),
        holds=low > -points, contradicted=high < -points,
        control={"what": "trits without the draw, floor(clip(g) / s): biased; 2 workers, one seed", "measured": biased},
        control_holds=biased > -points,
    )  # fmt: skip
    unclipped = of("no clip", 2) - of("ternary", 2)
    ctx.row(
        f"test accuracy, without clipping minus with, {net}, 2 workers", unit="points", seeds=seeds,
        said=round(SAID[net]["no clip"] - SAID[net]["ternary"][0], 2) if "no clip" in SAID[net] else None,
        measured=float(unclipped.mean()), criterion="below 0 with every seed", holds=bool((unclipped < 0).all()),
        contradicted=bool((unclipped > 0).all()),
    )  # fmt: skip


def draw(figure, percent: dict[Job, float]) -> None:
    looks = {
        "float": (OKABE_ITO[0], "o-"), "ternary": (OKABE_ITO[6], "s--"), "no clip": (OKABE_ITO[3], "^"),
        "floor": (OKABE_ITO[2], "x"),
    }  # fmt: skip
    names = {"no clip": "ternary, without clipping", "floor": "without the draw"}
    for axes, net in zip(figure.subplots(1, len(NETS)), NETS, strict=True):
        for mode, (colour, look) in looks.items():
            jobs = [job for job in percent if (job.mode, job.variant) == (mode, net)]
            workers = sorted({job.workers for job in jobs})
            means = [np.mean([percent[job] for job in jobs if job.workers == n]) for n in workers]
            axes.plot(workers, means, look, color=colour, label=names.get(mode, mode))
        axes.set_xscale("log", base=2)
        axes.set(xlabel="workers", ylabel="test accuracy, %", title=net)
    axes.legend()


CLAIM = Claim(
    "terngrad-scaling", chapter="3", title="Ternary gradients keep up with floats on 2, 4 and 8 workers",
    seconds={"quick": 120, "full": 6000}, run=run,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what each rank runs


def prepared(images: np.ndarray, net: str) -> np.ndarray:
    """[-1, 1); for AlexNet, whose filters are 11 x 11 with stride 4, each pixel twice in both directions."""
    x = images.astype(np.float32) / np.float32(128) - 1
    return x.repeat(2, axis=-1).repeat(2, axis=-2) if net == "AlexNet" else x


def train(job: Job, comm, tell, data: dict, mirrored: bool) -> dict:
    """Train this rank's copy of the network on its workers' shares of every batch, and test it on the rank's share."""
    net, rng = job.variant.removesuffix(OWN), np.random.default_rng([job.seed, 1])
    options, whose = NETS[net], int(job.variant.endswith(OWN))
    common: dict[str, Any] = {"classes": 10, "width": WIDTH, "batch_norm": True, "dropout": options["dropout"][whose]}
    model = alexnet(size=64, rng=rng, **common) if net == "AlexNet" else googlenet(rng=rng, **common)
    if net == "AlexNet":
        for p in model.parameters():
            if p.ndim > 1:
                p.data *= np.float32((2 / p.data[0].size) ** 0.5 / p.data.std())
    first = options["rates"][job.workers]
    rate = step(first, 0.1, max(-(-job.steps * 2 // 5), 1)) if net == "AlexNet" else poly(first, 0.5, job.steps)
    optimizer = SGD(model.parameters(), first, momentum=0.9, weight_decay=options["decay"][whose])
    names = [name for name, _ in model.named_parameters()]
    last = names[-1].rpartition(".")[0]
    keep = None if job.mode == "float" else lambda name, p: p.data.size < SMALL or name.startswith(last)
    parallel = data_parallel(job, model, comm, keep_float=keep)
    rows = shuffled(len(data["train_labels"]), EACH * job.workers, job.seed, 2)

    def cost(at, worker):
        mine = np.sort(shard(rows(at), worker, job.workers))
        rng = np.random.default_rng([job.seed, 3, at, worker])
        x = random_crop(data["train_images"][mine], rng)
        x = prepared(random_mirror(x, rng) if mirrored else x, net)
        return cross_entropy(model(Tensor(x)), data["train_labels"][mine])

    losses = train_steps(parallel, model, optimizer, cost, job.length, rate=rate, after_step=tell)
    result = outcome(parallel, losses)
    with parallel.averaged():  # BatchNorm's statistics, of all workers
        return result | {"correct": right(model, comm, data, job.tests, lambda images: prepared(images, net))}


def warm_up() -> None:
    """One step of one rank without MPI: compiles what the ranks will use."""
    data = {f"{part}_{what}": np.zeros((2 * EACH, *shape), np.uint8) for part in ("train", "test")
            for what, shape in (("images", (3, 32, 32)), ("labels", ()))}  # fmt: skip
    for net in NETS:
        train(Job("ternary", 2, net, 1, tests=8), Counted(OneRank()), lambda at: None, data, True)


if __name__ == "__main__":
    main(train, warm_up)
