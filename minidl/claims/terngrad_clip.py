"""Claim terngrad-clip: where to clip a gradient before it is ternarised, and whether 2.5 sigma is right.

Said (Wen et al. 2017, section 4): clip at c sigma with c = 2.5 in all experiments.

A low clip makes the scale s = c sigma small, and with it the noise; but what lies beyond is lost, which is a bias.
For a Gaussian number X with sigma = 1, clipped y = clip(X, -c, c), phi the density and Q = P(X > c), integration gives

    E|y|   = 2 (phi(0) - phi(c)) + 2 c Q              E y^2 = 1 - 2 Q - 2 c phi(c) + 2 c^2 Q
    bias^2 = E (|X| - c)+^2 = 2 ((1 + c^2) Q - c phi(c))
    noise  = E |y| (c - |y|) = c E|y| - E y^2         (the variance of c t, t drawn with P(t = sign y) = |y| / c)
    length = sqrt(E y^2)                              cosine = E X y / length = (1 - 2 Q) / length   (Stein's lemma)

The mean of n independent ternary forms of one gradient has the squared error bias^2 + noise / n: the more workers, the
higher the best clip. That is an upper bound for the bias: where workers have gradients of their own, what is clipped
differs, and averages out in part. So the same is measured on real gradients, each worker with its own images and all
with one scale: mean over workers of (clip(g_i) - g_i), squared, plus the exact variance of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.real_gradients import BATCH, gradients, lenet_on_the_way
from minidl.ternary.ternarise import draw_key, scale_of, ternarise

PUBLISHED, LOW, HIGH, NEVER = 2.5, 1.0, 5.0, 25.0  # beside the published clip: those of the controls
CLIPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
REAL_CLIPS = (0.5, 0.75, *CLIPS, 7.0, 10.0, 15.0, NEVER, None)
FINE = np.arange(0.5, 6, 0.01)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
JUDGED = (2, 4, 8, 16, 32, 64)  # the workers of the paper's figure 3
NEAR = 1.25  # so many times the error of the best clip still counts as right
LESS = 1.5  # so many times less error than without a clip counts as a gain
QUICK_SIZE, FULL_SIZE = 2**17, 2**19
QUICK_AT, FULL_AT = (0, 40), (0, 50, 200, 500, 1000, 2000)
QUICK_COUNTS, FULL_COUNTS = (1, 2, 8, 64), (1, *JUDGED)


class Clipped(NamedTuple):
    """What clipping a Gaussian of sigma 1 at c does; ternarised, the squared error over n workers is error(n)."""

    bias2: float
    noise: float
    length: float
    degrees: float
    zeros: float

    def error(self, n: int) -> float:
        return self.bias2 + self.noise / n


def gaussian(c: float) -> Clipped:
    """The closed form above. c: in sigmas."""
    phi, beyond = NormalDist().pdf(c), math.erfc(c / math.sqrt(2)) / 2
    first = 2 * (NormalDist().pdf(0) - phi) + 2 * c * beyond
    second = 1 - 2 * beyond - 2 * c * phi + 2 * c * c * beyond
    bias2 = 2 * ((1 + c * c) * beyond - c * phi)
    cosine = min((1 - 2 * beyond) / math.sqrt(second), 1.0)
    return Clipped(bias2, c * first - second, math.sqrt(second), math.degrees(math.acos(cosine)), 1 - first / c)


BIAS2, NOISE = (np.array([getattr(gaussian(c), name) for c in FINE]) for name in ("bias2", "noise"))


def worse_at(c: float, n: int) -> float:
    """How many times the best clip's error a Gaussian clipped at c has, averaged over n."""
    return gaussian(c).error(n) / float((BIAS2 + NOISE / n).min())


def run(ctx: Context) -> None:
    drawn = monte_carlo(ctx, FULL_SIZE if ctx.full else QUICK_SIZE)
    verdict(ctx)
    real = measured(ctx, *((FULL_AT, FULL_COUNTS) if ctx.full else (QUICK_AT, QUICK_COUNTS)))
    ctx.figure(
        lambda figure: draw(figure, drawn, real),
        alt="Two panels: squared error over the clip c, for 1 to 512 workers. Left, Gaussian numbers: points measured "
        "with drawn trits lie on the curves of the formula, whose minima move to higher c with more workers. Right, "
        "LeNet's gradients, for 1 to 64 workers: the same against c from 1 to no clip.",
        caption="The error of the averaged ternary gradient, relative to the gradient's square. Dotted: c = 2.5.",
    )


