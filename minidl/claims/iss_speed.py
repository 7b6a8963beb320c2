"""`iss-speed`: a language model without its empty hidden units is as much faster as the table says.

Said: with 373 + 315 hidden units instead of 1,500 + 1,500, 14.82 ms instead of 157.0 ms for a batch of 10 and 30 time
steps, 10.59 times as fast with 7.48 times fewer multiply-adds; with 381 + 535 units 22.11 ms, 7.10 times as fast with
5.01 times fewer. (Wen et al. 2018, table 1: two 12-core Xeon E5-2673 v3)

Nothing is trained here: what a product costs does not depend on the values of the weights. The whole model is timed at
the paper's sizes, with its embedding of 1,500 numbers for each of 10,000 words, its output layer and carried states:
here, by PyTorch and by ONNX Runtime, each in a process of its own, taking turns. A shrunk model is an ordinary smaller
one, so all of them can run it as it is. Its speed-up is taken against the *fastest* dense model of all libraries.

    python -m minidl.claims.iss_speed LIBRARY     the process of one library: answers each line with a line of JSON
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from minidl.bench import measure
from minidl.bench.cases import PEERS
from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.models.lstm_lm import LSTMLanguageModel
from minidl.tensor import no_grad

VOCABULARY, EMBEDDING, BATCH, STEPS = 10_000, 1500, 10, 30
DENSE, COPY = "1500 + 1500", "1500 + 1500, a copy"
SIZES = {DENSE: (1500, 1500), COPY: (1500, 1500), "373 + 315": (373, 315), "381 + 535": (381, 535)}
SAID = {"373 + 315": (10.59, 14.82), "381 + 535": (7.10, 22.11)}  # times, milliseconds
KEPT = {DENSE: 2, COPY: 2}  # runs of a block that count, behind one that does not; 5 of the small models
SHARE = 0.75  # of what the multiply-adds promise: below it, a shrunk model would not be worth its name


def run(ctx: Context) -> None:
    rounds, threads = (15, (1, 2)) if ctx.full else (3, (ctx.threads,))
    there = ["minidl"]
    for name in ("PyTorch", "ONNX Runtime"):
        if any(importlib.util.find_spec(package) is None for package in PEERS[name].packages):
            ctx.not_run(f"milliseconds of {name}", f"it is not installed: pip install {PEERS[name].install}")
        else:
            there.append(name)
    times: dict[int, dict] = {}
    with ctx.progress(len(threads) * (rounds + 1), "timing") as bar:
        for count in threads:
            times[count], logits = measured(there, count, rounds, bar)
    report_agreement(ctx, logits)
    for count, found in times.items():
        report(ctx, count, found, rounds)
    ctx.figure(
        lambda figure: draw(figure, times[threads[0]]),
        alt="Bars of milliseconds for each library: the dense model far above both shrunk models.",
        caption=f"Inference, batch {BATCH}, {STEPS} time steps, {threads[0]} thread{'s' * (threads[0] > 1)}.",
    )


def macs(hidden: tuple[int, int]) -> int:
    """Multiply-adds for one word; the embedding is a look-up. (The paper's 51,000,000 and 6,811,396)"""
    first, second = hidden
    return 4 * first * (EMBEDDING + first) + 4 * second * (first + second) + second * VOCABULARY


# -- measuring ---------------------------------------------------------------------------------------------------------
class Process:
    """One library with all models, in a process that has `threads` threads and BLAS's own choice of a kernel."""

    def __init__(self, library: str, threads: int):
        env = measure.environment(threads, pinned=False)
        command = [sys.executable, "-m", "minidl.claims.iss_speed", library]
        self.child = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, model: str) -> list[float]:
        """The seconds of a block of runs of one model; of "logits", some logits of each."""
        print(model, file=self.child.stdin, flush=True)
        line = self.child.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"the process that was timed ended with status {self.child.wait()}; see above")
        return json.loads(line)

    def close(self) -> None:
        self.child.stdin.close()  # type: ignore[union-attr]  # the end of its questions
        self.child.wait()


