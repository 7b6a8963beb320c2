"""`terngrad-lenet`: LeNet learns as well from ternary gradients as from 32-bit ones, and sends ten times less.

Said: LeNet on MNIST with 2 to 64 workers, with momentum and with plain SGD, loses at most 0.22 points by ternary
gradients, and gains up to 0.15. (Wen et al. 2017, figure 3)

Here the same network is trained by real MPI processes that this claim starts; each stands for half of the workers. Its
gradients are averaged in 32-bit floats, or as trits (each tensor by itself, clipped at 2.5 sigma, one scale for all
workers). Same first weights, same batches. This file is also what the ranks run.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.real_gradients import pixels
from minidl.claims.terngrad_ranks import (
    Average,
    Job,
    bytes_row,
    data_parallel,
    main,
    outcome,
    paired,
    right,
    save_images,
    shuffled,
    train_all,
    train_steps,
)  # fmt: skip
from minidl.claims.trainings import smooth
from minidl.layers import cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD, poly
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.launch import find_mpirun
from minidl.ternary.ternarise import Ternariser, scale_of
from minidl.ternary.workers import shard

RANKS, BATCH, DECAY = 2, 64, 5e-4
RATES = {"momentum": 0.01, "vanilla": 0.1}  # momentum .9, or none
QUICK_STEPS, QUICK_TESTS, FULL_STEPS, SHORT = 80, 2_000, 3_000, 3
SEEDS = 5
POINTS = {"quick": 1.5, "full": 0.3}  # how far from the float's accuracy still counts as "as well": after 80 steps a
# network is at 93 % and says less
SAID = {  # figure 3, read off: number of workers -> test accuracy in %; 1 stands for floats
    "momentum": {1: 99.205, 2: 99.22, 4: 99.09, 8: 99.11, 16: 99.26, 32: 99.35, 64: 99.21},
    "vanilla": {1: 99.26, 2: 99.23, 4: 99.09, 8: 99.03, 16: 99.20, 32: 99.22, 64: 99.17},
}
SIGMAS, BIAS = 6.0, 1e-3  # tests of draws reject at 6 sigma; the bias that the first has to see, in units of s
HERE = "minidl.claims.terngrad_lenet"
Found = dict[Job, dict]


def run(ctx: Context) -> None:
    find_mpirun()  # without MPI: MissingExtra, before anything is loaded
    digits = ctx.dataset("mnist")
    trainings, short = jobs_of(ctx.full, ctx.seed)
    steps, threads = trainings[0].steps, max(1, ctx.threads // RANKS)
    with tempfile.TemporaryDirectory() as folder:
        save_images(folder, digits)
        total = sum(job.length for job in trainings) + sum(job.length for _, jobs in short for job in jobs)
        with ctx.progress(total, f"{len(trainings)} trainings on {RANKS} ranks") as bar:
            found = train_all(ctx, bar, HERE, RANKS, trainings, apart=ctx.full, folder=folder)
            of_ranks = [
                (ranks, train_all(ctx, bar, HERE, ranks, jobs, apart=False, folder=folder)) for ranks, jobs in short
            ]
    ctx.note(
        f"{RANKS} processes of {threads} thread(s), each for half of the workers; batch {BATCH} in all, {steps:,} "
        f"steps (published: 10,000), tested on {trainings[0].tests:,} images; learning rate {RATES['momentum']} with "
        f"momentum .9 or {RATES['vanilla']} without, falling to 0 with power 0.5, weight decay {DECAY} (added after "
        "the exchange), images scaled to [-1, 1). All tensors are ternary. One float training for all numbers of "
        "workers."
    )
    accuracy_rows(ctx, found, POINTS["full" if ctx.full else "quick"])
    first = next(job for job in trainings if job.mode == "ternary")
    zeros_rows(ctx, found, [job for job in trainings if job.mode == "ternary" and job.seed == ctx.seed])
    bytes_rows(ctx, found[first], found[replace(first, mode="float")], steps)
    exchange_rows(ctx, of_ranks)
    unbiased_row(ctx, digits)
    variance_row(ctx, digits)
    ctx.figure(
        lambda figure: draw(figure, found, ctx.seed),
        alt="Left: training loss over the steps, float and ternary, which fall together. Right: test accuracy, ternary "
        "minus float, over the number of workers: within a few tenths of a point of 0.",
        caption="LeNet on MPI ranks: the same learning curve from a tenth of the bytes, with 2 workers and with more.",
    )


def jobs_of(full: bool, seed: int) -> tuple[list[Job], list[tuple[int, list[Job]]]]:
    """The trainings, and by number of ranks the jobs of a few steps that compare what different ranks compute."""
    steps, tests = (FULL_STEPS, 10_000) if full else (QUICK_STEPS, QUICK_TESTS)
    trainings: list[Job] = []
    for optimizer in RATES if full else ["momentum"]:
        float_ = Job("float", RANKS, optimizer, steps, seed, tests=tests)
        seeds = range(seed, seed + SEEDS)
        trainings += [replace(float_, seed=s) for s in seeds]
        trainings += [replace(float_, mode="ternary", seed=s) for s in seeds]
        trainings += [replace(float_, mode="ternary", workers=8, seed=s) for s in (seeds if full else [seed])]
        trainings += [replace(float_, mode="ternary", workers=n) for n in ((4, 16, 32, 64) if full else ())]
        trainings += [replace(float_, mode="floor")]
    eight = Job("ternary", 8, "momentum", steps, seed, SHORT)
    two = replace(eight, workers=2)
    short = [(ranks, [eight, replace(eight, mode="float")]) for ranks in (1, 4)]
    here = [eight, replace(eight, mode="float"), two, *(replace(two, mode=m) for m in ("gather", "sign", "alone"))]
    return trainings, [(RANKS, here), *short]


# ------------------------------------------------------------------------------------------------ the rows


def accuracy_rows(ctx: Context, found: Found, points: float) -> None:
    percent = lambda job, of="correct": 100 * found[job][of].mean()
    for optimizer in dict.fromkeys(job.variant for job in found):
        jobs = [job for job in found if job.variant == optimizer]
        floats = {job.seed: job for job in jobs if job.mode == "float"}
        floor = next(job for job in jobs if job.mode == "floor")
        biased = percent(floor) - percent(floats[floor.seed])
        measured = {"the last weights": np.mean([percent(j) for j in floats.values()])}
        measured["their running average"] = np.mean([percent(j, "correct on average") for j in floats.values()])
        ctx.row(
            f"test accuracy, float gradients, {optimizer}", said=SAID[optimizer][1], measured=measured, unit="%",
            seeds=[*floats],
        )  # fmt: skip
        for workers in sorted({job.workers for job in jobs if job.mode == "ternary"}):
            ternary = [job for job in jobs if job.mode == "ternary" and job.workers == workers]
            pair = [[percent(job) for job in of] for of in (ternary, [floats[job.seed] for job in ternary])]
            average = [percent(job, "correct on average") for job in ternary]
            said = SAID[optimizer][workers] - SAID[optimizer][1]
            row: dict[str, Any] = {"said": f"{said:+.3f}", "unit": "points", "seeds": [job.seed for job in ternary]}
            name = f"test accuracy, ternary minus float, {optimizer}, {workers} workers"
            if len(ternary) == 1:
                ctx.row(f"{name} (one seed: no interval)", measured=pair[0][0] - pair[1][0], **row)
                continue
            better, interval = paired(*pair)
            ctx.row(
                name, measured=better, interval=interval,
                criterion=f"the 95 % interval over {len(ternary)} paired seeds lies within {points:g} points of 0",
                holds=-points <= interval[0] and interval[1] <= points,
                control={"what": "trits without the draw, floor(clip(g) / s): biased; one seed", "measured": biased},
                control_holds=abs(biased) <= points, **row,
            )  # fmt: skip
            measured = {"the last weights": np.mean(pair[0]), "their running average": np.mean(average)}
            ctx.row(
                f"test accuracy, ternary gradients, {optimizer}, {workers} workers",
                said=SAID[optimizer][workers], measured=measured, unit="%", seeds=row["seeds"],
            )  # fmt: skip


def zeros_rows(ctx: Context, found: Found, jobs: list[Job]) -> None:
    """Rank 0's trits of every 25th step, beside the sum of their probabilities."""
    for job in jobs:
        one = found[job]
        zeros, off = missed(one)
        without = missed(one | {"nonzero": one["signs"]})
        ctx.row(
            f"zeros among the trits, {job.variant}, {job.workers} workers", said="71.32 (AlexNet's fc6)",
            measured={"counted": zeros, "predicted": 100 * (1 - one["expected"] / one["numbers"])}, unit="%",
            criterion=f"within {SIGMAS:g} standard errors of the predicted 1 - sum |clip(g)| / (s D)",
            holds=abs(off) < SIGMAS, trials=one["numbers"],
            control={"what": "the sign of every number in the place of a drawn trit", "measured": without[0]},
            control_holds=abs(without[1]) < SIGMAS,
        )  # fmt: skip