def monte_carlo(ctx: Context, size: int) -> dict[tuple[float, int], float]:
    """Gaussian quantiles, ternarised by up to 512 workers: {(c, n): squared error a number}, and the row about it."""
    normal = NormalDist()
    g = np.array([normal.inv_cdf((k + 0.5) / size) for k in range(size)])
    own, same = {}, {}
    with ctx.progress(len(CLIPS) * WORKERS[-1], "trits of Gaussian numbers") as bar:
        for k, c in enumerate(CLIPS):
            total, scale = np.zeros(size), np.array([c], np.float32)
            for worker in range(WORKERS[-1]):
                trits = ternarise(g, scale, draw_key(ctx.seed, 0, worker, k), scale, size)
                total += trits
                if worker + 1 in WORKERS:
                    own[c, worker + 1] = float(np.square(c * total / (worker + 1) - g).mean())
                    same[c, worker + 1] = float(np.square(c * trits - g).mean())  # n equal ones: their mean is one
                bar.update()
    off = lambda found: max(abs(e / gaussian(c).error(n) - 1) for (c, n), e in found.items())
    ctx.row(
        f"squared error of ternary Gaussian numbers, c = 1 to 5, 1 to {WORKERS[-1]} workers: farthest from the formula",
        measured=100 * off(own), unit="%", criterion="within 3 %", holds=off(own) < 0.03, trials=WORKERS[-1],
        control={"what": "all workers use the same draws", "measured": 100 * off(same)},
        control_holds=off(same) < 0.03,
    )  # fmt: skip
    return own


def verdict(ctx: Context) -> None:
    """The formula's best c for n workers, and how much worse 2.5 is."""
    worse = lambda c: {n: worse_at(c, n) for n in WORKERS}
    controls = {"c = 1": worse(LOW), "c = 5": worse(HIGH)}
    judge(ctx, "Gaussian numbers, the same on all workers", worse(PUBLISHED), controls, "computed")
    best = {n: round(float(FINE[np.argmin(BIAS2 + NOISE / n)]), 2) for n in WORKERS}
    ctx.row("best c by the formula, 1 to 512 workers", said=PUBLISHED, measured=best, unit="sigma", scale="computed")
    right = [n for n in range(1, 5000) if worse_at(PUBLISHED, n) <= NEAR]
    ctx.row(
        f"gradients averaged for which 2.5 is within {NEAR:g} times the best", measured=[min(right), max(right)],
        unit="from, to", scale="computed",
    )  # fmt: skip
    ctx.note(
        "Error here is that of one step's mean. Momentum 0.9 averages about 19 steps ((1 + 0.9) / (1 - 0.9)): noise "
        "averages out over them as well, bias does not. Then 2.5 serves n workers as it would serve 19 n in one step."
    )


def judge(
    ctx: Context, what: str, published: Mapping[int, float], controls: Mapping[str, Mapping[int, float]], scale: str
) -> None:
    """The verdict's row. published: {workers: error at c = 2.5 over the best c's}; controls: that of other clips."""
    worst = {name: max(worse[n] for n in JUDGED if n in worse) for name, worse in controls.items()}
    judged = [published[n] for n in JUDGED if n in published]
    most, least = max(judged), min(judged)
    ctx.row(
        f"squared error at c = 2.5 over the best c's, worst of {JUDGED[0]} to {JUDGED[-1]} workers: {what}",
        said="2.5 in all experiments", measured=most, unit="times", scale=scale,
        criterion=f"at most {NEAR:g}", holds=most <= NEAR,
        contradicted=least > NEAR,  # wrong for every number of workers
        control={"what": " or ".join(worst), "measured": worst}, control_holds=min(worst.values()) <= NEAR,
    )  # fmt: skip


