"""Claim ssl-alexnet-speed: zeros in whole rows and columns make AlexNet's layers faster; scattered zeros hardly do.

Said (Wen et al. 2016, Table 4): at the same error, group Lasso makes conv1 to conv5 1.05, 3.37, 6.27, 9.73 and 4.93
times as fast on a CPU, an l1 penalty .80, 2.91, 4.84, 3.83 and 2.76 times; without loss of accuracy 1.00 to 1.68 times
against .34 to 1.30 times.

AlexNet is not trained here. The table's shares of zeros are imposed on random weights of CaffeNet's layers, and the
products are timed: what a share of zeros is worth does not depend on the values of the others. As in the paper the
matrix product alone is timed, not the copying into columns. Structured layers run without their zero rows and columns,
scattered zeros as compressed sparse rows. The control scatters exactly as many zeros as the structured layer has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.claims.shrinking import speed_up
from minidl.sparsity.ways import CAFFENET, Layer, prepare


@dataclass(frozen=True)
class Published:
    """A row of Table 4: percent of zeros per layer, conv1 to conv5, and how many times as fast each layer ran."""

    error: float  # top-1, in percent
    columns: tuple[float, ...]  # percent of zero columns; of scattered zeros for l1
    rows: tuple[float, ...]
    cpu: tuple[float, ...]
    gpu: tuple[float, ...]


NONE = (0.0,) * 5
PAIRS = {  # what group Lasso and l1 reach with the same error
    "2 points more errors": (
        Published(44.66, (0, 63.2, 76.9, 84.7, 80.7), (9.4, 12.9, 40.6, 46.9, 0), (1.05, 3.37, 6.27, 9.73, 4.93),
                  (1.00, 2.37, 4.94, 4.03, 3.05)),
        Published(44.67, (67.6, 92.4, 97.2, 96.6, 94.3), NONE, (0.80, 2.91, 4.84, 3.83, 2.76),
                  (0.25, 0.52, 1.38, 1.04, 1.36)),
    ),
    "no more errors": (
        Published(42.53, (0, 20.9, 39.7, 39.7, 24.6), NONE, (1.00, 1.27, 1.64, 1.68, 1.32),
                  (1.00, 1.25, 1.63, 1.72, 1.36)),
        Published(42.51, (14.7, 76.2, 85.3, 81.5, 76.3), NONE, (0.34, 0.99, 1.30, 1.10, 0.93),
                  (0.08, 0.17, 0.42, 0.30, 0.32)),
    ),
}  # fmt: skip
TIMES = "times, of a layer's matrix product"


def run(ctx: Context) -> None:
    rounds = 200 if ctx.full else 25
    found = {}
    with ctx.progress(3 * len(PAIRS) * len(CAFFENET), "timing") as bar:
        for name, (structured, l1) in PAIRS.items():
            found[name] = measured(ctx, name, structured, l1, rounds, bar)
            rows(ctx, name, structured, l1, *found[name])
    ctx.note(
        f"One image, {ctx.threads} thread{'s' * (ctx.threads > 1)} (SciPy's sparse product always runs on one); each "
        f"figure the median of {rounds} runs by turns with the dense product. Means are geometric, over the layers in "
        "which the published network has zeros."
    )
    ctx.figure(
        lambda figure: draw(figure, found),
        alt="Bars for conv1 to conv5 in two panels: the speed-up with structured zeros, published and measured here, "
        "and with scattered zeros. Structured bars lie above 1 wherever there are zeros; scattered ones are lower.",
        caption="Speed-up of CaffeNet's layers with the shares of zeros that Table 4 publishes.",
    )


def structured_zeros(layer: Layer, columns: float, rows: float, rng: np.random.Generator) -> np.ndarray:
    """Which weights are not 0 where so many percent of the columns and of the rows are."""
    n, k = layer.filters, int(np.prod(layer.weight_shape[1:]))
    kept = [rng.permutation(size) >= round(size * share / 100) for size, share in ((n, rows), (k, columns))]
    return np.outer(*kept).reshape(layer.weight_shape)


def scattered_zeros(layer: Layer, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which weights are not 0 where `count` of them are, at random."""
    return (rng.permutation(int(np.prod(layer.weight_shape))) >= count).reshape(layer.weight_shape)


