"""`terngrad-link`: over slow links ternary gradients are exchanged ten times faster than floats, and so training is.

Said: with slow networks communication is what distributed training waits for, and ternary gradients shorten it; up to
3.04 times the throughput on 8 GPUs over 1 Gbit/s. (Wen et al. 2017, section 6)

Here MPI ranks on one machine train a perceptron of 2.7 million weights (and in full LeNet, 1.3 million) behind links
throttled to 100 Mbit/s and 1 Gbit/s, see links.py. Beside the library's Allreduce stands our own ring, in 32 and in 16
bits, so that the baseline is as good as it can be; and beside every time what the cost model says. The control sends
16-bit floats where trits should be. Without root or MPICH the exchanges run on simulated ranks, whose clock knows of
latency and bandwidth alone; the codec's time is added from the cost model. This file is also what ranks run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidl.claims import links
from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.real_gradients import pixels
from minidl.claims.terngrad_ranks import load_arrays, save_images, shuffled
from minidl.layers import Flatten, Linear, ReLU, Sequential, cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD
from minidl.tensor import Tensor
from minidl.ternary.comm import world
from minidl.ternary.launch import report_result
from minidl.ternary.more.cost_model import Machine, seconds
from minidl.ternary.more.fused import Fused
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.workers import shard
from minidl.train import predict


def perceptron(rng: np.random.Generator) -> Sequential:
    a, b, c = Linear(784, 1500, rng=rng), Linear(1500, 1000, rng=rng), Linear(1000, 10, rng=rng)
    return Sequential(Flatten(), a, ReLU(), b, ReLU(), c)


NETS = {"perceptron": perceptron, "LeNet": lenet_terngrad}
BITS: dict[str | None, float] = {
    "100mbit": 100e6,
    "1gbit": 1e9,
    None: 40e9,
}  # a second; without a throttle about what TCP reaches in memory
WORDS: dict[str | None, str] = {"100mbit": "100 Mbit/s", "1gbit": "1 Gbit/s", None: "no throttle"}
FLOATS, TERNARY = ("float", "ring32", "ring16"), ("ternary", "gather", "sums")
QUICK_RATES: tuple[str | None, ...] = ("100mbit", None)
BATCH, RATE, TARGET, LOOK, MOST = 64, 0.02, 0.95, 10, 400
FASTER = {"ring32": 10.0, "ring16": 5.0}  # how many times faster than the best float32, float16 exchange


@dataclass(frozen=True)
class Training:
    """One training over links. to_target: until a look at held-back images finds TARGET right, every LOOK steps."""

    ranks: int
    rate: str | None
    net: str
    scheme: str
    steps: int
    to_target: bool = False


def plan(full: bool) -> list[Training]:
    if not full:
        steps = {"ring32": 4, "ring16": 6, "gather": 12, "sums": 12}
        return [Training(4, rate, "perceptron", scheme, n) for rate in QUICK_RATES for scheme, n in steps.items()]
    trainings: list[Training] = []
    fewer: tuple[tuple[int, str | None], ...] = ((2, "100mbit"), (2, "1gbit"), (4, None))
    for rate in ("100mbit", "1gbit"):
        for net in NETS:
            trainings += [Training(4, rate, net, scheme, MOST, True) for scheme in (*FLOATS[1:], *TERNARY)]
            trainings += [Training(4, rate, net, "float", 8)]
    for ranks, limit in fewer:
        trainings += [Training(ranks, limit, "perceptron", scheme, 12) for scheme in (*FLOATS, *TERNARY)]
    return trainings


def run(ctx: Context) -> None:
    digits, trainings, reason = ctx.dataset("mnist"), plan(ctx.full), links.missing()
    found: dict[Training, dict] = {}
    with tempfile.TemporaryDirectory() as folder, ctx.progress(len(trainings), "trainings over links") as bar:
        save_images(folder, digits)
        for group in groups_of(trainings, one_by_one=ctx.full):
            bar.set(f"{group[0].net}, {group[0].scheme}, {WORDS[group[0].rate]}")
            if reason is None:
                start = lambda group=group: over_links(group, folder, ctx.seed)
                every = ctx.kept(f"{len(group)} from {group[0]}", start)
            else:
                every = [simulated(training, ctx.seed) for training in group]
            found |= zip(group, every, strict=True)
            bar.update(len(group))
    if reason is not None:
        ctx.note(f"Simulated, and nothing trained: {reason}. The codec's time is the cost model's, not this machine's.")
    ctx.note(
        f"Batch {BATCH} in all, SGD with rate {RATE} and momentum .9; every rank one thread. Exchange: the median over "
        "the steps behind the first two, of the slowest rank, from a barrier on; with scales, drawing, packing, "
        "unpacking."
    )
    scale = "reduced" if reason is None else "simulated"
    speed_rows(ctx, found, scale)
    prediction_row(ctx, found, scale)
    accuracy_rows(ctx, found)
    ctx.figure(
        lambda figure: draw(figure, found),
        alt="Bars: milliseconds of one exchange by scheme at 100 Mbit/s, with marks where the cost model puts them: "
        "float rings take ten and five times as long as ternary exchanges.",
        caption="One exchange of the perceptron's 2.7 million gradients over throttled links; crosses: the cost model.",
    )


def groups_of(trainings: list[Training], one_by_one: bool) -> list[list[Training]]:
    """What one start of the ranks does: all with the same links, or each for itself, where each has to be kept."""
    groups: dict[Any, list[Training]] = {}
    for number, training in enumerate(trainings):
        groups.setdefault(number if one_by_one else (training.ranks, training.rate), []).append(training)
    return list(groups.values())


def over_links(group: list[Training], folder: str, seed: int) -> list[dict]:
    """Train them one after the other on real ranks; of each exchange and step the slowest rank's seconds."""
    first = group[0]
    jobs = [[t.net, t.scheme, t.steps, t.to_target] for t in group]
    argv = ["-m", __name__, json.dumps({"jobs": jobs, "folder": folder, "seed": seed})]
    with links.Links(first.ranks, first.rate) as wires:
        results = wires.run(argv, timeout=120 + 6 * sum(t.steps for t in group))
    every = []
    for number in range(len(group)):
        ranks = [{name: result[f"{number} {name}"] for name in ("exchange", "step", "crc")} for result in results]
        if len({rank["crc"] for rank in ranks}) > 1:
            raise AssertionError(f"{group[number]}: the ranks ended with different weights")
        one = {name: results[0][f"{number} {name}"] for name in ("bytes", "looks", "test")}
        one |= {name: np.max([rank[name] for rank in ranks], axis=0) for name in ("exchange", "step")}
        every.append(one)
    return every


