"""`terngrad-lstm`: a language model learns from ternary gradients, and what of it should stay in float.

Said: recurrent networks, most of whose weights lie in matrix products, gain more from small gradients than
convolutional ones (the talk's performance model); no perplexity is published. (Wen et al. 2017)

Here the LSTM of the talk's second chapter is trained by workers that each read on in their own part of the text: with
floats, with trits everywhere, with the output layer in float as TernGrad keeps it, and with that but without clipping:
an embedding's gradient is 0 for every word that is not in the batch, so its sigma is small, and clipping at 2.5 sigma
may cut much of the rest. The control leaves the draw out. This file is also what the ranks run.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace

import numpy as np

from minidl.claims import iss_lm
from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.terngrad_ranks import (
    Job,
    bytes_row,
    data_parallel,
    in_words,
    main,
    outcome,
    paired,
    save_arrays,
    train_all,
    train_steps,
)  # fmt: skip
from minidl.claims.trainings import smooth
from minidl.data.text import batch_stream
from minidl.models.lstm_lm import LSTMLanguageModel, cost, detach, perplexity
from minidl.optim import SGD, clip_grad_norm
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.launch import find_mpirun

HERE, RANKS, WORKERS = "minidl.claims.terngrad_lstm", 2, 4
EVERYWHERE, LAST = "trits everywhere", "output layer in float"


@dataclass(frozen=True)
class Setting:
    """Sizes and schedule; the learning rate is 1, and halves after each epoch."""

    hidden: int
    epochs: int
    vocabulary: int
    batch: int = 20
    steps: int = 20


SEEDS = 3
WORSE = 1.1  # so many times floats' perplexity still counts as "as well"


def jobs_of(steps: int, seed: int) -> list[Job]:
    one, seeds = Job("float", WORKERS, LAST, steps, seed), range(seed, seed + SEEDS)
    jobs = [replace(one, seed=s) for s in seeds]
    jobs += [replace(one, mode="ternary", seed=s) for s in seeds]
    jobs += [replace(one, mode="ternary", variant=EVERYWHERE, seed=s) for s in seeds]
    jobs += [replace(one, mode="no clip", seed=s) for s in seeds]
    return [*jobs, replace(one, mode="floor")]


def run(ctx: Context) -> None:
    find_mpirun()  # without MPI: MissingExtra, before anything is loaded
    text = iss_lm.reduced(ctx.dataset("text"), iss_lm.FULL if ctx.full else iss_lm.QUICK)
    hidden, epochs = (200, 2) if ctx.full else (100, 1)
    setting = Setting(hidden, epochs, len(text.vocabulary))
    steps = setting.epochs * steps_an_epoch(text.train, setting)
    jobs = jobs_of(steps, ctx.seed)
    with tempfile.TemporaryDirectory() as folder:
        save_arrays(folder, {part: getattr(text, part) for part in ("train", "test")})
        with ctx.progress(sum(job.length for job in jobs), f"{len(jobs)} trainings on {RANKS} ranks") as bar:
            found = train_all(ctx, bar, HERE, RANKS, jobs, apart=ctx.full, folder=folder, setting=asdict(setting))
    ctx.note(
        f"{len(text.train):,} training words, {setting.vocabulary:,} different; two layers of {setting.hidden} units, "
        f"{WORKERS} workers on {RANKS} ranks, {setting.batch} rows of {setting.steps} words in all, {setting.epochs} "
        "epoch(s), SGD with rate 1 halved after each, the mean gradient clipped at norm 5. Nothing was tuned."
    )
    said = {job: one["perplexity"] for job, one in found.items()}
    seeds = range(ctx.seed, ctx.seed + SEEDS)
    first = jobs[0]
    floats = [said[replace(first, seed=s)] for s in seeds]
    measured = {"float": float(np.mean(floats))}
    worse = said[replace(first, mode="floor")] / floats[0]
    for mode, variant in (("ternary", LAST), ("ternary", EVERYWHERE), ("no clip", LAST)):
        ternary = [said[replace(first, mode=mode, variant=variant, seed=s)] for s in seeds]
        variant += ", no clipping" if mode == "no clip" else ""
        measured[variant] = float(np.mean(ternary))
        log, interval = paired(np.log(ternary), np.log(floats))
        low, high = np.exp(interval)
        ctx.row(
            f"test perplexity, ternary over float, {variant}", measured=float(np.exp(log)), unit="times",
            interval=(low, high), seeds=SEEDS, criterion=f"the 95 % interval over paired seeds lies below {WORSE:g}",
            holds=high < WORSE, contradicted=low > WORSE,
            control={"what": "trits without the draw: biased; one seed", "measured": worse},
            control_holds=worse < WORSE,
        )  # fmt: skip
    ctx.row("test perplexity", measured=measured, seeds=SEEDS)
    exchanged(ctx, found, first)
    ctx.figure(
        lambda figure: draw(figure, found, first),
        alt="Training cost in nats a word over the steps. Mean of the last tenth: " + in_words(found, ctx.seed),
        caption="A language model's training cost by what its workers exchange (first seed).",
    )


def exchanged(ctx: Context, found: dict[Job, dict], first: Job) -> None:
    """Bytes a step, and how many trits are 0."""
    for variant in (EVERYWHERE, LAST):
        ternary = found[replace(first, mode="ternary", variant=variant)]
        bytes_row(ctx, f"times fewer bytes, {variant}", ternary, found[first], first.steps, 5)
    one = found[replace(first, mode="ternary", variant=EVERYWHERE)]
    zeros, predicted = (100 * (1 - one[name] / one["numbers"]) for name in ("nonzero", "expected"))
    ctx.row("zeros among the trits", measured={"counted": zeros, "predicted": predicted}, unit="%")


def draw(figure, found: dict[Job, dict], first: Job) -> None:
    axes = figure.subplots()
    lines = {
        "float": (first, OKABE_ITO[0], "-"),
        LAST: (replace(first, mode="ternary"), OKABE_ITO[6], "--"),
        EVERYWHERE: (replace(first, mode="ternary", variant=EVERYWHERE), OKABE_ITO[5], "-."),
        "without clipping": (replace(first, mode="no clip"), OKABE_ITO[3], (0, (5, 1, 1, 1, 1, 1))),
        "without the draw": (replace(first, mode="floor"), OKABE_ITO[2], ":"),
    }
    for name, (job, colour, style) in lines.items():
        steps, means = smooth(found[job]["loss"], 25)
        axes.plot(steps, means, linestyle=style, color=colour, label=name)
    axes.set(xlabel="step", ylabel=f"nats a word (mean of {steps[0]} steps)")
    axes.legend()


CLAIM = Claim(
    "terngrad-lstm", chapter="3", title="A language model learns from ternary gradients",
    seconds={"quick": 90, "full": 6000}, run=run,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what each rank runs


def steps_an_epoch(ids: np.ndarray, setting: Setting) -> int:
    return (len(ids) // setting.batch - 1) // setting.steps


def train(job: Job, comm, tell, data: dict, setting: dict) -> dict:
    """Train this rank's copy of the model: each worker has its own columns of the text, and its own state."""
    s = Setting(**setting)
    model = LSTMLanguageModel(
        s.vocabulary, s.hidden, (s.hidden, s.hidden), rng=np.random.default_rng([job.seed, 1])
    )  # fmt: skip
    optimizer = SGD(model.parameters(), 1.0)
    keep = "last layer" if job.variant == LAST and job.mode != "float" else None
    parallel = data_parallel(job, model, comm, keep_float=keep)
    epoch, train_ids = steps_an_epoch(data["train"], s), np.asarray(data["train"])
    batches = list(batch_stream(train_ids, s.batch, s.steps))
    states: dict[int, list] = {}

    def mean_cost(step, w):
        x, y = (np.ascontiguousarray(part[:, w :: job.workers]) for part in batches[step % epoch])  # columns are texts
        before = model.zero_states(x.shape[1]) if step % epoch == 0 else detach(states[w])
        value, states[w] = cost(model, x, y, before)
        return value

    losses = train_steps(
        parallel, model, optimizer, mean_cost, job.length, rate=lambda step: 0.5 ** (step // epoch),
        after_reduce=lambda: clip_grad_norm(optimizer.params, 5.0), after_step=tell,
    )  # fmt: skip
    result = outcome(parallel, [loss / s.steps for loss in losses])  # a word's
    if comm.Get_rank() == 0:  # whose values are taken
        result["perplexity"] = perplexity(model, batch_stream(np.asarray(data["test"]), s.batch, s.steps))
    return result


def warm_up() -> None:
    """One step of one rank without MPI: compiles what the ranks will use."""
    setting, ids = Setting(8, 1, 10), np.arange(900, dtype=np.int32) % 10
    train(
        Job("ternary", 2, LAST, 1), Counted(OneRank()), lambda step: None, {"train": ids, "test": ids}, asdict(setting)
    )


if __name__ == "__main__":
    main(train, warm_up)
