"""The picture of a tape as SVG, and an explanation as one HTML page: no package, no script, no file beside it.

The layout is the one of every layered drawing: a call stands one row below the lowest of its arguments, a leaf just
above the first call that takes it; within a row, boxes are sorted by where their arguments (and then their users)
stand, a few times down and up, so that few lines cross. Data runs down; the gradient of each result is written in its
box, and runs up.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, GAP, ROW = 168, 46, 14, 84  # of a box, between boxes, from row to row; in pixels
MOST = 400  # boxes of a picture that can still be read


@dataclass(frozen=True)
class Box:
    """A leaf or a call: what the picture shows, and in its tooltip."""

    label: str
    title: str  # the function, or "leaf"
    shape: str
    detail: str  # formula and values
    gradient: str
    parents: tuple[int, ...]  # boxes of the arguments


def rows_of(boxes) -> list[list[int]]:
    """The boxes of each row, from the top, in drawing order."""
    level = [0] * len(boxes)
    for k, box in enumerate(boxes):
        level[k] = 1 + max((level[p] for p in box.parents), default=-1)
    users: list[list[int]] = [[] for _ in boxes]
    for k, box in enumerate(boxes):
        for p in box.parents:
            users[p].append(k)
    for k, box in enumerate(boxes):
        if not box.parents and users[k]:
            level[k] = min(level[u] for u in users[k]) - 1
    rows: list[list[int]] = [[] for _ in range(max(level, default=-1) + 1)]
    for k in range(len(boxes)):
        rows[level[k]].append(k)
    place = {k: float(i) for row in rows for i, k in enumerate(row)}
    for sweep in range(6):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            near = {k: boxes[k].parents if down else users[k] for k in row}
            row.sort(key=lambda k: sum(place[n] for n in near[k]) / len(near[k]) if near[k] else place[k])
            place |= {k: i - len(row) / 2 for i, k in enumerate(row)}
    return rows


def svg(boxes) -> str:
    """The tape as a picture; over 400 boxes, a sentence instead."""
    if len(boxes) > MOST:
        return f"<p>{len(boxes)} boxes: too many for a picture (at most {MOST}); explain a smaller loss.</p>"
    rows = rows_of(boxes)
    width = max(len(row) for row in rows) * (WIDTH + GAP) + GAP
    at: dict[int, tuple[float, int]] = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        at |= {k: (left + i * (WIDTH + GAP), y * ROW + GAP) for i, k in enumerate(row)}
    parts = []
    for k, box in enumerate(boxes):
        x, y = at[k][0] + WIDTH / 2, at[k][1]
        for p in box.parents:
            a, b = at[p][0] + WIDTH / 2, at[p][1] + HEIGHT
            parts.append(f'<path d="M{a:.0f},{b} C{a:.0f},{b + 20} {x:.0f},{y - 20} {x:.0f},{y}"/>')
    for k, box in enumerate(boxes):
        x, y = at[k]
        kind = "call" if box.parents else "leaf"
        lines = [f"{box.label} = {box.title}" if box.parents else box.label, box.shape, box.gradient]
        texts = "".join(
            f'<text x="{x + 6:.0f}" y="{y + 14 + 13 * i}" class="t{i}">{escape(_cut(line))}</text>'
            for i, line in enumerate(lines)
        )
        tip = escape("\n".join([*lines[:2], box.detail, lines[2]]))
        rect = f'<rect x="{x:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" class="{kind}"/>'
        parts.append(f"<g><title>{tip}</title>{rect}{texts}</g>")
    height = len(rows) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="minidl" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def page(boxes, forward, backward) -> str:
    """The picture and both walks, each of which can be folded away."""
    listing = lambda lines: f"<pre>{escape(chr(10).join(lines))}</pre>"
    return (
        '<div class="minidl">'
        f'<details open="open"><summary>the tape: data runs down, gradients run up</summary><div style="overflow:auto">'
        f"{svg(boxes)}</div></details>"
        f"<details><summary>forward, call by call</summary>{listing(forward)}</details>"
        f"<details><summary>backward, call by call</summary>{listing(backward)}</details></div>"
    )


STYLE = (
    "svg.minidl{font:11px sans-serif} svg.minidl path{fill:none;stroke:#888} "
    "svg.minidl rect{stroke:#666;fill:#fff} svg.minidl rect.leaf{fill:#fdf3d8} "
    "svg.minidl text{fill:#111} svg.minidl text.t1{fill:#555} svg.minidl text.t2{fill:#b03a2e}"
)


def _cut(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