def simulated(training: Training, seed: int) -> dict:
    """One exchange of made-up gradients on simulated ranks."""
    machine = Machine.link(BITS[training.rate])
    sim = SimComm(training.ranks, latency=machine.alpha, bandwidth=1 / machine.beta)
    model = NETS[training.net](np.random.default_rng(0))
    count = sum(p.data.size for p in model.parameters())

    def main(comm):
        copy = NETS[training.net](np.random.default_rng(0))
        parallel = parallel_of(copy, comm, training.scheme, seed)
        parallel.agree(0)
        before = sim.seconds
        for _, p in parallel.params:
            p.grad = np.random.default_rng([seed, comm.Get_rank()]).standard_normal(p.data.shape, np.float32)
        parallel.reduce(0)
        return before, comm.ledger.total() - comm.ledger.total(phase="agree")

    before, sent = max(sim.run(main))
    codec = seconds(like(training.scheme), training.ranks, count, replace(machine, alpha=0, beta=0))
    return {"exchange": np.full(3, sim.seconds - before + codec), "bytes": sent, "looks": [], "test": None}


def like(scheme: str) -> str:
    """The cost model's name for a scheme: the library's sum is taken for a ring."""
    return "ring32" if scheme == "float" else scheme


# ------------------------------------------------------------------------------------------------ rows

Found = dict[Training, dict]