def measured(libraries: list[str], threads: int, rounds: int, bar) -> tuple[dict, dict]:
    """({library: {model: seconds of all runs}}, {library: some logits}); libraries and models take turns."""
    processes: dict[str, Process] = {}
    try:
        for name in libraries:
            processes[name] = Process(name, threads)
        logits = {name: process.ask("logits") for name, process in processes.items()}
        bar.update()
        times: dict[str, dict[str, list[float]]] = {name: {model: [] for model in SIZES} for name in libraries}
        for _ in range(rounds):
            for model in SIZES:
                for name, process in processes.items():
                    if model != COPY or name == "minidl":
                        times[name][model] += process.ask(model)
            bar.update()
    finally:
        for process in processes.values():
            process.close()
    return times, logits


def serve(library: str) -> None:
    """Build all models and answer questions until there are no more."""
    x = np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, BATCH))
    build = BUILDERS[library]
    steps = {}
    for name, hidden in SIZES.items():
        if name != COPY or library == "minidl":
            model = LSTMLanguageModel(
                VOCABULARY, EMBEDDING, hidden, init_scale=0.04, rng=np.random.default_rng([1, *hidden])
            )
            steps[name] = build(model, x)
    for line in sys.stdin:
        question = line.strip()
        if question == "logits":
            answer = [float(v) for step in steps.values() for v in np.asarray(step())[-1, :3]][-9:]
        else:
            answer = block(steps[question], KEPT.get(question, 5))
        print(json.dumps(answer), flush=True)


def block(step: Callable[[], object], kept: int) -> list[float]:
    """The seconds of `kept` runs, after one that warms the caches; then rest until no thread is busy any more."""
    step()
    seconds = []
    for _ in range(kept):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    measure.rest()
    return seconds


def _minidl(model: LSTMLanguageModel, x: np.ndarray) -> Callable[[], np.ndarray]:
    model.eval()
    states = model.zero_states(BATCH)

    def step():
        nonlocal states
        with no_grad():
            logits, states = model(x, states)
        return logits.data

    return step


