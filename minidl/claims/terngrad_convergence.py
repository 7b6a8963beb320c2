"""Claim terngrad-convergence: with which learning rates training by ternary gradients ends where it should.

Said (Wen et al. 2017, theorem 1): with one minimum, and rates whose sum is infinite and whose squares' sum is finite,
training by ternary gradients reaches the minimum almost surely.

Here on strongly convex ground, where everything can be predicted: f(w) = 1/2 sum_k a_k w_k^2, each of n workers sees
the gradient a w + noise, all ternarise with the largest |g| of all as the scale (nothing is clipped), and the mean of
the trits makes the step w <- w - gamma g~. With V_k the variance of g~_k, a number's variance follows

    v <- (1 - gamma a)^2 v + gamma^2 V       V = noise^2 / n  +  E |g| (s - |g|) / n

    gamma constant             v = gamma V / (a (2 - gamma a)): a plateau, which is about halved when gamma is
    gamma = c / (t + t0)       v t -> c^2 V / (2 a c - 1), if 2 a c > 1: ten times the steps, a tenth of the error
    gamma ~ 1 / (t + t1)^2     the sum of all rates is finite, so that part of the way is never gone: w stays beyond
                               w_0 prod (1 - gamma_t a)

V holds the expectation of |g| (s - |g|) for Gaussian g, which is taken from random numbers of its own; where v is part
of g's variance, the equation is repeated until v stands. The controls: trits without a draw, the same draws on all
workers, rates that do not fall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.optim import constant
from minidl.ternary.ternarise import draw_key, ternarise

SIZE, COPIES, WORKERS = 64, 32, 4  # numbers of a problem; problems side by side, with noise of their own; workers
SLOPES = np.geomspace(0.2, 1.0, SIZE)  # a_k
NOISE, START = 1.0, 3.0  # each worker's noise; w_0 in every number
PLATEAUS = (0.02, 0.1, 0.4)
C, T0, T1 = 10.0, 20.0, 4.0  # falling rates begin at 1/2
QUICK_STEPS, FULL_STEPS = 4000, 40_000
CLOSE, TENTH, STALLED = 0.05, (8.0, 12.5), 0.9

Rate = Callable[[int], float]


class Kind(NamedTuple):
    """How workers turn gradients into what is sent: "ternary", "float", and the controls "same draws" and "floor"."""

    name: str

    def mean(self, grads: list[np.ndarray], seed: int, step: int) -> np.ndarray:
        """grads: for each worker (COPIES, SIZE) float32; every copy is a tensor with a scale of its own."""
        if self.name == "float":
            return np.mean(grads, axis=0)
        s = np.max([np.abs(g).max(1) for g in grads], axis=0)
        total = np.zeros((COPIES, SIZE), np.int32)
        for worker, g in enumerate(grads):
            if self.name == "floor":
                total += np.floor(g / s[:, None]).astype(np.int32)
            else:
                key = draw_key(seed, step, 0 if self.name == "same draws" else worker, 0)
                total += ternarise(g.reshape(-1), s, key, s, SIZE).reshape(COPIES, SIZE)
        return s[:, None] * total / len(grads)


TERNARY, FLOAT, SAME, FLOOR = map(Kind, ("ternary", "float", "same draws", "floor"))


def run(ctx: Context) -> None:
    steps = FULL_STEPS if ctx.full else QUICK_STEPS
    falling: Rate = lambda t: C / (t + T0)
    fast: Rate = lambda t: falling(0) * (T1 / (t + T1)) ** 2
    trainings = {
        "falling": (falling, TERNARY), "falling, float": (falling, FLOAT), "falling, floor": (falling, FLOOR),
        "fast": (fast, TERNARY), "flat": (constant(falling(0) / 5), TERNARY),
    }  # fmt: skip
    for kind in (TERNARY, SAME, FLOAT):
        trainings |= {f"{rate:g}, {kind.name}": (constant(rate), kind) for rate in PLATEAUS}
    curves: dict[str, np.ndarray] = {}
    with ctx.progress(steps * len(trainings), "descents") as bar:
        for name, (rate, kind) in trainings.items():
            curves[name] = descend(ctx, name, rate, kind, steps, bar)
    decreasing(ctx, curves, steps)
    plateaus(ctx, curves)
    stalling(ctx, curves, fast, steps)
    ctx.note(
        f"{SIZE} numbers, slopes from {SLOPES[0]:g} to {SLOPES[-1]:g}, noise {NOISE:g} on each of {WORKERS} workers, "
        f"{COPIES} problems side by side, {steps} steps; f is their mean."
    )
    ctx.figure(
        lambda figure: draw(figure, curves),
        alt="Distance f from the minimum over the steps, both axes logarithmic. Rates that fall as 1/t: it falls along "
        "the predicted line, in ternary somewhat above float. Constant rates: flat at the predicted heights. Rates "
        "that fall as 1/t squared: it stays where it was left. Without a draw: it stays high.",
        caption="Ternary gradients converge where the rates of SGD do. Dotted: predicted.",
    )


def descend(ctx: Context, name: str, rate: Rate, kind: Kind, steps: int, bar) -> np.ndarray:
    """f after every step, the mean of the copies: (steps,)."""
    rng = ctx.rng(name)
    w, f = np.full((COPIES, SIZE), START), np.empty(steps)
    for t in range(steps):
        slope = (SLOPES * w).astype(np.float32)
        noise = NOISE * rng.standard_normal((WORKERS, COPIES, SIZE), np.float32)
        w = w - rate(t) * kind.mean([slope + own for own in noise], ctx.seed, t)
        f[t] = value(w)
        bar.update()
    return f


def value(w: np.ndarray) -> float:
    return 0.5 * float((SLOPES * np.square(w)).sum(-1).mean())


# ------------------------------------------------------------------------------------------------- what is predicted


def variance(v: np.ndarray | float, ternary: bool, rng: np.random.Generator, samples: int = 2000) -> np.ndarray:
    """V of each number of g~ where w has the variances v around the minimum: (SIZE,)."""
    if not ternary:
        return np.full(SIZE, NOISE**2 / WORKERS)
    w = np.sqrt(v) * rng.standard_normal((samples, 1, SIZE))
    g = np.abs(SLOPES * w + NOISE * rng.standard_normal((samples, WORKERS, SIZE)))
    s = g.max((1, 2), keepdims=True)
    return NOISE**2 / WORKERS + (g * (s - g)).mean((0, 1)) / WORKERS


def plateau(gamma: float, ternary: bool, rng: np.random.Generator) -> float:
    """f where a constant rate ends."""
    v: np.ndarray = np.zeros(SIZE)
    for _ in range(6):
        v = gamma * variance(v, ternary, rng) / (SLOPES * (2 - gamma * SLOPES))
    return 0.5 * float((SLOPES * v).sum())


def tail(steps: int, ternary: bool, rng: np.random.Generator) -> float:
    """f where the rates C / (t + T0) are after so many steps."""
    v = C**2 * variance(0.0, ternary, rng) / ((2 * SLOPES * C - 1) * (steps + T0))
    return 0.5 * float((SLOPES * v).sum())


def left_over(rate: Rate, steps: int) -> float:
    """f of w_0 prod (1 - gamma_t a): what these rates leave of the way even where no noise is added."""
    w = np.full(SIZE, START)
    for t in range(steps):
        w = w * (1 - rate(t) * SLOPES)
    return value(w)


# ------------------------------------------------------------------------------------------------------------ rows


def around(f: np.ndarray, step: int) -> float:
    """f near a step: the mean of the tenth of the steps before it, each times its step, over this one."""
    first = step - step // 10
    t = np.arange(first, step) + 1 + T0
    return float((f[first:step] * t).mean() / (step + T0))


def decreasing(ctx: Context, curves: Mapping[str, np.ndarray], steps: int) -> None:
    fell = {name: around(curves[name], steps // 10) / around(curves[name], steps)
            for name in ("falling", "falling, floor", "flat")}  # fmt: skip
    good = lambda times: TENTH[0] <= times <= TENTH[1]
    ctx.row(
        f"rates that fall as 1/t: times nearer to the minimum after {steps} steps than after {steps // 10}",
        said="reaches it", measured=fell["falling"], unit="times", criterion=f"{TENTH[0]:g} to {TENTH[1]:g}",
        holds=good(fell["falling"]), trials=COPIES, scale="simulated",
        control={
            "what": "trits without a draw (floor), and a rate that does not fall",
            "measured": {"floor": fell["falling, floor"], "constant": fell["flat"]},
        },
        control_holds=good(fell["falling, floor"]) or good(fell["flat"]),
    )  # fmt: skip
    rng = ctx.rng("prediction")
    ends = {name: around(curves[name], steps) for name in ("falling", "falling, float", "falling, floor")}
    predicted = tail(steps, True, rng)
    off = lambda found: abs(found / predicted - 1)
    ctx.row(
        "how far the last f is from the predicted", said=0, measured=100 * off(ends["falling"]), unit="%",
        criterion="within 10 %", holds=off(ends["falling"]) <= 0.1, trials=COPIES, scale="simulated",
        control={"what": "trits without a draw (floor)", "measured": 100 * off(ends["falling, floor"])},
        control_holds=off(ends["falling, floor"]) <= 0.1,
    )  # fmt: skip
    ctx.row(
        "f with ternary gradients over f with floats, rates that fall as 1/t (said: as predicted)",
        said=predicted / tail(steps, False, rng), measured=ends["falling"] / ends["falling, float"], unit="times",
        trials=COPIES, scale="simulated",
    )  # fmt: skip


def plateaus(ctx: Context, curves: Mapping[str, np.ndarray]) -> None:
    rng = ctx.rng("plateaus")
    height = lambda rate, kind: float(curves[f"{rate:g}, {kind.name}"][-len(curves["fast"]) // 2 :].mean())
    predicted = {kind: {rate: plateau(rate, kind is TERNARY, rng) for rate in PLATEAUS} for kind in (TERNARY, FLOAT)}
    over = lambda kind, like: {f"{rate:g}": height(rate, kind) / predicted[like][rate] for rate in PLATEAUS}
    found, control, floats = over(TERNARY, TERNARY), over(SAME, TERNARY), over(FLOAT, FLOAT)
    good = lambda ratios: all(abs(ratio - 1) <= CLOSE for ratio in ratios.values())
    ctx.row(
        "constant rates: height of the plateau over the predicted", said=1, measured=found, unit="times",
        criterion=f"within {100 * CLOSE:g} % for all", holds=good(found), trials=COPIES, scale="simulated",
        control={"what": "all workers use the same draws", "measured": control}, control_holds=good(control),
    )  # fmt: skip
    ctx.row("the same for float gradients", said=1, measured=floats, unit="times", trials=COPIES, scale="simulated")
    ctx.row(
        "height of the plateau, ternary over float", unit="times", trials=COPIES, scale="simulated",
        measured={f"{rate:g}": height(rate, TERNARY) / height(rate, FLOAT) for rate in PLATEAUS},
    )  # fmt: skip


def stalling(ctx: Context, curves: Mapping[str, np.ndarray], fast: Rate, steps: int) -> None:
    floor, end = left_over(fast, steps), {name: float(curves[name][-1]) for name in ("fast", "falling")}
    moved = lambda name: float(curves[name][-1] / curves[name][steps // 10])
    stalls = lambda name: moved(name) >= STALLED and end[name] >= floor
    ctx.row(
        f"rates that fall as 1/t^2: what is left of f after {steps} steps, of that after {steps // 10}",
        said="the sum of the rates must be infinite", measured=moved("fast"), unit="times",
        criterion=f"at least {STALLED:g}, and f at least the way not gone, {floor:.3g}", holds=stalls("fast"),
        trials=COPIES, scale="simulated",
        control={"what": "rates that fall as 1/t", "measured": moved("falling")}, control_holds=stalls("falling"),
    )  # fmt: skip
    ctx.row(
        "f where those rates end, over that of rates that fall as 1/t", measured=end["fast"] / end["falling"],
        unit="times", trials=COPIES, scale="simulated",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- figure


def draw(figure, curves: Mapping[str, np.ndarray]) -> None:
    axes, (low, high) = figure.subplots(), PLATEAUS[:2]
    steps = len(curves["fast"])
    shown = np.unique(np.geomspace(1, steps, 200).astype(int)) - 1
    marks = np.unique(np.geomspace(1, len(shown), 8).astype(int)) - 1
    for name, label, style, colour in (
        ("falling, floor", "1/t, no draw", "x-", 7), (f"{high:g}, ternary", f"constant {high:g}", "s--", 1),
        (f"{low:g}, ternary", f"constant {low:g}", "^--", 3), ("fast", "1/t²", "v-.", 5),
        ("falling", "1/t", "o-", 6), ("falling, float", "1/t, float", "-", 0),
    ):  # fmt: skip
        axes.loglog(
            shown + 1, curves[name][shown], style, color=OKABE_ITO[colour], label=label, markevery=marks.tolist()
        )
    rng = np.random.default_rng(0)
    for rate in (low, high):
        axes.axhline(plateau(rate, True, rng), color="black", linestyle=":", linewidth=1)
    late = shown[shown >= steps // 40] + 1
    axes.loglog(late, tail(steps, True, rng) * (steps + T0) / (late + T0), ":", color="black", label="predicted")
    axes.set(xlabel="step", ylabel="f, the distance from the minimum")
    axes.legend(fontsize="small", ncols=2)


CLAIM = Claim(
    "terngrad-convergence", chapter="3", title="Where training by ternary gradients ends, for rates that fall or stay",
    seconds={"quick": 10, "full": 110}, run=run,
)  # fmt: skip
