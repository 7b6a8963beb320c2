"""What a claim is, and what its run is given.

A claim's file holds a function and one line below it:

    def run(ctx):
        digits = ctx.dataset("mnist")
        rng = ctx.rng("dense")                                # a numpy Generator of its own for every purpose
        with ctx.progress(epochs, "dense training") as bar:
            ...; bar.update(); bar.set(f"loss {loss:.3f}")
        ctx.row("filters kept by training", said="3 of 20", measured=kept, unit="of 20",
                criterion="at least a quarter of the filters gone", holds=kept <= 15,
                control={"what": "the same training with lambda = 0", "measured": kept_without},
                control_holds=kept_without <= 15)
        ctx.figure(draw, alt="Bars: ...", caption="...")      # draw(fig) fills an empty matplotlib Figure
        ctx.kept("seed 3", train)                             # train(), or what an interrupted run got from it

    CLAIM = Claim("ssl-lenet", chapter="1", title="...", seconds={"quick": 60, "full": 900}, run=run)

The rule that keeps a claim honest: at least one row has a *control*, the same measurement with the method sabotaged.
If the control meets the criterion as well, the criterion shows nothing, and the claim is reported as broken.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidl import checkpoint
from minidl.errors import DataError, InputError
from minidl.progress import Progress

SCALES = ("published", "reduced", "computed", "simulated")
OUTCOMES = ("supported", "not shown", "contradicted", "not run")

OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's colours, which differ for colour-blind readers too. Give every line a marker or dash as well."""


@dataclass(frozen=True)
class Claim:
    """One claim of the talk: its name on the command line, and the function that measures it."""

    name: str
    chapter: str
    title: str
    seconds: Mapping[str, float]
    """Expected duration on two cores, after compilation: {"quick": seconds, "full": seconds}."""
    run: Callable[[Context], None]


