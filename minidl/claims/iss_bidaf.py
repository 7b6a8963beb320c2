"""`iss-bidaf`: the LSTMs of a network that answers questions, at the sizes that training left of them.

Said: six LSTMs of 100 units each become 87, 81, 87, 92, 74, 96 units, or 51, 33, 42, 58, 37, 26, or fewer; 2.69 million
weights become 2.29 to 0.88, and a question takes 5.83 to 2.74 ms instead of 6.20. (Wen et al. 2018, table 4)

Here the weights are counted by formula, and the LSTMs are timed at these sizes. EM and F1 are not measured.
"""

from __future__ import annotations

import numpy as np

from minidl.claims.claim import Claim, Context
from minidl.claims.shrinking import speed_up
from minidl.models.bidaf import BiDAF, weights_of
from minidl.tensor import Tensor, no_grad

TABLE = (  # units of LSTMS; millions of weights and milliseconds as published
    ((100,) * 6, 2.69, 6.20),
    ((87, 81, 87, 92, 74, 96), 2.29, 5.83),
    ((51, 33, 42, 58, 37, 26), 1.17, 4.46),
    ((20, 33, 40, 38, 31, 16), 0.95, 3.59),
    ((23, 22, 35, 35, 25, 14), 0.88, 2.74),
)
STEPS = 150
"""Words of the context that is timed; the published length is not known."""


def run(ctx: Context) -> None:
    for_counts(ctx)
    for_time(ctx)
    ctx.not_run("EM and F1 of the shrunk networks", "this claim trains no network")


def for_counts(ctx: Context) -> None:
    """Weights of the table's rows. What is no LSTM or score is taken from its first row: 2.69 M less 2,164,402."""
    rest = 2.69e6 - weights_of(TABLE[0][0])
    for widths, said, _ in TABLE[1:]:
        millions, shrunk = ((rest + weights_of(widths, a1i=rows)) / 1e6 for rows in (200, None))
        agrees = lambda m, said=said: said - 0.005 <= m < said + 0.01
        ctx.row(
            f"weights with {', '.join(map(str, widths))} units", said=said, unit="million", measured=round(millions, 4),
            criterion="the published figure, rounded or cut off", holds=agrees(millions), scale="computed",
            control={"what": "with as many rows for a1i as g1 has units", "measured": round(shrunk, 4)},
            control_holds=agrees(shrunk),
        )  # fmt: skip
    ctx.note(
        "The published counts keep 200 rows of the output LSTMs for a1i, the start's mean of g1, whatever is left of "
        "g1. In a network that was really shrunk, a1i has as many numbers as g1: those counts are the controls."
    )


def for_time(ctx: Context) -> None:
    """The LSTM stack at the table's sizes, batch 1: g0, g1, g2 on random numbers."""
    first = stack(TABLE[0][0], ctx.rng("stack"))
    for widths, _, said in TABLE[1:]:
        faster, quartiles = speed_up(first, stack(widths, ctx.rng("stack")), rounds=7)
        control: dict = {}
        if widths == TABLE[-1][0]:
            same, own = speed_up(first, stack(TABLE[0][0], ctx.rng("stack")), rounds=7)
            control = dict(
                criterion="lower quartile above 1.2", holds=quartiles[0] > 1.2, control_holds=own[0] > 1.2,
                control={"what": "the stack of 100 units against another one", "measured": same},
            )  # fmt: skip
        ctx.row(
            f"speed-up of the LSTMs with {', '.join(map(str, widths))} units, batch 1, {STEPS} words",
            said=f"6.20 / {said} ms = {6.20 / said:.2f}", measured=faster, interval=quartiles, unit="times",
            scale="published", **control,
        )  # fmt: skip


def stack(widths, rng):
    """A function that runs g0, g1 and g2 of a BiDAF with these widths; what attention says is random."""
    model = BiDAF(2, 2, rng=rng, widths=widths).eval()
    p0, ids = Tensor(rng.standard_normal((STEPS, 1, 800)).astype(np.float32)), np.ones((STEPS, 1), int)

    def run_once():
        with no_grad():
            g1 = model.g1(model.g0(p0, ids), ids)
            return model.g2(np.concatenate([p0, g1, g1, g1], axis=2), ids)

    return run_once


CLAIM = Claim(
    "iss-bidaf", chapter="2", title="BiDAF's LSTMs have fewer weights and are faster at the sizes that training left",
    seconds={"quick": 15, "full": 15}, run=run,
)  # fmt: skip
