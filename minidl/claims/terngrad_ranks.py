"""What claims on ternary gradients share: jobs that MPI ranks train, what is counted there, and how to sabotage it.

A claim's file gives a list of Jobs to `train_all`, which starts ranks of that same file; there `main` calls the
file's own train(job, comm, tell, data) for each job and reports the dict that it returns.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.claims.claim import Context
from minidl.data.images import ImageSet
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import EXCHANGES, FLOATS, DataParallel
from minidl.ternary.launch import find_mpirun, report_progress, report_result, run_ranks
from minidl.ternary.ternarise import Ternariser
from minidl.train import predict

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t, 97.5 %, for that many pairs: the half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Job:
    """One training. mode: one of DataParallel's, or of `data_parallel`'s; variant: a name that the claim's own train
    knows; until: a step to stop at, on the way of a schedule of `steps`; tests: how many images it is tested on."""

    mode: str
    workers: int
    variant: str
    steps: int
    seed: int = 0
    until: int | None = None
    tests: int = 0

    name = property(lambda self: f"{self.variant}, {self.mode}, {self.workers} workers, seed {self.seed}")
    length = property(lambda self: self.steps if self.until is None else self.until)


# ----------------------------------------------------------------------------------------------- in the claim's process


def train_on_cifar10(ctx: Context, module: str, ranks: int, jobs: Sequence[Job]) -> tuple[ImageSet, dict[Job, dict]]:
    """The data set, and what came of the jobs; train is told whether a picture and its mirror image are one class."""
    find_mpirun()  # without MPI: MissingExtra, before anything is loaded
    found = ctx.dataset("cifar10")
    mirrored = found.name.startswith("cifar10")  # digits, which take its place, are not
    with tempfile.TemporaryDirectory() as folder:
        save_images(folder, found)
        with ctx.progress(sum(job.length for job in jobs), f"{len(jobs)} trainings on {ranks} ranks") as bar:
            return found, train_all(ctx, bar, module, ranks, jobs, apart=ctx.full, folder=folder, mirrored=mirrored)


def train_all(
    ctx: Context, bar, module: str, ranks: int, jobs: Sequence[Job], *, apart: bool, **options
) -> dict[Job, dict[str, Any]]:
    """What came of the jobs, now or in an interrupted run. apart: each is started, and kept, by itself; else one start
    of the ranks is enough for all. options: for the ranks."""
    found: dict[Job, dict[str, Any]] = {}
    for group in [[job] for job in jobs] if apart else [list(jobs)]:
        bar.set(group[0].name)
        done = bar.done + (length := sum(job.length for job in group))
        train_them = functools.partial(
            run_jobs, module, ranks, group, bar, timeout=60 + 20 * length, threads=max(1, ctx.threads // ranks),
            **options,
        )  # fmt: skip
        kept = ctx.kept(f"{len(group)} on {ranks} ranks from {group[0]}", train_them)
        bar.update(done - bar.done)
        found |= zip(group, kept, strict=True)
    if lost := [job.name for job, one in found.items() if not np.isfinite(one["loss"]).all()]:
        ctx.note(f"Diverged: their gradients were not finite, and training ended there: {'; '.join(lost)}.")
    return found


def run_jobs(
    module: str, ranks: int, jobs: Sequence[Job], bar, *, timeout: float, threads: int = 1, **options
) -> list[dict[str, Any]]:
    """Train the jobs, one after the other, on that many ranks of `python -m module`; what came of each.

    A result holds rank 0's values under their names, but "loss", the mean over the ranks, "correct", the ranks' parts
    one after the other, and "crcs", every rank's. options: for the ranks, beside the jobs, what JSON can hold.
    """
    start = bar.done
    argv = ["-m", module, json.dumps({"jobs": [asdict(job) for job in jobs], **options})]
    run = run_ranks(
        ranks, argv, timeout=timeout, threads=threads, warm_up=["-m", module],
        progress=lambda done: bar.update(start + done - bar.done),
    )  # fmt: skip
    bar.update(start + sum(job.length for job in jobs) - bar.done)
    found = []
    for number in range(len(jobs)):
        every = [_of(result, f"{number} ") for result in run.results]
        one = every[0] | {"crcs": [of_rank["crc"] for of_rank in every]}
        one["loss"] = np.mean([of_rank["loss"] for of_rank in every], axis=0)
        for name in one:
            if name.startswith("correct"):
                one[name] = np.concatenate([of_rank[name] for of_rank in every])
        found.append(one)
    return found


def _of(result: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}


def paired(ones: Iterable[float], others: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """The mean difference of pairs, and its 95 % interval (Student's t over the pairs)."""
    d = np.array([one - other for one, other in zip(ones, others, strict=True)], float)
    half = T_975[d.size] * d.std(ddof=1) / math.sqrt(d.size)
    return float(d.mean()), (float(d.mean() - half), float(d.mean() + half))


def bytes_row(ctx: Context, quantity: str, ternary: dict, floats: dict, steps: int, least: float, said=None) -> None:
    """The row of the bytes of two trainings; the control sends floats where trits were said."""
    fits = lambda one: one["bytes"] == ternary["formula"] * steps and floats["bytes"] >= least * one["bytes"]
    ctx.row(
        quantity, said=said, measured=floats["bytes"] / ternary["bytes"], unit="times",
        criterion=f"at least {least:g}, and the formula's {ternary['formula']:,} bytes a step", holds=fits(ternary),
        control={"what": "the float run, through the same ledger", "measured": floats["bytes"] / floats["bytes"]},
        control_holds=fits(floats),
    )  # fmt: skip


def in_words(found: dict[Job, dict], seed: int) -> str:
    """The mean of the last tenth of each training's losses, for those who do not see the figure."""
    return "; ".join(
        f"{job.variant}, {job.mode}: {np.mean(one['loss'][-max(job.length // 10, 1) :]):.2f}"
        for job, one in found.items() if job.seed == seed
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ in a rank


def main(train: Callable[..., dict], warm_up: Callable[[], None]) -> None:
    """What `python -m` the claim's file does: train(job, comm, tell, data, **options) on a rank, for every job that
    stands in the command line, and report the dicts; or without a command line warm_up(). tell(step): one is done."""
    if not sys.argv[1:]:
        return warm_up()
    options = json.loads(sys.argv[1])
    jobs, data = [Job(**job) for job in options.pop("jobs")], load_arrays(options.pop("folder"))
    report: dict[str, Any] = {}
    done = 0
    for number, job in enumerate(jobs):
        comm = world()

        def tell(step, before=done, comm=comm):
            if comm.Get_rank() == 0 and step % 10 == 9:
                report_progress(before + step + 1)

        result = train(job, comm, tell, data, **options)
        report |= {f"{number} {name}": value for name, value in result.items()}
        done += job.length
    report_result(report)


def shuffled(count: int, batch: int, *key: int) -> Callable[[int], np.ndarray]:
    """step -> the rows of its batch, out of `count`; each epoch is a permutation of its own, made of the key."""
    whole = count // batch

    @functools.lru_cache(1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([*key, epoch]).permutation(count)

    return lambda step: order(step // whole)[step % whole * batch :][:batch]


def train_steps(
    parallel: DataParallel, model, optimizer, cost: Callable[[int, int], Any], steps: int, *,
    rate: Callable[[int], float], after_reduce: Callable[[], Any] = lambda: None,
    after_step: Callable[[int], None] = lambda step: None,
) -> list[float]:  # fmt: skip
    """Steps 0 .. steps; cost(step, worker) is the loss of its share. Returns the mean loss of this rank's workers.

    Where any worker's gradient is not finite, training ends on all ranks, and the missing losses are nan.
    """
    losses: list[float] = []
    model.train()
    for step in range(steps):
        optimizer.lr, total, finite = rate(step), 0.0, True
        for w in parallel.my_workers:
            with parallel.worker(w, step):
                value = cost(step, w)
                value.backward()
                finite = finite and all(p.grad is None or np.isfinite(p.grad).all() for _, p in parallel.params)
            total += value.item()
        with parallel.comm.ledger.about("all", "agree"):  # an exchange needs every rank: none may raise alone
            if not all(parallel.comm.allgather(bool(finite))):
                return losses + [math.nan] * (steps - step)
        parallel.reduce(step)
        after_reduce()
        optimizer.step()
        after_step(step)
        losses.append(total / len(parallel.my_workers))
    return losses


def right(model, comm, data: dict, tests: int, prepared: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Which images of this rank's share of the first `tests` test images the model classifies right: bool."""
    share = slice(comm.Get_rank(), tests, comm.Get_size())
    return predict(model, prepared(data["test_images"][share])).argmax(1) == data["test_labels"][share]


class Counting(Ternariser):
    """Counts every 25 steps, on this rank, how many trits are not 0, how many are expected, and with what variance.

    expected = sum of P, variance = sum of P (1 - P), with P = min(|g|, own) / s;  signs: numbers that are not 0
    """

    numbers = nonzero = signs = 0
    expected = variance = 0.0

    def trits(self, g, s=None, *, own=None, step=0, **where):
        trits = super().trits(g, s, own=own, step=step, **where)
        if step % 25 == 0 and np.size(s) == 1:
            p = np.minimum(np.abs(g), own[0]).astype(np.float64) / (s[0] or 1)
            self.numbers, self.nonzero = self.numbers + p.size, self.nonzero + int(np.count_nonzero(trits))
            self.signs += int(np.count_nonzero(g))
            self.expected, self.variance = self.expected + p.sum(), self.variance + (p * (1 - p)).sum()
        return trits

    def counted(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("numbers", "nonzero", "signs", "expected", "variance")}


class NoDraw(Counting):
    """A control: the draw left out (U = 0), so that t is the floor of clip(g) / s: never above the truth."""

    def trits(self, g, s=None, *, own=None, **where):
        super().trits(g, s, own=own, **where)
        return np.floor(np.clip(g.reshape(-1) / (s[0] or 1), -1, 1)).astype(np.int8)


class Sign(Counting):
    """A control: the sign of each number, where TernGrad draws."""

    def trits(self, g, s=None, *, own=None, **where):
        return np.sign(g.reshape(-1)).astype(np.int8)


class Alone(DataParallel):
    """A control: nothing is exchanged, every rank steps by its own gradient."""

    def reduce(self, step):
        own = self._gradients(step)[self.my_workers[0]]
        for (_, p), g in zip(self.params, own, strict=True):
            p.grad = g


TERNARISERS = {"floor": NoDraw, "sign": Sign}


def data_parallel(job: Job, model, comm, **options) -> DataParallel:
    """The job's DataParallel, its trits counted. job.mode: one of its own, "no clip", or a control's: floor, sign,
    alone."""
    kind = Alone if job.mode == "alone" else DataParallel
    mode = job.mode if job.mode in (*EXCHANGES, *FLOATS) else "ternary"
    clip = None if job.mode == "no clip" else 2.5
    parallel = kind(
        model.named_parameters(), comm, mode, seed=job.seed, workers=job.workers, model=model, clip=clip, **options
    )
    parallel.ternariser = TERNARISERS.get(job.mode, Counting)(seed=job.seed, clip=clip)
    return parallel


def outcome(parallel: DataParallel, losses: list[float]) -> dict[str, Any]:
    """What every training reports: losses, checksum, bytes sent and by formula, and what was counted of the trits."""
    ledger = parallel.comm.ledger
    result = {"loss": np.array(losses), "crc": parallel.weights_crc(), "formula": parallel.expected_bytes()}
    result["bytes"] = ledger.total() - ledger.total(phase="agree")
    return result | (parallel.ternariser.counted() if isinstance(parallel.ternariser, Counting) else {})


class Average:
    """The running average of the weights by which TernGrad is tested: decay min(.9999, (1 + step) / (10 + step))."""

    def __init__(self, model):
        self.model, self.weights = model, [p.data.copy() for p in model.parameters()]

    def after_step(self, step: int) -> None:
        keep = np.float32(min(0.9999, (1 + step) / (10 + step)))
        for average, p in zip(self.weights, self.model.parameters(), strict=True):
            average *= keep
            average += (1 - keep) * p.data

    def into(self, model) -> None:
        for average, p in zip(self.weights, model.parameters(), strict=True):
            p.data = average


def save_images(folder, found: ImageSet) -> None:
    names = [f"{part}_{what}" for part in ("train", "test") for what in ("images", "labels")]
    save_arrays(folder, {name: getattr(found, name) for name in names})


def save_arrays(folder, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        np.save(Path(folder) / name, array)


def load_arrays(folder) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r") for path in Path(folder).glob("*.npy")}
