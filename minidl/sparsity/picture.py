"""The picture of a set of groups: every parameter as its matrix, every weight in the colour of its group.

Where there are few groups and none overlap, all are coloured. Else a few of each section are, the rest is grey: a unit
is then seen with its rows and its columns in one colour, through all matrices. Where two groups cross, the colours mix.
White: weights that are 0.
"""

from __future__ import annotations

import numpy as np

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's colours, which differ for colour-blind readers too."""
CELLS = 120  # at most so many along an axis of a matrix's picture: fewer than pixels, so that none is left out


def figure(groups):
    """A matplotlib Figure with the groups' picture, as large as its matrices need."""
    from matplotlib.figure import Figure

    count = len(groups.parameters)
    fig = Figure(figsize=(3.6 * min(count, 3), 1.2 + 2.6 * -(-count // 3)), layout="constrained")
    draw(groups, fig)
    return fig


def draw(groups, fig) -> None:
    """Fill an empty Figure: a panel for each parameter, and which colours mean which group where not all have one."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    cuts = dict(zip(groups.parameters, groups.blocks(), strict=True))
    every = all(cut.disjoint and max(cut.shape) <= 150 for cut in cuts.values())
    chosen = np.arange(groups.count) if every else _some(groups)
    colour = np.full(groups.count + 1, -1)  # the last for what is in no group
    colour[chosen] = np.arange(len(chosen)) % len(COLOURS)
    for labels in (labels for cut in cuts.values() for labels in cut.faces if every and min(labels.shape) > 1):
        tiles = np.add.outer(*map(np.arange, labels.shape)) + 2 * np.arange(labels.shape[0])[:, None]
        colour[labels[labels >= 0]] = tiles[labels >= 0] % len(COLOURS)  # neighbours below each other differ as well
    rgb = np.array([to_rgb(c) for c in COLOURS])
    panels = fig.subplots(-(-len(cuts) // 3), min(len(cuts), 3), squeeze=False).ravel()
    for ax, (name, p) in zip(panels, groups.parameters.items(), strict=False):
        faces = [f for f in groups.faces if f.parameter == name]
        zero = p.data.reshape(len(p.data), -1) == 0
        ax.imshow(_cells(faces, zero, colour, rgb), aspect="auto", interpolation="nearest",
                  extent=(0, zero.shape[1], zero.shape[0], 0))  # fmt: skip
        ax.set_title(f"{name}  {' x '.join(map(str, p.shape))}", fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(integer=True)
        ax.set_xlabel("columns", fontsize=8)
        ax.set_ylabel("rows", fontsize=8)
    for ax in panels[len(cuts) :]:
        ax.set_axis_off()
    if not every:
        keys = [Patch(color=COLOURS[k % len(COLOURS)], label=_name(groups, g)) for k, g in enumerate(chosen)]
        keys.append(Patch(color="0.88", label="other groups"))
        columns = max(1, int(fig.get_figwidth() / 1.8))
        fig.legend(handles=keys, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)


def _some(groups) -> np.ndarray:
    """A few groups of every section, evenly spread."""
    each = max(1, len(COLOURS) // len(groups.sections))
    return np.concatenate(
        [s.start + np.unique((np.arange(each) + 0.5) * (s.stop - s.start) // each).astype(int) for s in groups.sections]
    )


def _name(groups, g) -> str:
    s = next(s for s in groups.sections if s.start <= g < s.stop)
    return f"{s.layer} {s.kind} {g - s.start}"


def _cells(faces, zero, colour, rgb) -> np.ndarray:
    """(rows, columns, 3): the colours of the cells, of which large matrices show one for a stretch of weights."""
    steps = [-(-n // CELLS) for n in zero.shape]
    total, times = np.zeros((*(-(-n // s) for n, s in zip(zero.shape, steps, strict=True)), 3)), 0
    for f in faces:
        other = np.zeros(zero.shape[1 - f.axis], int) if f.across is None else f.across
        along = np.expand_dims(_thinned(f.labels, other, colour, steps[f.axis]), 1 - f.axis)
        across = np.expand_dims(_thinned(other, f.labels, colour, steps[1 - f.axis]), f.axis)
        code = colour[np.where((along < 0) | (across < 0), -1, along + across)][..., None]
        total, times = total + np.where(code >= 0, rgb[code[..., 0]], 0), times + (code >= 0)
    cells = np.where(times > 0, total / np.maximum(times, 1), 0.88)
    full = np.add.reduceat(np.add.reduceat(~zero, np.arange(0, zero.shape[0], steps[0]), 0),
                           np.arange(0, zero.shape[1], steps[1]), 1)  # fmt: skip
    return np.where(full[..., None] > 0, cells, 1.0)


def _thinned(labels, others, colour, step) -> np.ndarray:
    """Of every `step` labels one; if there is one that has a colour, that one, so that thin groups stay visible."""
    if step == 1:
        return labels
    coloured, others = np.flatnonzero(colour >= 0), np.unique(others[others >= 0])
    seen = (labels >= 0) & np.isin(labels, np.subtract.outer(coloured, others))
    parts = [slice(k, k + step) for k in range(0, len(labels), step)]
    return np.array([labels[part][np.argmax(seen[part])] for part in parts])


def draw_strips(figure, certificate) -> None:
    """Fill an empty Figure with what `compact` left: a strip for each layer, a column per unit, white where it went."""
    gone: dict[str, int] = {}
    for layer, _, count in certificate.removed:
        gone[layer] = gone.get(layer, 0) + count
    kept = certificate.kept
    panels = figure.subplots(len(kept), 1, squeeze=False)[:, 0]
    for ax, (layer, left) in zip(panels, kept.items(), strict=True):
        total = len(left) + gone.get(layer, 0)
        ax.imshow(np.isin(np.arange(total), left)[None].astype(float), cmap="Greys", vmin=0, vmax=1.25, aspect="auto",
                  interpolation="nearest")  # fmt: skip
        ax.set_yticks([])
        ax.set_ylabel(f"{layer}\n{len(left):,} of {total:,}", rotation=0, ha="right", va="center", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.locator_params(axis="x", integer=True)
    panels[-1].set_xlabel("unit (white: removed)", fontsize=8)
