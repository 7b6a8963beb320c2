"""`terngrad-lenet`: LeNet learns as well from ternary gradients as from 32-bit ones, and sends ten times less.

Said: LeNet on MNIST with 2 workers and momentum reaches 99.22 % with ternary gradients, 99.205 % with floats; over 2 to
64 workers and both optimisers the worst loss is 0.22 points. (Wen et al. 2017, figure 3)

Here the same network is trained twice by 2 real MPI processes that this claim starts: once their gradients are averaged
in 32-bit floats, once as trits (each tensor by itself, clipped at 2.5 sigma, one scale for all ranks), packed into
bit-fields and summed by Allreduce. Same first weights, same batches. This file is also what the ranks run.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.data.loader import batches
from minidl.layers import cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD, poly
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank, world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.launch import find_mpirun, report_progress, report_result, run_ranks
from minidl.ternary.ternarise import Ternariser, scale_of
from minidl.train import fit, predict

RANKS, BATCH, RATE, MOMENTUM, DECAY = 2, 64, 0.01, 0.9, 5e-4
QUICK_STEPS, FULL_STEPS = 300, 10_000
QUICK_POINTS, FULL_POINTS = 1.5, 0.5  # how far below the float's accuracy still counts as "as well"; 1,000 images
# (where MNIST's 10,000 are not to be had) leave half a point of doubt by themselves
SIGMAS, BIAS = 6.0, 1e-3  # the unbiasedness test: rejects at 6 sigma; the bias it has to see, in units of s
MODES = ("float", "ternary", "control")
HERE = "minidl.claims.terngrad_lenet"


def run(ctx: Context) -> None:
    find_mpirun()  # without MPI: MissingExtra, before anything is loaded
    digits = ctx.dataset("mnist")
    steps, points = (FULL_STEPS, FULL_POINTS) if ctx.full else (QUICK_STEPS, QUICK_POINTS)
    with tempfile.TemporaryDirectory() as folder, ctx.progress(3 * steps, "2 ranks: float, ternary, control") as bar:
        for part in ("train_images", "train_labels", "test_images", "test_labels"):
            np.save(Path(folder) / part, getattr(digits, part))
        job = {"folder": folder, "steps": steps, "seed": ctx.seed}
        results = run_ranks(
            RANKS, ["-m", HERE, json.dumps(job)], timeout=40 * ctx.claim.seconds["full" if ctx.full else "quick"],
            threads=max(1, ctx.threads // RANKS), warm_up=["-m", HERE],
            progress=lambda done: bar.update(done - bar.done),
        ).results  # fmt: skip
    one = results[0]
    for name in one:  # loss: the mean of the ranks' shares of the batch; correct: over all ranks' shares of the images
        if name.endswith(" loss"):
            one[name] = np.mean([r[name] for r in results], axis=0)
        elif name.endswith(" correct"):
            one[name] = np.concatenate([r[name] for r in results])
    ctx.note(
        f"{RANKS} processes of {max(1, ctx.threads // RANKS)} thread(s), batch {BATCH} in all, {steps} steps, "
        f"momentum {MOMENTUM}, learning rate {RATE} falling to "
        f"0 with power 0.5, weight decay {DECAY} (added after the exchange), images scaled to [-1, 1); the weights as "
        f"they stand at the last step, not their running average. All {len(one['sizes'])} tensors are ternary."
    )
    accuracy_rows(ctx, one, points)
    bytes_rows(ctx, one, steps)
    ctx.row(
        "ranks whose weights have the CRC32 of rank 0's, after the last step", measured=same(results, "ternary crc"),
        unit=f"of {RANKS}", criterion="all", holds=same(results, "ternary crc") == RANKS,
        control={"what": "three steps without the allreduce", "measured": same(results, "alone crc")},
        control_holds=same(results, "alone crc") == RANKS, trials=1,
    )  # fmt: skip
    unbiased_row(ctx, digits)
    ctx.figure(
        lambda figure: draw(figure, one),
        alt="Left: training loss over the steps, float and ternary, which fall together. Right: bits that a rank sends "
        "per weight and step: 32 for floats, about 3 for summed trits.",
        caption="LeNet on 2 MPI processes: the same learning curve from a tenth of the bytes.",
    )


def accuracy_rows(ctx: Context, one: dict, points: float) -> None:
    accuracy = {mode: 100 * one[f"{mode} correct"].mean() for mode in ("float", "ternary")}
    said = {"float": 99.205, "ternary": 99.22}
    for mode in ("float", "ternary"):
        ctx.row(f"test accuracy, {mode} gradients", said=said[mode], measured=accuracy[mode], unit="%")
    better, interval = paired(one["ternary correct"], one["float correct"])
    control, _ = paired(one["control correct"], one["float correct"])
    ctx.row(
        "test accuracy, ternary minus float", said="+0.015; at worst -0.22", measured=better, unit="points",
        interval=interval, criterion=f"the 95 % interval (of the test images) lies above -{points:g} points",
        holds=interval[0] > -points,
        control={"what": "trits without the draw, t = floor(clip(g) / s): biased", "measured": control},
        control_holds=control > -points,
    )  # fmt: skip


def paired(first: np.ndarray, second: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Difference of two accuracies on the same images, in points, and its 95 % interval over the images."""
    difference = 100.0 * (first.astype(float) - second)
    half = 1.96 * difference.std() / math.sqrt(difference.size)
    return difference.mean(), (difference.mean() - half, difference.mean() + half)


