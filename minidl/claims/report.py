"""The results as one self-contained HTML page, as JSON, and as lines for the terminal.

The page needs nothing beside it: figures are inside it, its style is inside it, it runs no script. It follows the
reader's light or dark theme. Outcomes are words with a sign, never a colour alone.
"""

from __future__ import annotations

import contextlib
import html as escape
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidl.claims.claim import OUTCOMES

if TYPE_CHECKING:
    from minidl.claims.run import Finished

SIGNS = {"supported": "✓", "not shown": "○", "contradicted": "✗", "not run": "–", "reported": "·"}


def verdict(row: dict[str, Any]) -> str:
    """The row's outcome; "reported" for a quantity that no criterion judges (in report.json: "not shown")."""
    return row["outcome"] if row["criterion"] else "reported"


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #fff; --line: #c8c8c8; --faint: #555; --band: #f3f3f3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --page: #16181b; --line: #4a4d52; --faint: #a8abb0; --band: #212429 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .9rem }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .5rem; text-align: left; vertical-align: top }
thead th { background: var(--band) }
.wide { overflow-x: auto }
.outcome { white-space: nowrap; font-weight: 600 }
.faint { color: var(--faint); font-size: .85rem }
.broken { border: 2px solid; padding: .5rem 1rem; font-weight: 600 }
.note { white-space: pre-line }
figure { margin: 1.5rem 0 } figure img { max-width: 100%; background: #fff; padding: .5rem; box-sizing: border-box }
"""


def rows_json(finished: Sequence[Finished]) -> str:
    """report.json: a list with one object for each measured quantity."""
    rows = [row for one in finished for row in one.rows]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def text(one: Finished) -> str:
    """A claim's rows for the terminal, one line each."""
    lines = [
        f"  {verdict(row):13}{row['quantity']}: {value(row['measured'], row['unit'])}"
        + (f" ({row['criterion']})" if row["criterion"] else "")
        for row in one.rows
    ]
    if one.broken:
        lines.append(f"  BROKEN: {one.broken}")
    seconds = one.rows[0]["seconds"] if one.rows else 0
    lines.append("  kept from an earlier run" if one.reused else f"  {seconds:.0f} s")
    return "\n".join(lines)


def html(finished: Sequence[Finished], environment: dict[str, str]) -> str:
    """The whole page."""
    total = Counter(verdict(row) for one in finished for row in one.rows)
    counted = ", ".join(f"{total[word]} {word}" for word in (*OUTCOMES, "reported") if total[word])
    names = "".join(
        f'<li><a href="#{_e(one.name)}">{_e(one.name)}</a>: {_e(one.title)}{" (broken)" if one.broken else ""}</li>'
        for one in finished
    )
    ran_on = "".join(f"<tr><th scope=row>{_e(what)}</th><td>{_e(is_)}</td></tr>" for what, is_ in environment.items())
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>The talk's claims, measured</title><style>{_STYLE}</style></head><body><main>\n"
        f"<h1>The talk's claims, measured</h1>\n<p>{len(finished)} claims: {_e(counted or 'nothing measured')}.</p>\n"
        f"<ul>{names}</ul>\n"
        "<p class=faint>A row is <b>✓ supported</b> if its criterion was met, <b>○ not shown</b> if not, "
        "<b>✗ contradicted</b> if the opposite was measured, <b>– not run</b> with the reason; a quantity without a "
        "criterion is only <b>· reported</b>. A control is the same measurement with the method sabotaged: if it meets "
        "the criterion too, the claim is broken.</p>\n"
        + "\n".join(map(_section, finished))
        + f"\n<h2>Measured on</h2>\n<table><tbody>{ran_on}</tbody></table>\n</main></body></html>\n"
    )


def _section(one: Finished) -> str:
    heads = "outcome", "quantity", "measured", "said", "criterion", "control", "scale"
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    body = "".join(_row(row) for row in one.rows)
    broken = f"<p class=broken role=alert>✗ This claim is broken: {_e(one.broken)}</p>" if one.broken else ""
    notes = "".join(f"<p class=note>{_e(note)}</p>" for note in one.notes)
    figures = "".join(
        f'<figure><img alt="{_e(f["alt"])}" src="data:image/png;base64,{f["png"]}">'
        f"<figcaption>{_e(f['caption'])}</figcaption></figure>"
        for f in one.figures
    )
    last = one.rows[0] if one.rows else {"data": "none", "data_sha256": None, "seconds": 0, "chapter": ""}
    data = f"{last['data']} (sha256 {last['data_sha256']})" if last["data_sha256"] else last["data"]
    kept = ", kept from an earlier run" if one.reused else ""
    return (
        f'<section id="{_e(one.name)}"><h2>{_e(one.name)}: {_e(one.title)}</h2>{broken}{notes}'
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{figures}"
        f"<p class=faint>Chapter {_e(last['chapter'])}. Mode: {_e(one.key['mode'])}, seed {one.key['seed']}, "
        f"{one.key['threads']} threads, {last['seconds']:.0f} s{kept}. Data: {_e(data)}.</p></section>"
    )


def _row(row: dict[str, Any]) -> str:
    control = row["control"]
    beside = f"{control['what']}: {value(control['measured'], row['unit'])} ({control['outcome']})" if control else ""
    measured = value(row["measured"], row["unit"])
    if row["interval"]:
        measured += f" [{' to '.join(value(bound) for bound in row['interval'])}]"
    if row["trials"] > 1:
        measured += f", {row['trials']} trials"
    cells = row["quantity"], measured, value(row["said"]), row["criterion"] or "–", beside, row["scale"]
    outcome = f"<td class=outcome>{SIGNS[verdict(row)]} {verdict(row)}</td>"
    return f"<tr>{outcome}{''.join(f'<td>{_e(cell)}</td>' for cell in cells)}</tr>"


def value(measured: Any, unit: str = "") -> str:
    """A measured value for people: four digits, thousands set apart, its unit behind it."""
    if measured is None:
        return "–"
    if isinstance(measured, bool):
        said = "yes" if measured else "no"
    elif isinstance(measured, int):
        said = f"{measured:,}"
    elif isinstance(measured, float):
        said = f"{measured:,.0f}" if 1e4 <= abs(measured) < 1e15 else f"{measured:.4g}"
    elif isinstance(measured, list):
        said = ", ".join(map(value, measured))
    elif isinstance(measured, dict):
        said = ", ".join(f"{key}: {value(item)}" for key, item in measured.items())
    else:
        said = str(measured)
    return f"{said} {unit}".rstrip()


def write(path: Path, content: str) -> None:
    """Write a file whole or not at all: beside its place first, then moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _e(text: object) -> str:
    return escape.escape(str(text))
