"""Claim terngrad-unbiased: the mean of ternary gradients is the gradient, and their noise is what the formula says.

Said (Wen et al. 2017, equations 4 to 6): with b_k ~ Bernoulli(|g_k| / s) the expectation of s sign(g_k) b_k is g_k.

Per number, y = clip(g) / s in [-1, 1] and t in {-1, 0, 1} with P(t = sign y) = |y|, so

    E t = y,   Var t = |y| (1 - |y|),   and of the mean of n workers' trits  Var = |y| (1 - |y|) / n

as long as the workers draw independently. First a proof without statistics: the trit is a function of two integers, q
and the draw U, and all 2^24 draws can be tried. Then what the draws that are really used give: over all numbers
together, number by number, and in their variance. The controls are the mistakes that are easily made: no draw (floor,
nearest trit, sign), <= for <, and the same draws on all workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.ternary.ternarise import Ternariser, draw_key, draws, trits_of

ALL = 2**24
QUICK_Q, FULL_Q = 9, 129
SIZE, QUICK_DRAWS, FULL_DRAWS = 2**16, 256, 4096
COORDINATES, QUICK_EACH, FULL_EACH = 1000, 2000, 40_000
WORKERS, QUICK_ROUNDS, FULL_ROUNDS = 8, 20, 300
SIGMAS, BIAS = 6.0, 1e-3  # over all numbers: rejects at 6 standard errors; a bias of 1e-3 s must be seen
EACH_SIGMAS = 7.1  # number by number: 1000 times a probability of 1.3e-12

NOT_DRAWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nearest trit": np.rint,
    "floor": np.floor,
    "sign times mean |g|": lambda y: np.sign(y) * np.abs(y).mean(),
}
"""The deterministic ternarisers: what they give in place of t, as a function of y."""


def run(ctx: Context) -> None:
    everything(ctx, FULL_Q if ctx.full else QUICK_Q)
    together(ctx, FULL_DRAWS if ctx.full else QUICK_DRAWS)
    number_by_number(ctx, FULL_EACH if ctx.full else QUICK_EACH)
    workers(ctx, FULL_ROUNDS if ctx.full else QUICK_ROUNDS)


def at_most(q: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The control of the proof: U <= |q| where U < |q| is right. One draw in 2^24 too many is kept."""
    return np.sign(q) * (u <= np.abs(q))


def everything(ctx: Context, count: int) -> None:
    """Every draw U for some q: 0 and both ends, their neighbours, and random ones between."""
    ends = [0, ALL, 1, -ALL, -1, ALL - 1, 1 - ALL]
    chosen = (ends + [int(q) for q in ctx.rng("q").integers(-ALL, ALL, count)])[:count]
    exact = inexact = 0
    with ctx.progress(len(chosen), "all 2^24 draws") as bar:
        for q in chosen:
            sums = [0, 0]
            for first in range(0, ALL, 2**20):
                u = np.arange(first, first + 2**20, dtype=np.int32)
                for k, function in enumerate((trits_of, at_most)):
                    sums[k] += int(function(np.full(u.size, q, np.int32), u).sum(dtype=np.int64))
            exact, inexact = exact + (sums[0] == q), inexact + (sums[1] == q)
            bar.update()
    ctx.row(
        "values of clip(g) / s whose trits, over all 2^24 draws, have exactly that mean", said="E[g~] = g",
        measured=exact, unit=f"of {len(chosen)}", criterion="all", holds=exact == len(chosen), scale="published",
        control={"what": "kept where the draw is <= |g| / s instead of <", "measured": inexact},
        control_holds=inexact == len(chosen), trials=ALL,
    )  # fmt: skip


def together(ctx: Context, repeats: int) -> None:
    """A Gaussian gradient, ternarised many times: the sum of all errors in its own standard errors."""
    g = ctx.rng("gradient").standard_normal(SIZE, np.float32)
    ternariser = Ternariser(seed=ctx.seed)
    y = np.clip(g / float(ternariser.scales(g)[0]), -1.0, 1.0).astype(np.float64)
    variance = np.abs(y) * (1 - np.abs(y))
    deviation = math.sqrt(repeats * variance.sum())
    off = lambda total: max(abs(total.sum()), abs((total * np.sign(y)).sum())) / deviation  # upwards, and outwards
    total, curve = np.zeros(SIZE), {}
    with ctx.progress(repeats, "means of many draws") as bar:
        for k in range(repeats):
            total += ternariser.trits(g, step=k) - y
            if (k + 1) & k == 0:  # 1, 2, 4, ... draws
                curve[k + 1] = math.sqrt(np.square(total / (k + 1)).mean())
            bar.update()
    power = 0.5 * (1 + math.erf((BIAS * SIZE * repeats / deviation - SIGMAS) / math.sqrt(2)))
    drawn = off(total)
    # the mean over all numbers of sign times mean |g| is right by its making: it fails number by number
    controls = {name: off(repeats * (NOT_DRAWN[name](y) - y)) for name in ("nearest trit", "floor")}
    controls["sign"] = off(repeats * (np.sign(y) - y))
    ctx.row(
        "bias over all numbers of a Gaussian gradient, in standard errors", said=0, measured=drawn,
        criterion=f"below {SIGMAS:g}, where a bias of {BIAS:g} s is seen with probability {power:.5f} (above 0.999)",
        holds=drawn < SIGMAS and power > 0.999,
        control={"what": "nearest trit, floor and sign in the place of a draw", "measured": controls},
        control_holds=min(controls.values()) < SIGMAS, trials=repeats,
    )  # fmt: skip
    constant = {name: math.sqrt(np.square(function(y) - y).mean()) for name, function in NOT_DRAWN.items()}
    ctx.figure(
        lambda figure: draw(figure, curve, math.sqrt(variance.mean()), constant),
        alt="Error of the mean of K ternary gradients against K, both axes logarithmic: the drawn trits lie on the "
        "predicted line, which falls with the root of K. Nearest trit, floor and sign stay where they start.",
        caption="Noise averages out, bias does not.",
    )