def measured(ctx: Context, at: Sequence[int], counts: Sequence[int]) -> dict[tuple[float | None, int], float]:
    """LeNet's gradients at some steps: {(c, n): squared error over the gradient's square}, mean over the steps."""
    digits = ctx.dataset("mnist")
    found = {(c, n): 0.0 for c in REAL_CLIPS for n in counts}
    with ctx.progress(at[-1] + len(at) * len(counts), "real gradients") as bar:
        for _, model, rows in lenet_on_the_way(ctx, digits, at, bar):
            for n in counts:
                shares = [list(gradients(model, digits, rows[w::n]).values()) for w in range(n)]
                for c, error in relative_errors(shares, REAL_CLIPS).items():
                    found[c, n] += error / len(at)
                bar.update()
    best = {n: min(found[c, n] for c in REAL_CLIPS) for n in counts}
    worse = lambda c: {n: found[c, n] / best[n] for n in counts}
    controls = {"c = 5": worse(HIGH), "no clip": worse(None)}
    judge(ctx, "LeNet's gradients, each worker its own images", worse(PUBLISHED), controls, "reduced")
    chosen = {n: next(c for c in REAL_CLIPS if found[c, n] == best[n]) for n in counts}
    ctx.row(
        f"best c of those tried for LeNet's gradients, 1 to {BATCH} workers", said=PUBLISHED, unit="sigma",
        measured={n: "no clip" if c is None else c for n, c in chosen.items()},
    )  # fmt: skip
    gain = lambda c: min(found[None, n] / found[c, n] for n in counts)
    ctx.row(
        f"squared error without a clip over that at c = 2.5, least of 1 to {BATCH} workers",
        said="clipping helps", measured=gain(PUBLISHED), unit="times", criterion=f"at least {LESS:g}",
        holds=gain(PUBLISHED) >= LESS,
        control={"what": f"a clip that touches next to nothing, c = {NEVER:g}", "measured": gain(NEVER)},
        control_holds=gain(NEVER) >= LESS,
    )  # fmt: skip
    ctx.note(
        f"LeNet's gradients are those of steps {', '.join(map(str, at))} of a training in floats, {BATCH} images in "
        "all. Clips tried: " + ", ".join("none" if c is None else f"{c:g}" for c in REAL_CLIPS) + "."
    )
    return found


def relative_errors(shares: Sequence[Sequence[np.ndarray]], clips: Sequence[float | None]) -> dict[float | None, float]:
    """For each clip the expected squared error of the mean of the workers' ternary gradients, over that mean's square.

    shares: for every worker its gradient, a flat array for each tensor. Nothing is drawn: the variance is known.
    """
    n, square, error = len(shares), 0.0, dict.fromkeys(clips, 0.0)
    for of_workers in zip(*shares, strict=True):
        mean = np.mean(of_workers, axis=0)
        square += float(mean @ mean)
        clipped, total = np.empty_like(mean), np.empty_like(mean)
        for c in clips:
            own = [scale_of(g, c) for g in of_workers]
            total[:], noise = 0, 0.0
            for g, limit in zip(of_workers, own, strict=True):
                np.clip(g, -limit, limit, out=clipped)
                total += clipped
                noise -= float(clipped @ clipped)
                noise += float(max(own)) * float(np.abs(clipped, out=clipped).sum())
            lost = total / n - mean
            error[c] += float(lost @ lost) + noise / n**2
    return {c: e / square for c, e in error.items()}


# --------------------------------------------------------------------------------------------------------- figure


def draw(figure, drawn: dict, real: dict) -> None:
    left, right = figure.subplots(1, 2)
    fine = np.arange(0.8, 5.2, 0.02)
    colours = (OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[3], OKABE_ITO[5], OKABE_ITO[6])
    styles = list(zip((1, 2, 8, 64, 512), colours, ("o-", "s--", "^-.", "v:", "D-"), strict=True))
    for n, colour, style in styles:
        left.semilogy(fine, [gaussian(c).error(n) for c in fine], style[1:], color=colour)
        left.semilogy(CLIPS, [drawn[c, n] for c in CLIPS], style[0], color=colour, label=f"{n}")
    left.set(
        xlabel="clip c, in sigmas", ylabel="squared error", title="Gaussian (curves: the formula)", ylim=(2e-3, 40)
    )
    left.legend(title="workers", ncols=3, loc="upper left", fontsize="small", title_fontsize="small")
    places = range(len(REAL_CLIPS))
    for n, colour, style in (each for each in styles if (None, each[0]) in real):
        right.semilogy(places, [real[c, n] for c in REAL_CLIPS], style, color=colour, markersize=4, label=f"{n}")
    names = ["none" if c is None else f"{c:g}" for c in REAL_CLIPS]
    right.set(xticks=places, xticklabels=names, xlabel="clip c, in sigmas", title="LeNet's gradients")
    right.tick_params(axis="x", labelsize="small", rotation=60)
    levels = (0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)
    right.set_yticks(levels, [f"{level:g}" for level in levels])
    right.set_yticks((), minor=True)
    left.axvline(PUBLISHED, color="black", linestyle=":", linewidth=1)
    right.axvline(REAL_CLIPS.index(PUBLISHED), color="black", linestyle=":", linewidth=1)


CLAIM = Claim(
    "terngrad-clip", chapter="3", title="Where to clip before ternarising: is 2.5 sigma right?",
    seconds={"quick": 15, "full": 170}, run=run,
)  # fmt: skip
