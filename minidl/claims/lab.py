"""A laboratory for claims about shrinking networks: it trains a network dense, with the group Lasso, and controls.

All networks of a claim start from the same weights and see the same images. The Lasso's way: train with the proximal
step; take out what does nothing (`compact`), and let other zeros stay 0; train what is left on. Each network is a part
of the claim (`Context.kept`): an interrupted run does not train it again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.claims.claim import Context
from minidl.claims.shrinking import BATCH, caffe_sgd, mistakes, paired, re_initialised, with_arrays
from minidl.claims.trainings import part
from minidl.data.images import ImageSet
from minidl.errors import InputError
from minidl.sparsity import Certificate, GroupLasso, NothingToRemove, compact, freeze_zeros, silence_, units
from minidl.train import fit, predict

IMAGES = 8
"""With so many a network is compacted and its certificate proven."""


@dataclass(frozen=True)
class Schedule:
    """The rate at the start, steps with the Lasso, and steps with the small network after it."""

    rate: float
    lasso: int
    fine_tune: int

    steps = property(lambda self: self.lasso + self.fine_tune)

    def __str__(self):
        return f"{self.lasso:,} + {self.fine_tune:,} steps at rate {self.rate:g}"


@dataclass(frozen=True)
class Shrunk:
    """What one lambda gave. The networks are of the claim's own class."""

    by: str
    lam: float
    zeroed: Any  # after the Lasso, at its full size
    cut: Any  # without what does nothing
    small: Any  # after fine-tuning
    certificate: Certificate | None  # None where nothing does nothing
    before: float  # error on held-back images when it has just been cut, and after fine-tuning, in %
    error: float
    losses: list[float]
    alive: list[list[int]]  # groups that are not 0, every tenth proximal step