def exchange_of(one: dict) -> float:
    return float(np.median(one["exchange"][2:]))


def best(found: Found, ranks: int, rate, net: str, schemes) -> float:
    """The shortest exchange among these schemes, in seconds; inf if none was run."""
    where = (ranks, rate, net)
    times = [exchange_of(one) for t, one in found.items() if (t.ranks, t.rate, t.net) == where and t.scheme in schemes]
    return min(times, default=np.inf)


def speed_rows(ctx: Context, found: Found, scale: str) -> None:
    for ranks, rate, net in dict.fromkeys((t.ranks, t.rate, t.net) for t in found):
        ternary = best(found, ranks, rate, net, TERNARY)
        half = best(found, ranks, rate, net, ["ring16"])
        milliseconds = {
            t.scheme: round(1e3 * exchange_of(one), 1)
            for t, one in found.items() if (t.ranks, t.rate, t.net) == (ranks, rate, net)
        }  # fmt: skip
        where = f"{net}, {ranks} ranks, {WORDS[rate]}"
        ctx.row(f"one exchange, {where}", measured=milliseconds, unit="ms", scale=scale)
        for baseline, least in FASTER.items():
            floats = FLOATS[:2] if baseline == "ring32" else [baseline]
            ratio = best(found, ranks, rate, net, floats) / ternary
            judged: dict[str, Any] = {}
            if (ranks, rate, net) == (4, "100mbit", "perceptron"):
                sabotaged = best(found, ranks, rate, net, floats) / half
                judged = {
                    "criterion": f"at least {least:g}", "holds": ratio >= least, "control_holds": sabotaged >= least,
                    "control": {"what": "16-bit floats in the place of trits", "measured": round(sabotaged, 2)},
                }  # fmt: skip
            bits = "float32" if baseline == "ring32" else "float16"
            ctx.row(
                f"best ternary exchange against the best {bits}, {where}", measured=round(ratio, 2),
                unit="times as fast", scale=scale, **judged,
            )  # fmt: skip


def prediction_row(ctx: Context, found: Found, scale: str) -> None:
    """How far measured exchanges are from the cost model, where links are throttled."""
    off = {}
    for t, one in found.items():
        if t.rate is not None and t.scheme != "float":
            count = sum(p.data.size for p in NETS[t.net](np.random.default_rng(0)).parameters())
            predicted = seconds(t.scheme, t.ranks, count, Machine.link(BITS[t.rate]))
            off[f"{t.net}, {t.ranks}, {WORDS[t.rate]}, {t.scheme}"] = round(exchange_of(one) / predicted, 3)
    slow = [value for name, value in off.items() if "100 Mbit" in name]
    ctx.row(
        "measured over predicted exchange time", measured=off, unit="times", scale=scale,
        criterion="at 100 Mbit/s between 0.8 and 1.25", holds=all(0.8 <= value <= 1.25 for value in slow),
    )  # fmt: skip
    sent = {f"{t.net}, {t.ranks}, {t.scheme}": int(one["bytes"]) for t, one in found.items() if t.rate == "100mbit"}
    ctx.row("bytes that a rank hands to MPI in one step", measured=sent, scale=scale)


def accuracy_rows(ctx: Context, found: Found) -> None:
    """Seconds until TARGET of the held-back images are right; the test images are read once, at the end."""
    for ranks, rate, net in dict.fromkeys((t.ranks, t.rate, t.net) for t in found if t.to_target):
        trainings = {t: one for t, one in found.items() if (t.ranks, t.rate, t.net) == (ranks, rate, net)}
        took, right, step = {}, {}, {}
        for t, one in trainings.items():
            step[t.scheme] = round(float(np.median(one["step"][2:])), 4) if "step" in one else None
            if t.to_target and len(one["looks"]):
                last, accuracy = one["looks"][-1]
                took[t.scheme] = round(float(last), 1) if accuracy >= TARGET else None
                right[t.scheme] = round(100 * float(one["test"]), 2)
        where = f"{net}, {ranks} ranks, {WORDS[rate]}"
        ctx.row(f"seconds a step, {where}", measured=step, unit="s")
        ctx.row(f"seconds of training to {TARGET:.0%} of held-back images, {where}", measured=took, unit="s")
        ctx.row(f"test accuracy where they stop, {where}", measured=right, unit="%")