def bytes_rows(ctx: Context, one: dict, steps: int) -> None:
    sent, formula, floats = one["ternary bytes"], one["ternary formula"] * steps, one["float bytes"]
    ctx.row(
        "times fewer bytes handed to mpi4py than with 32-bit floats", said="13.78 (ideal code of the sums, 2 workers)",
        measured=floats / sent, unit="times", criterion="at least 10", holds=floats >= 10 * sent,
        control={"what": "the float run, through the same ledger", "measured": 1.0}, control_holds=False,
    )  # fmt: skip
    ctx.row(
        "bytes per step and rank, ternary", measured=sent / steps, unit="bytes",
        criterion=f"the formula's {one['ternary formula']} to the byte", holds=sent == formula,
        control={"what": "the float run's bytes against the same formula", "measured": floats / steps},
        control_holds=floats == formula,
    )  # fmt: skip
    ctx.row("bytes per step and rank, float", measured=floats / steps, unit="bytes")


def same(results: list[dict], name: str) -> int:
    return sum(result[name] == results[0][name] for result in results)


def unbiased_row(ctx: Context, digits) -> None:
    """Ternarise one real gradient many times: how many standard errors is the mean of s t off clip(g)?"""
    model = lenet_terngrad(np.random.default_rng(ctx.seed))
    cross_entropy(model(Tensor(pixels(digits.train_images[:BATCH]))), digits.train_labels[:BATCH]).backward()
    g = model.ip1.weight.grad.reshape(-1)
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
    measured, nearest = off(lambda trial: ternariser.trits(g, step=trial)), off(lambda trial: np.rint(y))
    ctx.row(
        "bias of the ternary gradient of fc500's weights, in standard errors", said=0, measured=measured,
        criterion=f"below {SIGMAS:g}, where a bias of {BIAS:g} s is seen with probability {power:.5f} (above 0.999)",
        holds=measured < SIGMAS and power > 0.999,
        control={"what": "the nearest trit instead of a drawn one", "measured": nearest},
        control_holds=nearest < SIGMAS, trials=trials,
    )  # fmt: skip