class Lab:
    """Trains on digits.train_images; digits.test_images are held back from training, to choose settings on.

    A claim says what is trained: fresh, penalties, policy and scaled. every: steps of SGD to one proximal step, which
    then has so many times the threshold; gain: of weights drawn anew, U(-a, a) with a = sqrt(3 gain / fan_in).
    """

    every = 1
    gain = 1.0

    def __init__(self, ctx: Context, digits: ImageSet, held_back: int):
        self.ctx, self.digits = ctx, digits
        self.images, self.labels = self.scaled(digits.test_images[:held_back]), digits.test_labels[:held_back]
        self.bar = ctx.progress(0, "")
        self._shrunk: dict[tuple, Shrunk] = {}

    # -- what a claim says -----------------------------------------------------------------------------------------
    def fresh(self):
        """The network before training, always the same."""
        raise NotImplementedError

    def penalties(self, model, by: str, lam: float) -> list[GroupLasso]:
        """What is to vanish from this network."""
        raise NotImplementedError

    def policy(self, rate: float, plan: Schedule) -> Callable[[int], float]:
        """step -> Caffe's rate, for momentum .9."""
        raise NotImplementedError

    @staticmethod
    def scaled(images: np.ndarray) -> np.ndarray:
        """Grey values (N, 28, 28) -> what the network takes."""
        raise NotImplementedError

    # -- what is done with it --------------------------------------------------------------------------------------
    def error(self, model) -> float:
        """Of 100 held-back images, how many are taken for another digit."""
        return 100 * float(mistakes(model, self.images, self.labels).mean())

    def train(self, model, optimizer, steps: range, rate: Callable[[int], float], **more) -> list[float]:
        """The steps of this range; step k sees the same images in every network. Returns the losses.

        With another momentum than .9, rate / (1 - momentum), how far a gradient leads in the end, is kept.
        """

        def batches():
            for step in steps:
                rows = self.ctx.rng("batch", step).integers(0, len(self.digits.train_images), BATCH)
                yield self.scaled(self.digits.train_images[rows]), self.digits.train_labels[rows]

        rates = [rate(step) * (1 - optimizer.momentum) / 0.1 for step in steps]
        return list(fit(model, batches(), optimizer, schedule=rates.__getitem__, progress=self.bar, **more))

    def part(self, name: str, steps: int, function: Callable[[], dict]) -> dict:
        """A part of the claim, on this laboratory's bar."""
        return part(self.ctx, name, steps, self.bar, function)

    def dense(self, factor: float, weight_decay: float, plan: Schedule) -> tuple[Any, list[float]]:
        """A network without the Lasso, trained for as many steps in all, and its losses."""
        model = self.fresh()

        def trained() -> dict:
            rate = self.policy(factor * plan.rate, plan)
            losses = self.train(model, caffe_sgd(model, weight_decay), range(plan.steps), rate)
            return {"state": model.state_dict(), "losses": losses}

        name = f"dense, rate x {factor:g}, weight decay {weight_decay:g}, {plan.steps} steps"
        found = self.part(name, plan.steps, trained)
        return with_arrays(model, found["state"]), found["losses"]

    def shrunk(self, by: str, lam: float, plan: Schedule) -> Shrunk:
        """Training with the Lasso, compaction, fine-tuning."""
        if (by, lam, plan) not in self._shrunk:
            name = f"{by}, lambda {lam:g}, {plan.lasso} + {plan.fine_tune} steps"
            found = self.part(name, plan.steps, functools.partial(self._shrink, by, lam, plan))
            zeroed = with_arrays(self.fresh(), found["zeroed"])
            cut, certificate = zeroed, None
            with contextlib.suppress(NothingToRemove):
                cut, certificate = compact(zeroed, self.images[:IMAGES], columns=by == "column")
            small = with_arrays(cut, found["small"])
            self._shrunk[by, lam, plan] = Shrunk(
                by, lam, zeroed, cut, small, certificate, self.error(cut), self.error(small), found["losses"],
                found["alive"],
            )  # fmt: skip
        return self._shrunk[by, lam, plan]

    def _shrink(self, by: str, lam: float, plan: Schedule) -> dict:
        model, counts = self.fresh(), []
        penalties = self.penalties(model, by, self.every * lam)

        def after_step(optimizer):
            if optimizer.steps % self.every == 0:
                for penalty in penalties:
                    penalty.prox_(optimizer)
            if optimizer.steps % (10 * self.every) == 0:
                counts.append([count for penalty in penalties for count, _ in penalty.alive().values()])

        optimizer, losses = self._lasso(model, plan, after_step)
        zeroed = model.state_dict()
        with contextlib.suppress(NothingToRemove):
            model, _, optimizer = compact(model, self.images[:IMAGES], optimizer, columns=by == "column")
        optimizer.momentum, optimizer.weight_decay = 0.9, 5e-4
        losses += self._fine_tune(model, optimizer, plan)
        return {"zeroed": zeroed, "small": model.state_dict(), "losses": losses, "alive": counts}

    def _lasso(self, model, plan: Schedule, after_step=lambda optimizer: None):
        """Train as with the Lasso, which after_step(optimizer) is to apply; returns (optimizer, losses)."""
        if plan.lasso % self.every:
            raise InputError(f"{plan.lasso} steps do not end with a proximal step, which is made every {self.every}")
        optimizer, rate = caffe_sgd(model, weight_decay=0.0), self.policy(plan.rate, plan)
        calm = 2 * plan.lasso // 3
        losses = self.train(model, optimizer, range(calm), rate, after_step=lambda k: after_step(optimizer))
        optimizer.momentum = 0.97  # the noise of single batches wakes dead groups: average over 33 of them, not 10
        losses += self.train(
            model, optimizer, range(calm, plan.lasso), rate, after_step=lambda k: after_step(optimizer)
        )  # fmt: skip
        return optimizer, losses

    def _fine_tune(self, model, optimizer, plan: Schedule) -> list[float]:
        callbacks = []
        with contextlib.suppress(InputError):  # where nothing is 0 any more, nothing has to stay 0
            callbacks.append(freeze_zeros(model))
        rate = self.policy(plan.rate, plan)
        return self.train(model, optimizer, range(plan.lasso, plan.steps), rate, callbacks=callbacks)

    # -- controls --------------------------------------------------------------------------------------------------
    def without_prox(self, plan: Schedule):
        """The training of `shrunk` up to the compaction, the proximal step left out."""
        model = self.fresh()

        def trained() -> dict:
            self._lasso(model, plan)
            return model.state_dict()

        return with_arrays(model, self.part(f"no proximal step, {plan.lasso} steps", plan.lasso, trained))

    def retrained(self, r: Shrunk, plan: Schedule):
        """The small network with weights drawn anew, trained as long as the fine-tuning took."""
        rng = self.ctx.rng("re-initialised", r.by, r.lam)

        def fresh(shape):
            bound = (3 * self.gain / np.prod(shape[1:])) ** 0.5
            return rng.uniform(-bound, bound, shape)

        model = re_initialised(r.cut, fresh)

        def trained() -> dict:
            self._fine_tune(model, caffe_sgd(model), plan)
            return model.state_dict()

        name = f"{r.by}, lambda {r.lam:g}, re-initialised, {plan.fine_tune} steps"
        return with_arrays(model, self.part(name, plan.fine_tune, trained))