def missed(one: dict) -> tuple[float, float]:
    """The share of zeros in %, and by how many standard errors the others are more than expected."""
    return 100 * (1 - one["nonzero"] / one["numbers"]), (one["nonzero"] - one["expected"]) / one["variance"] ** 0.5


def bytes_rows(ctx: Context, ternary: dict, float_: dict, steps: int) -> None:
    sent, floats = ternary["bytes"], float_["bytes"]
    bytes_row(
        ctx, "times fewer bytes handed to mpi4py than with 32-bit floats", ternary, float_, steps, 10,
        said="13.78 (ideal code of the sums, 2 workers)",
    )  # fmt: skip
    ctx.row(
        "bytes per step and rank, ternary", measured=sent / steps, unit="bytes",
        criterion=f"the formula's {ternary['formula']} to the byte", holds=sent == ternary["formula"] * steps,
        control={"what": "the float run's bytes against the same formula", "measured": floats / steps},
        control_holds=floats == ternary["formula"] * steps,
    )  # fmt: skip
    ctx.row("bytes per step and rank, float", measured=floats / steps, unit="bytes")


def same(*results: dict) -> int:
    """How many of all these ranks have the checksum of the first one's weights."""
    crcs = [crc for result in results for crc in result["crcs"]]
    return sum(crc == crcs[0] for crc in crcs)