def number_by_number(ctx: Context, repeats: int) -> None:
    """Each of 1000 numbers between .05 and .95 of the scale: the largest error, in its own standard errors."""
    rng = ctx.rng("coordinates")
    g = rng.uniform(0.05, 0.95, COORDINATES + 1) * rng.choice([-1, 1], COORDINATES + 1)
    g[-1] = 1.0  # the largest: sets the scale to 1, and is not judged
    ternariser, total = Ternariser(seed=ctx.seed), np.zeros(COORDINATES)
    y = g[:-1]
    with ctx.progress(repeats, "number by number") as bar:
        for k in range(repeats):
            total += ternariser.trits(g, step=k, tensor=1)[:-1]
            bar.update()
    off = lambda mean: np.abs((mean - y) / np.sqrt(np.abs(y) * (1 - np.abs(y)) / repeats)).max()
    controls = {name: off(function(y)) for name, function in NOT_DRAWN.items()}
    ctx.row(
        f"largest bias of {COORDINATES} numbers, each in its standard errors", said=0, measured=off(total / repeats),
        criterion=f"below {EACH_SIGMAS}", holds=off(total / repeats) < EACH_SIGMAS,
        control={"what": "nearest trit, floor, sign times mean |g|", "measured": controls},
        control_holds=min(controls.values()) < EACH_SIGMAS, trials=repeats,
    )  # fmt: skip


def workers(ctx: Context, rounds: int) -> None:
    """The squared error of the mean of several workers' trits of one gradient, over the formula's."""
    g = ctx.rng("workers' gradient").standard_normal(SIZE, np.float32)
    ternariser = Ternariser(seed=ctx.seed)
    y = np.clip(g / float(ternariser.scales(g)[0]), -1.0, 1.0).astype(np.float64)
    formula = (np.abs(y) * (1 - np.abs(y))).sum() / WORKERS
    q, found = np.rint(y * ALL).astype(np.int32), [0.0, 0.0]
    with ctx.progress(rounds, f"{WORKERS} workers") as bar:
        for step in range(rounds):
            drawn = [ternariser.trits(g, step=step, worker=w, tensor=2) for w in range(WORKERS)]
            same = [trits_of(q, draws(draw_key(ctx.seed, step, 0, 2), 0, SIZE))] * WORKERS
            for k, trits in enumerate((drawn, same)):
                found[k] += np.square(np.mean(trits, axis=0) - y).sum() / rounds
            bar.update()
    ratio, control = found[0] / formula, found[1] / formula
    ctx.row(
        f"variance of the mean of {WORKERS} workers, over the sum of |g| (s - |g|) / {WORKERS}", said=1, measured=ratio,
        unit="times", criterion="within 2 %", holds=abs(ratio - 1) < 0.02,
        control={"what": "all workers use the same draws", "measured": control}, control_holds=abs(control - 1) < 0.02,
        trials=rounds,
    )  # fmt: skip


def draw(figure, curve: dict[int, float], one: float, constant: dict[str, float]) -> None:
    axes = figure.subplots()
    counts = np.array(list(curve))
    axes.loglog(counts, one / np.sqrt(counts), "-", color=OKABE_ITO[0], label="predicted: sqrt(mean |y| (1 - |y|) / K)")
    axes.loglog(counts, list(curve.values()), "o", color=OKABE_ITO[6], label="drawn trits")
    styles = zip(constant.items(), (OKABE_ITO[1], OKABE_ITO[2], OKABE_ITO[5]), ("s--", "^-.", "v:"), strict=True)
    for (name, value), colour, style in styles:
        axes.loglog(counts, np.full(counts.size, value), style, color=colour, label=name, markersize=4)
    axes.set(xlabel="K, ternary gradients averaged", ylabel="root mean square error, in units of the scale s")
    axes.legend(fontsize="small")


CLAIM = Claim(
    "terngrad-unbiased", chapter="3", title="The mean of ternary gradients is the gradient",
    seconds={"quick": 5, "full": 20}, run=run,
)  # fmt: skip