def measured(ctx: Context, name: str, structured: Published, l1: Published, rounds: int, bar) -> tuple:
    """Speed-ups (median, quartiles) of each layer: structured, l1, and as many zeros as structured but scattered."""
    results: tuple[list, list, list] = ([], [], [])
    for k, (layer_name, layer) in enumerate(CAFFENET.items()):
        rng = ctx.rng(name, layer_name)
        x = rng.standard_normal((1, layer.channels, layer.size, layer.size), np.float32)
        weight = rng.standard_normal(layer.weight_shape, np.float32)
        dense = prepare("dense", weight, x, layer)
        cols = dense.lower()
        whole = structured_zeros(layer, structured.columns[k], structured.rows[k], rng)
        masks = (
            ("removed", whole),
            ("csr", scattered_zeros(layer, round(whole.size * l1.columns[k] / 100), rng)),
            ("csr", scattered_zeros(layer, whole.size - int(whole.sum()), rng)),
        )
        for result, (way, mask) in zip(results, masks, strict=True):
            one = prepare(way, mask * weight, x, layer)
            own = one.lower()  # once, outside of what is timed
            result.append(speed_up(partial(dense.multiply, cols), partial(one.multiply, own), rounds))
            bar.update()
    return results


def mean(speeds, layers) -> float:
    """The geometric mean over some layers."""
    return float(np.exp(np.mean([np.log(speeds[k]) for k in layers])))


def rows(ctx: Context, name: str, structured: Published, l1: Published, fast, sparse, scattered) -> None:
    """One row for each network of the pair, and one that compares them."""
    zeros = [k for k in range(5) if structured.columns[k] or structured.rows[k]]
    medians, l1_medians, control = ([m for m, _ in some] for some in (fast, sparse, scattered))
    names = ", ".join(list(CAFFENET)[k] for k in zeros)
    ctx.row(
        f"speed-up with structured zeros, conv1 to conv5 ({name})", said=list(structured.cpu), measured=medians,
        unit=TIMES, criterion=f"geometric mean over {names} at least 1.15",
        holds=mean(medians, zeros) >= 1.15, scale="published",
        control={"what": "as many zeros, scattered, as compressed sparse rows", "measured": control},
        control_holds=mean(control, zeros) >= 1.15,
    )  # fmt: skip
    ctx.row(
        f"speed-up with l1's scattered zeros, conv1 to conv5 ({name})", said=list(l1.cpu), measured=l1_medians,
        unit=TIMES, scale="published",
    )  # fmt: skip
    ratio, said = (mean(a, zeros) / mean(b, zeros) for a, b in ((medians, l1_medians), (structured.cpu, l1.cpu)))
    ctx.row(
        f"structured over scattered zeros at the same error, mean over {names} ({name})", said=round(said, 2),
        measured=ratio, unit="times", criterion="above 1", holds=ratio > 1, contradicted=ratio < 0.9, scale="published",
        control={
            "what": "as many scattered zeros as structured ones, against l1's", "measured": mean(control, zeros)
            / mean(l1_medians, zeros),
        },
        control_holds=mean(control, zeros) > mean(l1_medians, zeros),
    )  # fmt: skip


def draw(figure, found: dict[str, tuple]) -> None:
    """Two panels of bars: published and measured, structured and scattered."""
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (name, (fast, sparse, _)) in zip(panels, found.items(), strict=True):
        structured, l1 = PAIRS[name]
        bars = (
            ("structured, published", structured.cpu, OKABE_ITO[2], None),
            ("structured, here", [m for m, _ in fast], OKABE_ITO[5], "//"),
            ("scattered (l1), published", l1.cpu, OKABE_ITO[1], None),
            ("scattered (l1), here", [m for m, _ in sparse], OKABE_ITO[6], "\\\\"),
        )
        for k, (label, heights, colour, hatch) in enumerate(bars):
            axes.bar(np.arange(5) + 0.2 * (k - 1.5), heights, 0.2, color=colour, hatch=hatch, label=label)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xticks=range(5), xticklabels=list(CAFFENET), title=f"{name} ({structured.error} %)")
    panels[0].set_ylabel("times as fast as the dense product")
    panels[0].legend(fontsize="x-small")


CLAIM = Claim(
    "ssl-alexnet-speed", chapter="1", title="Whole rows and columns of zeros make AlexNet's layers faster",
    seconds={"quick": 10, "full": 60}, run=run,
)  # fmt: skip