def exchange_rows(ctx: Context, of_ranks: list[tuple[int, Found]]) -> None:
    """What a few steps on 1, 2 and 4 ranks say: the same bits however the trits travel, and on however many ranks."""
    here = of_ranks[0][1]
    two = next(job for job in here if job.workers == 2 and job.mode == "ternary")
    gather, alone, sign, float_ = (
        here[replace(two, mode=mode, workers=n)] for mode, n in (("gather", 2), ("alone", 2), ("sign", 2), ("float", 8))
    )
    least = float_["bytes"] / gather["bytes"]
    ctx.row(
        "times fewer bytes where ranks gather each other's trits", said="20.19 (log2 3 bits a trit)", measured=least,
        unit="times", criterion="at least 19.9, and the formula's to the byte",
        holds=least >= 19.9 and gather["bytes"] == SHORT * gather["formula"],
        control={"what": "trits summed by MPI", "measured": float_["bytes"] / here[two]["bytes"]},
        control_holds=float_["bytes"] >= 19.9 * here[two]["bytes"],
    )  # fmt: skip
    ctx.row(
        f"ranks whose weights have one CRC32 after {SHORT} steps, whether MPI sums the trits or ranks gather them",
        measured=same(here[two], gather), unit="of 4", criterion="all", holds=same(here[two], gather) == 4,
        control={"what": "the exchange skipped, and the sign ternarised", "measured": same(alone, sign)},
        control_holds=same(alone, sign) == 4,
    )  # fmt: skip
    eight = [[found[replace(two, mode=mode, workers=8)] for _, found in of_ranks] for mode in ("ternary", "float")]
    ranks = sum(n for n, _ in of_ranks)
    ctx.row(
        f"ranks with one CRC32 after {SHORT} steps of 8 workers on {', '.join(str(n) for n, _ in of_ranks)} ranks",
        measured=same(*eight[0]), unit=f"of {ranks}", criterion="all", holds=same(*eight[0]) == ranks,
        control={"what": "32-bit floats, whose sum depends on who adds what", "measured": same(*eight[1])},
        control_holds=same(*eight[1]) == ranks,
    )  # fmt: skip


def gradient(ctx: Context, digits) -> np.ndarray:
    """One real gradient, of fc500's weights: (D,)."""
    model = lenet_terngrad(np.random.default_rng(ctx.seed))
    cross_entropy(model(Tensor(pixels(digits.train_images[:BATCH]))), digits.train_labels[:BATCH]).backward()
    return model.ip1.weight.grad.reshape(-1)


def unbiased_row(ctx: Context, digits) -> None:
    """Ternarise one real gradient many times: how many standard errors is the mean of s t off clip(g)?"""
    g = gradient(ctx, digits)
    s = float(scale_of(g))
    y = np.clip(g.astype(np.float64) / s, -1, 1)
    trials = 20 if ctx.full else 10
    deviation = math.sqrt(trials * (np.abs(y) * (1 - np.abs(y))).sum())
    ternariser = Ternariser(seed=ctx.seed)

    def off(trits_of_trial):
        """Up or down, and towards or away from zero: the larger of both, in standard errors."""
        errors = [trits_of_trial(trial) - y for trial in range(trials)]
        return max(abs(sum(e.sum() for e in errors)), abs(sum((e * np.sign(y)).sum() for e in errors))) / deviation

    shift = BIAS * g.size * trials / deviation  # where a bias of 1e-3 s would put the statistic
    power = 0.5 * (1 + math.erf((shift - SIGMAS) / math.sqrt(2)))
    measured = off(lambda trial: ternariser.trits(g, step=trial))
    biased = {"the nearest trit": off(lambda trial: np.rint(y)), "the sign": off(lambda trial: np.sign(y))}
    ctx.row(
        "bias of the ternary gradient of fc500's weights, in standard errors", said=0, measured=measured,
        criterion=f"below {SIGMAS:g}, where a bias of {BIAS:g} s is seen with probability {power:.5f} (above 0.999)",
        holds=measured < SIGMAS and power > 0.999,
        control={"what": "the nearest trit, or the sign, instead of a drawn one", "measured": biased},
        control_holds=min(biased.values()) < SIGMAS, trials=trials,
    )  # fmt: skip