@dataclass
class Context:
    """What a claim's run is given: options, data and randomness; and where it leaves rows, figures and notes."""

    claim: Claim
    full: bool = False
    seed: int = 0
    threads: int = 1
    data_dir: str | Path | None = None
    blas: str = "unknown"
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    datasets: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the claim asked for -> (the name of what it got, sha256 of its content)."""
    parts: Path | None = None
    """The folder for the parts of this claim that are finished; None: nothing is kept on disk."""
    key: Mapping[str, Any] = field(default_factory=dict)
    """What decides the claim's numbers: a part that was kept under another key is not found."""

    def __post_init__(self):
        self._start = time.perf_counter()
        self._kept: dict[str, Any] = {}

    def rng(self, *keys: object) -> np.random.Generator:
        """A Generator that depends on the seed, the claim's name and the keys alone, not on what was drawn before."""
        digest = hashlib.sha256(repr((self.claim.name, *map(str, keys))).encode()).digest()
        return np.random.default_rng([self.seed, *np.frombuffer(digest, dtype="<u4").tolist()])

    def dataset(self, kind: str):
        """The data set of this kind ("mnist", "fashion-mnist", "cifar10", "text", "squad"). Every row names it."""
        found = load(kind, self.data_dir)
        self.datasets[kind] = (found.name, found.sha256)
        return found

    def progress(self, total: int, label: str) -> Progress:
        """A progress bar of `total` steps that shows the time left: a context manager with update(n) and set(text)."""
        return Progress(total, f"{self.claim.name}: {label}")

    def part(self, name: str) -> Path | None:
        """Where this claim may keep its part of this name between runs (see `SaveEvery`), or None if nowhere.

        The file's name holds a digest of everything that decides the part's content: the key and the data sets that
        were asked for so far. All parts are deleted when the claim is finished.
        """
        if self.parts is None:
            return None
        self.parts.mkdir(parents=True, exist_ok=True)
        decides = json.dumps([name, plain(self.key), plain(self.datasets)], sort_keys=True)
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        return self.parts / f"{readable}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}.npz"

    def kept(self, name: str, function: Callable[[], Any]) -> Any:
        """function(), saved under this name the moment it is there: a run after Ctrl-C goes on behind it.

        The value: numbers, texts, arrays, and dicts (with texts as keys), lists and tuples of them. It must depend on
        nothing but the claim's options and data and what `name` says. Within a run the same name gives the same value.
        """
        if name not in self._kept:
            path, found = self.part(name), None
            if path is not None:
                with contextlib.suppress(DataError):  # not there yet, or damaged
                    found = checkpoint.load(path).extra
            if found is None:
                found = {"value": function()}
                if path is not None:
                    with contextlib.suppress(OSError):  # a full disk: then this part has to be done again
                        checkpoint.save(path, extra=found)
            self._kept[name] = found["value"]
        return self._kept[name]

    def row(
        self,
        quantity: str,
        *,
        measured: Any,
        said: Any = None,
        unit: str = "",
        criterion: str = "",
        holds: bool | None = None,
        contradicted: bool = False,
        control: Mapping[str, Any] | None = None,
        control_holds: bool | None = None,
        interval: Iterable[float] | None = None,
        seeds: Any = None,
        trials: int = 1,
        scale: str = "reduced",
    ) -> dict[str, Any]:
        """Record one measured quantity.

        said:      what the talk or paper says, None if it says nothing.
        criterion: the sentence that decides, fixed before measuring; holds: whether the measurement meets it.
                   True is "supported", False "not shown" (or "contradicted" with contradicted=True: the measurement
                   speaks for the opposite). None: the quantity is only reported, and shows nothing.
        control:   {"what": how the method was sabotaged, "measured": what that gave}; control_holds: whether the
                   sabotaged method meets the same criterion.
        interval:  (low, high) of the measurement; seeds: the number of seeds, or the seeds; trials: repetitions.
        scale:     "published" sizes | "reduced" | "computed" by a formula | "simulated".
        """
        if scale not in SCALES:
            raise InputError(f"row {quantity!r}: scale {scale!r} is not one of {', '.join(SCALES)}")
        if holds is not None and not criterion:
            raise InputError(f"row {quantity!r}: holds={bool(holds)} was given without the criterion it was judged by")
        if (control is None) != (control_holds is None):
            raise InputError(f"row {quantity!r}: give control and control_holds together, or neither")
        if control is not None and set(control) != {"what", "measured"}:
            raise InputError(f"row {quantity!r}: control has the keys {sorted(control)}, not what and measured")
        if control is not None and holds is None:
            raise InputError(f"row {quantity!r}: a control needs a criterion to fail: give criterion and holds")
        if contradicted:
            outcome = "contradicted"
        else:
            outcome = "supported" if holds else "not shown"
        return self._append(
            quantity=quantity,
            said=said,
            measured=measured,
            unit=unit,
            interval=None if interval is None else list(interval),
            seeds=self.seed if seeds is None else seeds,
            trials=trials,
            criterion=criterion,
            control=control and {**control, "outcome": "supported" if control_holds else "not shown"},
            scale=scale,
            outcome=outcome,
        )

    def not_run(self, quantity: str, reason: str) -> dict[str, Any]:
        """Record a quantity that could not be measured here, and why (the reason stands in the row's criterion)."""
        return self._append(
            quantity=quantity, said=None, measured=None, unit="", interval=None, seeds=None, trials=0,
            criterion=f"not run: {reason}", control=None, scale="reduced", outcome="not run",
        )  # fmt: skip

    def _append(self, **values: Any) -> dict[str, Any]:
        row = plain({"claim": self.claim.name, "chapter": self.claim.chapter, **values})
        self.rows.append(row)
        return row

    def figure(self, figure: Any, *, alt: str, caption: str = "") -> None:
        """Keep a figure for the report: a matplotlib Figure, or a function that draws on the empty one it is given.

        alt says in words what the figure shows. Without matplotlib a function is not called and a note says so:
        the numbers do not need the picture.
        """
        if callable(figure):
            try:
                from matplotlib.figure import Figure
            except ImportError:
                self.note(f"Figure not drawn ({alt}): pip install 'minidl[plot]'.")
                return
            draw, figure = figure, Figure(figsize=(7, 4), layout="constrained")
            draw(figure)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        self.figures.append({"png": png.getvalue(), "alt": alt, "caption": caption})

    def note(self, text: str) -> None:
        """A sentence for the report: what a reader has to know to judge the rows."""
        self.notes.append(text)

    def finish(self) -> list[dict[str, Any]]:
        """The rows, completed by what is known only at the end: data, threads, kernel and the claim's seconds."""
        common = {
            "data": "; ".join(name for name, _ in self.datasets.values()) or "none",
            "data_sha256": "; ".join(sha for _, sha in self.datasets.values()) or None,
            "threads": self.threads,
            "blas": self.blas,
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        return [{**{name: row.get(name) for name in ROW}, **common} for row in self.rows]


ROW = (
    "claim", "quantity", "chapter", "said", "measured", "unit", "interval", "seeds", "trials", "criterion", "control",
    "scale", "outcome", "data", "data_sha256", "threads", "blas", "seconds",
)  # fmt: skip
"""The fields of a row, in the order in which report.json holds them."""


def why_broken(rows: list[dict[str, Any]]) -> str | None:
    """The sentence that says why these rows cannot be trusted, or None where they can.

    A claim is broken when a control meets its criterion, and when it was run to its end and no row has a control.
    """
    for row in rows:
        if row["control"] and row["control"]["outcome"] == "supported":
            return (
                f"the control of {row['quantity']!r} ({row['control']['what']}) meets the criterion "
                f"{row['criterion']!r} too: measured {row['control']['measured']}, so the criterion shows nothing"
            )
    if not any(row["control"] or row["outcome"] == "not run" for row in rows):
        return "no row has a control, so nothing shows that the claim could have failed"
    return None


_loaded: dict[tuple[str, str], Any] = {}


def load(kind: str, data_dir: str | Path | None):
    """The data set of this kind, read once a process (claims that follow each other share it)."""
    from minidl.data import cifar, images, squad, text

    loaders = {
        "mnist": images.mnist, "fashion-mnist": images.fashion_mnist, "cifar10": cifar.cifar10, "text": text.ptb,
        "squad": squad.questions,
    }  # fmt: skip
    if kind not in loaders:
        raise InputError(f"data set {kind!r} is not one of {', '.join(loaders)}")
    key = kind, str(data_dir)
    if key not in _loaded:
        _loaded[key] = loaders[kind](data_dir)
    return _loaded[key]


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NumPy's scalars and arrays become Python's, and nan and infinity their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | range):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
