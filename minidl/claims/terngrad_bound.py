"""Claim terngrad-bound: how much longer a ternary gradient is than the gradient, and what clipping does to both.

Said (Wen et al. 2017, sections 3.2 and 4): training converges if the gradient's square has a bound. Where SGD needs one
for E ||g||^2, ternary gradients need a stronger one, for E ||g||_inf ||g||_1, because

    E ||g~||^2 = sum over k of s^2 |g_k| / s = s ||g||_1,  s = ||g||_inf,   and   ||g||^2 <= ||g||_inf ||g||_1

Two remedies bring the second bound near the first: a scale for each tensor in the place of one for the whole network
("layer-wise ternarising"), and clipping at 2.5 sigma, which changes the gradient's length by 1.0 to 1.5 % and turns it
by 2 to 3 degrees.

Here all of it is measured on the gradients of LeNet while it is trained, as the ratio E ||g~||^2 / ||g||^2. A Gaussian
gradient's length and angle have a closed form (`terngrad_clip.gaussian`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.real_gradients import gradients, lenet_on_the_way
from minidl.claims.terngrad_clip import gaussian
from minidl.ternary.ternarise import Ternariser

PUBLISHED, ALL_LOST, NEVER = 2.5, 1.0, 25.0
SHRINKS, TURNS = (1.0, 1.5), (2.0, 3.0)  # %, degrees
QUICK_AT, FULL_AT = (0, 20, 60), (0, 20, 60, 200, 500, 1000, 2000, 3000)
QUICK_DRAWS, FULL_DRAWS = 20, 200
CLIPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0)
BLOCK = 256
SIGMAS = 6.0
HALF = 2.0  # each remedy must make the ratio so many times smaller

Gradients = Mapping[str, np.ndarray]


def run(ctx: Context) -> None:
    at, draws = (FULL_AT, FULL_DRAWS) if ctx.full else (QUICK_AT, QUICK_DRAWS)
    digits, kept = ctx.dataset("mnist"), {}
    with ctx.progress(at[-1] + len(at), "real gradients") as bar:
        for step, model, rows in lenet_on_the_way(ctx, digits, at, bar):
            kept[step] = gradients(model, digits, rows)
            bar.update()
    equation(ctx, kept[at[-1]], draws)
    ratios = {step: schemes(g, ctx.rng("exchange", step)) for step, g in kept.items()}
    remedies(ctx, ratios)
    turned = {c: [change(g, c) for g in kept.values()] for c in CLIPS}
    lengths(ctx, turned)
    ctx.note(
        f"LeNet's gradients are those of steps {', '.join(map(str, at))} of a training in floats, batch 64. They have "
        "longer tails than a Gaussian's: the same clip takes more from them, and brings more."
    )
    ctx.figure(
        lambda figure: draw(figure, ratios, turned),
        alt="Left: the square of the ternary gradient over the gradient's, by training step, on a logarithmic axis: "
        "highest with one scale for the network, lower with one for each tensor, lowest with clipping. Right: by how "
        "many degrees clipping at c sigma turns LeNet's gradients and, below them, Gaussian ones; the published 2 to "
        "3 degrees are a grey band.",
        caption="What a scale for each tensor and a clip do for the bound, and what the clip costs. Below 1: the "
        "clip takes more from the square than the trits add.",
    )


def equation(ctx: Context, g: Gradients, repeats: int) -> None:
    """E ||g~||^2 = s ||g||_1, by drawing: the tensor that is farthest off, in its standard errors."""
    ternariser, drawn, nearest = Ternariser(clip=None, seed=ctx.seed), {}, {}
    with ctx.progress(repeats * len(g), "lengths of drawn gradients") as bar:
        for k, (name, tensor) in enumerate(g.items()):
            share = np.abs(tensor.astype(np.float64)) / float(ternariser.scales(tensor)[0])  # P(the number is kept)
            deviation = math.sqrt((share * (1 - share)).sum() / repeats)
            ones = 0
            for step in range(repeats):
                ones += int(np.count_nonzero(ternariser.trits(tensor, step=step, tensor=k)))
                bar.update()
            drawn[name] = abs(ones / repeats - share.sum()) / deviation  # both sides over s^2
            nearest[name] = abs(np.rint(share).sum() - share.sum()) / deviation
    ctx.row(
        "E ||g~||^2 of each of LeNet's tensors against ||g||_inf ||g||_1: the largest difference, in standard errors",
        said=0, measured=max(drawn.values()), criterion=f"below {SIGMAS:g}", holds=max(drawn.values()) < SIGMAS,
        control={"what": "the nearest trit in the place of a drawn one", "measured": max(nearest.values())},
        control_holds=max(nearest.values()) < SIGMAS, trials=repeats,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the bound


def ratio(parts: Sequence[np.ndarray], clip: float | None = None, block: int | None = None) -> float:
    """E ||g~||^2 / ||g||^2 where each part (or each block of a part) has a scale of its own."""
    ternariser, above, below = Ternariser(block or "tensor", clip), 0.0, 0.0
    for g in parts:
        g = g.astype(np.float64)
        s = np.repeat(ternariser.scales(g), ternariser.block(g.size))[: g.size].astype(np.float64)
        above += float((s * np.minimum(np.abs(g), s)).sum())
        below += float(np.square(g).sum())
    return above / below


def schemes(g: Gradients, rng: np.random.Generator) -> dict[str, float]:
    """The ratio of one gradient for each choice of the scale. exchanged: numbers swapped between tensors at random."""
    tensors = list(g.values())
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in g))
    flat, ends = np.concatenate(tensors), np.cumsum([t.size for t in tensors])[:-1]
    return {
        "network": ratio([flat]),
        "exchanged": ratio(np.split(rng.permutation(flat), ends)),
        "layer": ratio(
            [np.concatenate([t for n, t in g.items() if n.rpartition(".")[0] == layer]) for layer in layers]
        ),
        "tensor": ratio(tensors),
        "tensor, clipped": ratio(tensors, PUBLISHED),
        "tensor, hardly clipped": ratio(tensors, NEVER),
        "block": ratio(tensors, block=BLOCK),
        "block, clipped": ratio(tensors, PUBLISHED, BLOCK),
    }


def remedies(ctx: Context, ratios: Mapping[int, Mapping[str, float]]) -> None:
    mean = lambda name: float(np.mean([r[name] for r in ratios.values()]))
    shown = {name: mean(name) for name in next(iter(ratios.values()))}
    ctx.row("E ||g~||^2 / ||g||^2 with one scale for LeNet, mean of the steps", measured=shown["network"], unit="times")
    ctx.row("the same with one for each layer (weights and biases)", measured=shown["layer"], unit="times")
    ctx.row("the same with one for each tensor", measured=shown["tensor"], unit="times")
    ctx.row("the same, clipped at 2.5 sigma", measured=shown["tensor, clipped"], unit="times")
    ctx.row(
        f"the same, one for each {BLOCK} numbers; and clipped", unit="times",
        measured=[shown["block"], shown["block, clipped"]],
    )  # fmt: skip
    least = lambda above, below: min(r[above] / r[below] for r in ratios.values())
    for what, above, below, control, other in (
        ("one scale for each tensor", "network", "tensor", "numbers exchanged between tensors at random", "exchanged"),
        (
            "clipping at 2.5 sigma",
            "tensor",
            "tensor, clipped",
            f"clipping at {NEVER:g} sigma",
            "tensor, hardly clipped",
        ),
    ):
        measured, sabotaged = least(above, below), least(above, other)
        ctx.row(
            f"{what} makes E ||g~||^2 smaller: least of the steps", said="nearer to SGD's bound", measured=measured,
            unit="times", criterion=f"at least {HALF:g}", holds=measured >= HALF, trials=len(ratios),
            control={"what": control, "measured": sabotaged}, control_holds=sabotaged >= HALF,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ length and angle


def change(g: Gradients, clip: float) -> tuple[float, float]:
    """What clipping each tensor does to the whole gradient: (length lost in %, degrees turned)."""
    ternariser, inner, before, after = Ternariser(clip=clip), 0.0, 0.0, 0.0
    for tensor in g.values():
        x = tensor.astype(np.float64)
        y = np.clip(x, *(float(ternariser.scales(tensor)[0]) * np.array([-1, 1])))
        inner, before, after = inner + float(x @ y), before + float(x @ x), after + float(y @ y)
    cosine = min(inner / math.sqrt(before * after), 1.0)
    return 100 * (1 - math.sqrt(after / before)), math.degrees(math.acos(cosine))


def within(lost: float, degrees: float) -> bool:
    """The published ranges, half a digit wider than they are printed."""
    return SHRINKS[0] - 0.05 <= lost <= SHRINKS[1] + 0.05 and TURNS[0] - 0.5 <= degrees <= TURNS[1] + 0.5


def lengths(ctx: Context, turned: Mapping[float, Sequence[tuple[float, float]]]) -> None:
    said = "1.0 to 1.5 % shorter, 2 to 3 degrees"
    formula = {c: (100 * (1 - gaussian(c).length), gaussian(c).degrees) for c in CLIPS}
    ctx.row(
        "a Gaussian gradient clipped at 2.5 sigma", said=said, measured=np.round(formula[PUBLISHED], 3),
        unit="%, degrees", criterion="within those", holds=within(*formula[PUBLISHED]), scale="computed",
        control={"what": "clipped at 1 sigma", "measured": np.round(formula[ALL_LOST], 3)},
        control_holds=within(*formula[ALL_LOST]),
    )  # fmt: skip
    real, control = turned[PUBLISHED], turned[ALL_LOST]
    mean = lambda changes: np.mean(changes, axis=0).round(3)
    ctx.row(
        "LeNet's gradients clipped at 2.5 sigma, mean of the steps", said=said, measured=mean(real),
        unit="%, degrees", criterion="within those at every step", holds=all(within(*pair) for pair in real),
        contradicted=not any(within(*pair) for pair in real), trials=len(real),
        control={"what": "clipped at 1 sigma", "measured": mean(control)},
        control_holds=all(within(*pair) for pair in control),
    )  # fmt: skip
    mild = [c for c in CLIPS if mean(turned[c])[1] <= TURNS[1]]
    ctx.row(
        "lowest clip tried that turns LeNet's gradients by at most 3 degrees", said=PUBLISHED,
        measured=min(mild) if mild else "none", unit="sigma",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- figure


def draw(figure, ratios: Mapping[int, Mapping[str, float]], turned: Mapping[float, Sequence]) -> None:
    left, right = figure.subplots(1, 2)
    names = {
        "network": "one for the network", "tensor": "for each tensor", "block": f"for {BLOCK} numbers",
        "tensor, clipped": "tensor, clipped at 2.5", "block, clipped": f"{BLOCK} numbers, clipped",
    }  # fmt: skip
    styles = zip(("o-", "s--", "^-.", "v:", "D-"), (0, 1, 3, 5, 6), strict=True)
    places = range(len(ratios))
    for (name, label), (style, colour) in zip(names.items(), styles, strict=True):
        left.semilogy(places, [r[name] for r in ratios.values()], style, color=OKABE_ITO[colour], label=label)
    left.axhline(1, color="black", linewidth=0.8, linestyle=":")
    left.set(xlabel="step of the training", ylabel="E||g~||² / ||g||²", title="Which scale")
    left.set_xticks(places, [str(step) for step in ratios])
    left.tick_params(axis="x", labelsize="small")
    left.set_ylim(0.8, 40 * max(r["network"] for r in ratios.values()))
    left.legend(fontsize="small", loc="upper center")
    right.axhspan(*TURNS, color="0.85", label="published")
    right.plot(
        CLIPS, [np.mean(turned[c], axis=0)[1] for c in CLIPS], "o-", color=OKABE_ITO[6], label="LeNet's gradients"
    )
    fine = np.geomspace(1, 5, 50)
    right.plot(fine, [gaussian(c).degrees for c in fine], "--", color=OKABE_ITO[0], label="Gaussian, formula")
    right.axvline(PUBLISHED, color="black", linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlabel="clip c, in sigmas", ylabel="degrees turned", title="What the clip costs")
    marks = (1, 2.5, 5, 10, 25)
    right.set_xticks(marks, [f"{c:g}" for c in marks])
    right.set_xticks((), minor=True)
    right.legend(fontsize="small")


CLAIM = Claim(
    "terngrad-bound", chapter="3", title="How a scale for each tensor and a clip keep ternary gradients short",
    seconds={"quick": 10, "full": 210}, run=run,
)  # fmt: skip