def variance_row(ctx: Context, digits, workers: int = 8) -> None:
    """Eight workers ternarise one gradient: their errors average out, unless all of them draw the same numbers."""
    g = gradient(ctx, digits)
    p = np.minimum(np.abs(g.astype(np.float64)) / float(scale_of(g)), 1)
    ternariser = Ternariser(seed=ctx.seed)

    def ratio(worker_of):
        sums = sum(ternariser.trits(g, worker=worker_of(w)).astype(np.float64) for w in range(workers))
        return workers * np.square(sums / workers - np.sign(g) * p).sum() / (p * (1 - p)).sum()

    own, shared = ratio(lambda w: w), ratio(lambda w: 0)
    ctx.row(
        f"variance of the mean of {workers} workers' ternary gradients, in units of |g| (s - |g|) / {workers}", said=1,
        measured=own, criterion="within 2 % of 1", holds=abs(own - 1) < 0.02,
        control={"what": "all workers draw the same numbers: errors do not average out", "measured": shared},
        control_holds=abs(shared - 1) < 0.02, trials=g.size,
    )  # fmt: skip


def draw(figure, found: Found, seed: int) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for mode, colour, style in (("float", OKABE_ITO[0], "-"), ("ternary", OKABE_ITO[6], "--")):
        loss = next(one for job, one in found.items() if job.mode == mode and job.seed == seed)["loss"]
        steps, means = smooth(loss, 50)
        left.plot(steps, means, style, color=colour, label=mode)
    left.set(xlabel="step", ylabel=f"training loss (mean of {steps[0]} steps)", yscale="log")
    left.legend()
    percent = {job: 100 * one["correct"].mean() for job, one in found.items()}
    for optimizer, colour, marker in (("momentum", OKABE_ITO[5], "o"), ("vanilla", OKABE_ITO[1], "s")):
        jobs = [job for job in found if job.mode == "ternary" and job.variant == optimizer]
        off = [percent[job] - percent[replace(job, mode="float", workers=RANKS)] for job in jobs]
        if jobs:
            right.plot([job.workers for job in jobs], off, marker, color=colour, label=optimizer, fillstyle="none")
    right.axhline(0, color=OKABE_ITO[0], linewidth=0.8)
    right.set_xscale("log", base=2)
    right.set(xlabel="workers", ylabel="ternary minus float, points")
    right.legend()


CLAIM = Claim(
    "terngrad-lenet",
    chapter="3",
    title="LeNet learns from ternary gradients, ten times smaller on the wire, with 2 to 64 workers on MPI ranks",
    seconds={"quick": 75, "full": 7200},
    run=run,
)


# ------------------------------------------------------------------------------------------------ what each rank runs


def train(job: Job, comm, tell, data: dict) -> dict:
    """Train this rank's copy of LeNet on its workers' shares of every batch, and test it on the rank's share."""
    model = lenet_terngrad(np.random.default_rng([job.seed, 1]))  # the same first weights on every rank, in every mode
    optimizer = SGD(
        model.named_parameters(), RATES[job.variant], momentum=0.9 * (job.variant == "momentum"), weight_decay=DECAY
    )
    parallel = data_parallel(job, model, comm)
    rows = shuffled(len(data["train_labels"]), BATCH, job.seed, 2)  # and the same batches
    average = Average(model)

    def cost(step, worker):
        mine = np.sort(shard(rows(step), worker, job.workers))
        return cross_entropy(model(Tensor(pixels(data["train_images"][mine]))), data["train_labels"][mine])

    def after_step(step):
        if job.tests:
            average.after_step(step)
        tell(step)

    rate = poly(RATES[job.variant], 0.5, job.steps)
    result = outcome(
        parallel, train_steps(parallel, model, optimizer, cost, job.length, rate=rate, after_step=after_step)
    )
    if job.tests:
        result["correct"] = right(model, comm, data, job.tests, pixels)
        average.into(model)
        result["correct on average"] = right(model, comm, data, job.tests, pixels)
    return result


def warm_up() -> None:
    """One step of one rank without MPI: compiles what the ranks will use."""
    data = {f"{part}_{what}": np.zeros((BATCH, *shape), np.uint8) for part in ("train", "test")
            for what, shape in (("images", (28, 28)), ("labels", ()))}  # fmt: skip
    for mode in ("ternary", "gather"):
        train(Job(mode, 2, "momentum", 1), Counted(OneRank()), lambda step: None, data)


if __name__ == "__main__":
    main(train, warm_up)