def _pytorch(model: LSTMLanguageModel, x: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    given = {name: torch.from_numpy(p.data) for name, p in model.named_parameters()}
    layers: list[Any] = []
    states: list[Any] = []
    with torch.inference_mode():
        for k, layer in enumerate(model.layers):
            units, width = layer.weight_hh.shape[1], layer.weight_ih.shape[1]
            one: Any = torch.nn.LSTM(width, units)
            one.weight_ih_l0.copy_(given[f"layers.{k}.weight_ih"])
            one.weight_hh_l0.copy_(given[f"layers.{k}.weight_hh"])
            one.bias_ih_l0.copy_(given[f"layers.{k}.bias"])
            one.bias_hh_l0.zero_()  # the second bias, which the paper's model has not
            layers.append(one.eval())
            states.append((torch.zeros(1, BATCH, units), torch.zeros(1, BATCH, units)))
    ids = torch.from_numpy(x)

    def step():
        with torch.inference_mode():
            h = torch.nn.functional.embedding(ids, given["embedding.weight"])
            for k, layer in enumerate(layers):
                h, states[k] = layer(h, states[k])
            return torch.nn.functional.linear(h.flatten(0, 1), given["output.weight"], given["output.bias"]).numpy()

    return step


def _onnx(model: LSTMLanguageModel, x: np.ndarray) -> Callable[[], object]:
    from minidl.bench.onnx_steps import language_model

    return language_model(model, x)


BUILDERS = {"minidl": _minidl, "PyTorch": _pytorch, "ONNX Runtime": _onnx}


# -- reporting ---------------------------------------------------------------------------------------------------------
def report_agreement(ctx: Context, logits: dict[str, list[float]]) -> None:
    """All libraries have to compute the same, or their times cannot be compared."""
    mine = np.array(logits["minidl"])
    apart = max((float(np.abs(mine - other).max()) for other in logits.values()), default=0.0)
    ctx.row(
        "largest difference of some logits between the libraries", measured=apart, scale="published",
        criterion="at most 1e-4", holds=apart <= 1e-4,
        control={"what": "the logits of another word", "measured": float(np.abs(mine - np.roll(mine, 1)).max())},
        control_holds=bool(np.abs(mine - np.roll(mine, 1)).max() <= 1e-4),
    )  # fmt: skip


def report(ctx: Context, threads: int, times: dict, rounds: int) -> None:
    """The rows of one number of threads."""
    told = f"{threads} thread{'s' * (threads > 1)}"
    ms = {name: {model: 1e3 * median(s) for model, s in found.items() if s} for name, found in times.items()}
    fastest = min(ms, key=lambda name: ms[name][DENSE])
    for name, found in ms.items():
        for model in (DENSE, *SAID):
            ctx.row(
                f"{name}, {model} units, {told}", said=SAID[model][1] if model in SAID else 157.0,
                measured=found[model], interval=quartiles(times[name][model], 1e3), unit="ms",
                trials=len(times[name][model]), scale="published",
            )  # fmt: skip
    mine = times["minidl"]
    same = ms["minidl"][DENSE] / ms["minidl"][COPY]
    for model, (said, _) in SAID.items():
        fewer = macs(SIZES[DENSE]) / macs(SIZES[model])
        dense = times[fastest][DENSE]
        speed = ms[fastest][DENSE] / ms["minidl"][model]
        least = SHARE * fewer
        (low, high), (quick, slow) = quartiles(dense, 1.0), quartiles(mine[model], 1.0)
        ctx.row(
            f"speed-up with {model} units over the fastest dense model ({fastest}), {told}", said=said, measured=speed,
            unit="times", interval=(low / slow, high / quick), trials=len(mine[model]), scale="published",
            criterion=f"at least {least:.2f}, {SHARE:g} of the {fewer:.2f} of the multiply-adds", holds=speed >= least,
            control={"what": "the dense model over a copy of itself", "measured": same}, control_holds=same >= least,
        )  # fmt: skip
        for name in ms:
            if name != "minidl":
                ctx.row(
                    f"time here over {name}'s, {model} units, {told}", measured=ms["minidl"][model] / ms[name][model],
                    scale="published",
                )  # fmt: skip
    ctx.note(
        f"{told}: {rounds} turns of all models and libraries, medians; batch {BATCH}, {STEPS} steps, all in float32. "
        "The table's times are those of 24 cores; its speed-up exceeds that of the multiply-adds because the dense "
        "weights do not fit into the cache."
    )


def quartiles(seconds: list[float], factor: float) -> tuple[float, float]:
    low, high = factor * np.quantile(seconds, [0.25, 0.75])
    return float(low), float(high)


def draw(figure, times: dict) -> None:
    """Bars of milliseconds: a group for each library, a bar for each model."""
    axes = figure.subplots()
    models = (DENSE, *SAID)
    for k, (model, hatch) in enumerate(zip(models, ("", "//", "\\\\"), strict=True)):
        heights = [1e3 * median(found[model]) for found in times.values()]
        where = np.arange(len(times)) + 0.27 * (k - 1)
        bars = axes.bar(where, heights, 0.25, color=OKABE_ITO[(0, 5, 2)[k]], hatch=hatch, label=f"{model} units")
        axes.bar_label(bars, fmt="%.3g")
    axes.set(xticks=range(len(times)), xticklabels=list(times), ylabel="milliseconds", yscale="log")
    axes.legend()


CLAIM = Claim(
    "iss-speed", chapter="2", title="A language model without its empty units runs as much faster as the table says",
    seconds={"quick": 45, "full": 400}, run=run,
)  # fmt: skip

if __name__ == "__main__":
    serve(sys.argv[1])
