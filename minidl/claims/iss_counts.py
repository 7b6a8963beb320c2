"""Claim iss-counts: the weights and multiply-adds of the three tables of Intrinsic Sparse Structures.

Said (Wen et al. 2018, tables 1, 2 and 4): from 1,500 + 1,500 to 373 + 315 LSTM units, 66.0 million weights become 21.8
million and multiply-adds 7.48 times fewer; a recurrent highway network of width 830 to 328 goes from 23.5 to 5.7
million weights; BiDAF's six LSTMs of 100 units each, down to 23, 22, 35, 35, 25 and 14, from 2.69 to .88 million.

No model is trained. The language models are built and counted on their tape; the highway network's and BiDAF's weights
follow their formulas (in the models' own files). BiDAF's rest, whatever is not an LSTM or a score, is known from the
first row only. The controls swap the two layers' sizes, and count three gates instead of four.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minidl.claims.claim import Claim, Context
from minidl.models.bidaf import weights_of
from minidl.models.lstm_lm import LSTMLanguageModel
from minidl.models.rhn import DENSE
from minidl.sparsity import cost, groups

VOCABULARY = 10_000
LSTMS = {(1500, 1500): (66.0, 1.0), (373, 315): (21.8, 7.48), (381, 535): (25.2, 5.01)}
"""Hidden units -> (million weights, times fewer multiply-adds), as printed."""
RHNS = {830: 23.5, 726: 18.9, 517: 11.1, 403: 7.6, 328: 5.7}
BIDAFS = {
    (87, 81, 87, 92, 74, 96): 2.29, (51, 33, 42, 58, 37, 26): 1.17, (20, 33, 40, 38, 31, 16): 0.95,
    (23, 22, 35, 35, 25, 14): 0.88,
}  # fmt: skip
BIDAF_DENSE = 2.69
A1I = 200  # the rows for a1i, which no published group holds, stay


class _Zeros:
    """Draws zeros without touching memory: only the sizes count."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def language_model(hidden: tuple[int, ...]):
    """(model, one word and its state) with the published embedding of 1,500 numbers."""
    model = LSTMLanguageModel(VOCABULARY, 1500, hidden, rng=_Zeros())  # type: ignore[arg-type]
    return model, (np.zeros((1, 1), int), model.zero_states(1))


def formula(hidden: tuple[int, int], gates: int = 4, embedding: int = 1500) -> tuple[int, int]:
    """(weights, multiply-adds a word) by hand: what the controls distort."""
    first, second = hidden
    products = (embedding + first) * gates * first + (first + second) * gates * second + second * VOCABULARY
    return products + VOCABULARY * embedding + gates * (first + second) + VOCABULARY, products


def agree(found, said, half: float) -> bool:
    """Whether every figure is the printed one, to within what printing rounds away."""
    return all(abs(a - b) <= half for a, b in zip(found, said, strict=True))


def run(ctx: Context) -> None:
    with ctx.progress(3, "counting") as bar:
        lstm(ctx)
        bar.update()
        highway(ctx)
        bar.update()
        bidaf(ctx)
        bar.update()


def lstm(ctx: Context) -> None:
    """Table 1: counted on the tape of the models, which the formula confirms."""
    counted = {hidden: cost(*language_model(hidden)) for hidden in LSTMS}
    weights, macs = [c.weights / 1e6 for c in counted.values()], [c.macs for c in counted.values()]
    said = [row[0] for row in LSTMS.values()]
    swapped = [formula((h2, h1))[0] / 1e6 for h1, h2 in LSTMS]
    ctx.row(
        f"weights of the LSTM language models {', '.join(map(str, LSTMS))}", said=said, measured=weights,
        unit="millions", criterion="within .05 of each", holds=agree(weights, said, 0.05), scale="computed",
        control={"what": "the sizes of the two layers swapped", "measured": swapped},
        control_holds=agree(swapped, said, 0.05),
    )  # fmt: skip
    fewer, said = [macs[0] / m for m in macs], [row[1] for row in LSTMS.values()]
    three = [formula((1500, 1500), 3)[1] / formula(hidden, 3)[1] for hidden in LSTMS]
    ctx.row(
        "times fewer multiply-adds a word", said=said, measured=fewer, unit="times", criterion="within .01 of each",
        holds=agree(fewer, said, 0.01), scale="computed",
        control={"what": "three gates instead of four", "measured": three}, control_holds=agree(three, said, 0.01),
    )  # fmt: skip
    by_hand = [formula(hidden) == (c.weights, c.macs) for hidden, c in counted.items()]
    ctx.note(f"Counted on the tape and by formula alike: {all(by_hand)}. {', '.join(f'{m:,}' for m in macs)} products.")
    model, x = language_model((1500, 1500))
    found = groups(model, x, by="unit", layers=["layers.0", "layers.1"])
    sizes = [int(found.sizes(twice=True)[k]) for k in (0, -1)]
    exact = [int(found.sizes()[k]) for k in (0, -1)]
    ctx.row(
        "weights of a unit of each layer, found on the tape", said=[24_000, 28_000], measured=sizes,
        criterion="equal, crossings counted twice as published", holds=sizes == [24_000, 28_000], scale="computed",
        control={"what": "crossings counted once", "measured": exact}, control_holds=exact == [24_000, 28_000],
    )  # fmt: skip


def highway(ctx: Context) -> None:
    """Table 2."""
    weights = [replace(DENSE, width=n).weights(VOCABULARY) / 1e6 for n in RHNS]
    shallow = [replace(DENSE, width=n, depth=9).weights(VOCABULARY) / 1e6 for n in RHNS]
    said = list(RHNS.values())
    ctx.row(
        f"weights of recurrent highway networks of width {', '.join(map(str, RHNS))}", said=said, measured=weights,
        unit="millions", criterion="within .05 of each", holds=agree(weights, said, 0.05), scale="computed",
        control={"what": "nine layers instead of ten", "measured": shallow}, control_holds=agree(shallow, said, 0.05),
    )  # fmt: skip


def bidaf(ctx: Context) -> None:
    """Table 4: the rows below the first, from the first."""
    rest = BIDAF_DENSE - weights_of((100,) * 6, a1i=A1I) / 1e6
    count = lambda widths, a1i: rest + weights_of(widths, a1i=a1i) / 1e6
    said = list(BIDAFS.values())
    weights = [count(widths, A1I) for widths in BIDAFS]
    swapped = [count((*widths[4:], *widths[2:4], *widths[:2]), A1I) for widths in BIDAFS]
    without = [count(widths, None) for widths in BIDAFS]
    ctx.row(
        "weights of BiDAF, four shrunk ones", said=said, measured=weights, unit="millions",
        criterion="within .01 of each: the first row, from which the rest is known, is printed to .005 as well",
        holds=agree(weights, said, 0.01), scale="computed",
        control={"what": "sizes of the first modelling and the output layer swapped", "measured": swapped},
        control_holds=agree(swapped, said, 0.01),
    )  # fmt: skip
    ctx.row(
        "the same if the rows for a1i had left with their units", said=said, measured=without, unit="millions",
        scale="computed",
    )  # fmt: skip
    ctx.note(
        "The table counts all 200 rows for a1i, of which no published group holds any: they read modelling units that "
        "are gone, so taking those units out was exact only where these rows were 0."
    )


CLAIM = Claim(
    "iss-counts", chapter="2", title="Weights and multiply-adds of all shrunk recurrent networks are as published",
    seconds={"quick": 5, "full": 5}, run=run,
)  # fmt: skip