def draw(figure, one: dict) -> None:
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for mode, colour, style in (("float", OKABE_ITO[0], "-"), ("ternary", OKABE_ITO[6], "--")):
        loss = one[f"{mode} loss"]
        window = max(len(loss) // 50, 1)
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        left.plot(np.arange(smooth.size) + window, smooth, style, color=colour, label=mode)
    left.set(xlabel="step", ylabel=f"training loss (mean of {window} steps)", yscale="log")
    left.legend()
    bits = [8 * one[f"{mode} bytes"] / len(one["float loss"]) / sum(one["sizes"]) for mode in ("float", "ternary")]
    bars = right.bar(["float", "ternary,\nsummed"], bits, color=[OKABE_ITO[0], OKABE_ITO[6]], hatch=["", "//"])
    right.bar_label(bars, [f"{b:.2f}" for b in bits])
    right.set(ylabel="bits per weight, step and rank")


CLAIM = Claim(
    "terngrad-lenet",
    chapter="3",
    title="LeNet learns from ternary gradients, ten times smaller on the wire, on 2 MPI processes",
    seconds={"quick": 60, "full": 1800},
    run=run,
)


# ------------------------------------------------------------------------------------------------ what each rank runs


class NoDraw(Ternariser):
    """The control: the draw left out (U = 0), so that t is the floor of clip(g) / s: never above the truth."""

    def trits(self, g, s=None, *, own=None, **where):
        return np.floor(np.clip(g.reshape(-1) / (s[0] or 1), -1, 1)).astype(np.int8)


def pixels(images: np.ndarray) -> np.ndarray:
    """(N, 28, 28) bytes -> (N, 1, 28, 28) float32 in [-1, 1)."""
    return (images[:, None].astype(np.float32) - 128) / 128


def rank_main(folder: str, steps: int, seed: int) -> None:
    """One rank: train in float, in ternary and with the draw left out; report what came of each."""
    data = {path.stem: np.load(path, mmap_mode="r") for path in Path(folder).glob("*.npy")}
    result: dict = {}
    for number, mode in enumerate(MODES):
        comm = world()
        model, parallel, loss = train(comm, data, mode, steps, seed, done=number * steps)
        result |= {f"{mode} loss": np.array(loss), f"{mode} bytes": comm.ledger.total()}
        result |= {f"{mode} formula": parallel.expected_bytes(), f"{mode} crc": parallel.weights_crc()}
        result["sizes"] = [p.data.size for _, p in parallel.params]
        mine = slice(comm.Get_rank(), None, comm.Get_size())  # each rank tests its share of the images
        guess = predict(model, pixels(data["test_images"][mine])).argmax(1)
        result[f"{mode} correct"] = guess == data["test_labels"][mine]
    _, alone, _ = train(world(), data, "alone", 3, seed, done=len(MODES) * steps)
    report_result(result | {"alone crc": alone.weights_crc()})


def train(comm, data: dict, mode: str, steps: int, seed: int, done: int):
    """Train this rank's copy of LeNet on its share of every batch. Returns the model, its DataParallel, the losses."""
    model = lenet_terngrad(np.random.default_rng([seed, 1]))  # the same first weights on every rank, in every mode
    optimizer = SGD(model.named_parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    parallel = DataParallel(model.named_parameters(), comm, "float" if mode == "float" else "ternary", seed=seed)
    if mode == "control":
        parallel.ternariser = NoDraw()

    def shares():
        rng = np.random.default_rng([seed, 2])  # and the same batches
        while True:
            for rows in batches(len(data["train_labels"]), BATCH, rng, drop_last=True):
                mine = np.sort(rows[comm.Get_rank() :: comm.Get_size()])
                yield pixels(data["train_images"][mine]), data["train_labels"][mine]

    def tell(step):
        if comm.Get_rank() == 0 and step % 10 == 9:
            report_progress(done + step + 1)

    loss = fit(
        model, islice(shares(), steps), optimizer, schedule=poly(RATE, 0.5, steps),
        after_backward=None if mode == "alone" else parallel.reduce, after_step=tell,
    )  # fmt: skip
    return model, parallel, loss


def warm_up() -> None:
    """One step of one rank without MPI: compiles what the ranks will use."""
    images, labels = np.zeros((BATCH, 28, 28), np.uint8), np.zeros(BATCH, np.uint8)
    model, _, _ = train(Counted(OneRank()), {"train_images": images, "train_labels": labels}, "ternary", 1, 0, 0)
    predict(model, pixels(images))


if __name__ == "__main__":
    if sys.argv[1:]:
        rank_main(**json.loads(sys.argv[1]))
    else:
        warm_up()