def draw(figure, found: Found) -> None:
    axes = figure.subplots()
    chosen = {t.scheme: t for t in found if (t.ranks, t.rate, t.net) == (4, "100mbit", "perceptron")}
    count = sum(p.data.size for p in perceptron(np.random.default_rng(0)).parameters())
    times = [1e3 * exchange_of(found[t]) for t in chosen.values()]
    predicted = [1e3 * seconds(like(scheme), 4, count, Machine.link(100e6)) for scheme in chosen]
    colours = [OKABE_ITO[0] if scheme in FLOATS else OKABE_ITO[6] for scheme in chosen]
    axes.barh(list(chosen), times, color=colours)
    axes.plot(predicted, list(chosen), "x", color=OKABE_ITO[2], label="cost model")
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds an exchange, 4 ranks at 100 Mbit/s")
    axes.legend()


CLAIM = Claim(
    "terngrad-link", chapter="3", title="Over slow links ternary gradients are exchanged ten times faster",
    seconds={"quick": 60, "full": 1500}, run=run,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what each rank runs


def parallel_of(model, comm, scheme: str, seed: int) -> Fused:
    """One exchange a step for all tensors, whatever the scheme."""
    exchange = {"exchange": sum_allreduce} if scheme == "sums" else {}
    return Fused(model.named_parameters(), comm, "ternary" if exchange else scheme, seed=seed, **exchange)


def train(comm, data, net: str, scheme: str, steps: int, to_target: bool, seed: int) -> dict:
    """Train; seconds of each exchange and step, looks as (seconds so far, accuracy), and the accuracy at the end."""
    rank, ranks = comm.Get_rank(), comm.Get_size()
    model = NETS[net](np.random.default_rng([seed, 1]))
    optimizer = SGD(model.parameters(), RATE, momentum=0.9)
    parallel = parallel_of(model, comm, scheme, seed)
    kept = len(data["train_labels"]) // 6  # the last images are held back
    rows = shuffled(len(data["train_labels"]) - kept, BATCH, seed, 2)
    right = lambda part, last: float(np.mean(
        predict(model, pixels(data[f"{part}_images"][-last:])).argmax(1) == data[f"{part}_labels"][-last:]
    ))  # fmt: skip
    exchange, step_times, looks = [], [], []
    for step in range(steps):
        mine = np.sort(shard(rows(step), rank, ranks))
        comm.Barrier()
        start = time.perf_counter()
        model.zero_grad()
        cross_entropy(model(Tensor(pixels(data["train_images"][mine]))), data["train_labels"][mine]).backward()
        comm.Barrier()  # an exchange begins when the last rank is there
        before = time.perf_counter()
        parallel.reduce(step)
        exchange.append(time.perf_counter() - before)
        optimizer.step()
        step_times.append(time.perf_counter() - start)
        if to_target and step % LOOK == LOOK - 1:
            looks.append((sum(step_times), comm.bcast(right("train", min(kept, 2000)) if rank == 0 else None)))
            if looks[-1][1] >= TARGET:
                break
    last = comm.ledger.total(step=len(step_times) - 1) - comm.ledger.total(step=len(step_times) - 1, call="bcast")
    return {
        "exchange": np.array(exchange), "step": np.array(step_times), "looks": np.array(looks), "bytes": last,
        "test": right("test", len(data["test_labels"])) if rank == 0 else 0.0, "crc": parallel.check_weights(),
    }  # fmt: skip


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    arrays = load_arrays(given["folder"])
    report: dict[str, Any] = {}
    for number, (net, scheme, steps, to_target) in enumerate(given["jobs"]):
        result = train(world(), arrays, net, scheme, steps, to_target, given["seed"])
        report |= {f"{number} {name}": value for name, value in result.items()}
    report_result(report)