def taken(found: list[Shrunk], most: float, macs: Callable[[Shrunk], float]) -> float:
    """The lambda with the fewest multiply-adds among errors of at most `most` %; if there is none, the best error's."""
    good = [r for r in found if r.error <= most]
    return min(good, key=macs).lam if good else min(found, key=lambda r: r.error).lam


@dataclass(frozen=True)
class NetworkRows:
    """The rows of the report about one row of a published table, as far as they are the same for each table.

    A claim says the table's error of the dense network in %, with how many places it gives errors, and what goes.
    """

    ctx: Context
    lab: Any
    plan: Schedule
    said: Any  # the published row: its name, its error in %, ...
    r: Shrunk
    dense: Any
    idle: Any  # trained without the proximal step
    trials: int

    dense_error = 0.0
    places = 1
    unit = "unit"

    def row(self, quantity: str, **values) -> None:
        scale = "published" if self.ctx.full else "reduced"
        self.ctx.row(f"{self.said.name}: {quantity}", trials=self.trials, **{"scale": scale} | values)

    def errors(self, test, wrong_dense: np.ndarray) -> None:
        """The error on test images, and on those held back, where the small network trained anew is the control."""
        said, r, lab, full = self.said, self.r, self.lab, self.ctx.full
        allowed = round(said.error - self.dense_error, self.places) if full else 1.0

        def judged(wrong, than) -> tuple[float, bool]:
            """(the error in %, whether it is close enough to the dense network's)."""
            difference, deviation = paired(wrong, than)
            limit = allowed + (2 * deviation if full else 0)
            return 100 * float(wrong.mean()), round(difference - limit, 6) <= 0

        def criterion(than) -> str:
            extra = ", give or take two standard errors of the difference" if full else ""
            points = f"{allowed:+.{self.places}f}"
            return f"at most {points} points from the dense network's {100 * than.mean():.2f}{extra}"

        measured, holds = judged(mistakes(r.small, *test), wrong_dense)
        self.row(
            "test error", said=f"{said.error:g} (dense {self.dense_error:g})", measured=measured, unit="%",
            criterion=criterion(wrong_dense), holds=holds,
        )  # fmt: skip
        dense = mistakes(self.dense, lab.images, lab.labels)
        measured, holds = judged(mistakes(r.small, lab.images, lab.labels), dense)
        again, as_good = judged(mistakes(lab.retrained(r, self.plan), lab.images, lab.labels), dense)
        self.row(
            "error on held-back images", measured=measured, unit="%", criterion=criterion(dense), holds=holds,
            control={"what": "the small network re-initialised and trained as long as the fine-tuning",
                     "measured": again},
            control_holds=as_good,
        )  # fmt: skip

    def exactness(self, proof: Certificate) -> None:
        """The certificate's difference; the control silences one unit that is not 0 as well."""
        x = self.lab.images[:IMAGES].astype(float)
        whole = with_arrays(self.r.cut, {k: v.astype(float) for k, v in self.r.cut.state_dict().items()})
        less = with_arrays(whole, whole.state_dict())
        silence_(less, units(less, x)[-1:])
        wrong = float(np.abs(predict(whole, x) - predict(less, x)).max())
        self.row(
            "float64 difference between the zeroed and the small network", measured=proof.difference,
            criterion=f"at most {proof.tolerance:.1e}", holds=proof.difference <= proof.tolerance,
            control={"what": f"one {self.unit} more removed, one that training kept", "measured": wrong},
            control_holds=wrong <= proof.tolerance,
        )  # fmt: skip
