"""What claims about networks that shrink on pictures share: CIFAR-10 as networks take it, steps that are the same for
each network, and the rows that compare two networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.callbacks import Callback
from minidl.claims.claim import Context
from minidl.claims.shrinking import paired, speed_up
from minidl.data.augment import random_crop, random_mirror
from minidl.data.images import ImageSet
from minidl.sparsity import Certificate
from minidl.tensor import Tensor, no_grad
from minidl.train import fit

Part = tuple[np.ndarray, np.ndarray]
"""Images (N, channels, size, size) float32, and labels (N,)."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Three parts: settings are chosen on what is held back; `test` is for the rows alone.

    mirrored: whether a picture and its mirror image are the same class. digits, which take the place of CIFAR-10 where
    it is missing, are not.
    """

    train: Part
    held_back: Part
    test: Part
    mirrored: bool

    def augmented(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shifted by up to an eighth of the picture, and mirrored where that keeps the class."""
        x = random_crop(x, rng, x.shape[-1] // 8)
        return random_mirror(x, rng) if self.mirrored else x


def pictures(
    found: ImageSet, *, size: int, held_back: int, scale: bool, train: int | None = None, test: int | None = None
) -> Pictures:
    """The first `train` training images, the last `held_back` ones, the first `test` test images (None: all of them).

    size 16: means of 2 x 2 pixels. The training part's mean image is taken from all; scale: divided by their standard
    deviation too, else grey values stay up to 255 apart, as Caffe's example has them.
    """
    step = found.train_images.shape[-1] // size

    def prepared(images: np.ndarray) -> np.ndarray:
        n, c = images.shape[:2]
        return images.reshape(n, c, size, step, size, step).mean((3, 5), dtype=np.float32)

    inner = found.split(held_back)
    first = prepared(inner.train_images[:train])
    mean, unit = first.mean(0), first.std() if scale else np.float32(1)
    held, tested = (
        ((prepared(images) - mean) / unit, labels)
        for images, labels in (
            (inner.test_images, inner.test_labels), (found.test_images[:test], found.test_labels[:test]),
        )
    )  # fmt: skip
    first = (first - mean) / unit
    return Pictures((first, inner.train_labels[:train]), held, tested, found.name.startswith("cifar10"))


def train(
    ctx: Context, data: Part, model, optimizer, steps: range, batch: int, rate: Callable[[int], float], bar,
    *, augment: Callable | None = None, after_step=None, callbacks=(),
) -> list[float]:  # fmt: skip
    """The steps of this range; step k sees the same images in every network of a claim. Returns the losses.

    augment: (x, rng) -> x, of one batch.
    """
    images, labels = data

    def batches():
        for step in steps:
            rng = ctx.rng("batch", step)
            rows = rng.integers(0, len(images), batch)
            yield images[rows] if augment is None else augment(images[rows], rng), labels[rows]

    return list(
        fit(
            model, batches(), optimizer, start=steps.start, schedule=rate, after_step=after_step, callbacks=callbacks,
            progress=bar,
        )
    )  # fmt: skip


class Every(Callback):
    """function() after every `steps` steps, behind the callbacks that stand before it."""

    def __init__(self, steps: int, function: Callable[[], None]):
        self.steps, self.function = steps, function

    def after_step(self, run) -> None:
        if run.step % self.steps == 0:
            self.function()


def part(ctx: Context, name: str, steps: int, bar, function: Callable[[], dict]) -> dict:
    """ctx.kept(name, function), and the bar moved on by `steps`, whether they were done now or in an earlier run."""
    before = bar.done
    bar.set(name)
    value = ctx.kept(name, function)
    bar.update(before + steps - bar.done)
    return value


def not_worse(
    ctx: Context, what: str, small: np.ndarray, dense: np.ndarray, allowed: float, *, said: float, trials: int,
    hurt: tuple[str, np.ndarray] | None = None,
) -> None:  # fmt: skip
    """The row that compares test errors; small, dense: mistakes on the same images; hurt: those of the control."""
    more, error = paired(small, dense)
    control: dict[str, Any] = {}
    if hurt is not None:
        spoilt, _ = paired(hurt[1], dense)
        control = {"control": {"what": hurt[0], "measured": spoilt}, "control_holds": spoilt <= allowed}
    ctx.row(
        f"test error, {what} less dense", said=said, measured=more, unit="points", trials=trials,
        interval=(more - 2 * error, more + 2 * error), criterion=f"at most {allowed:g}", holds=more <= allowed,
        contradicted=more - 2 * error > allowed, **control,
    )  # fmt: skip


def faster(ctx: Context, dense, small, x: np.ndarray, least: float, said: str | None = None) -> None:
    """The row of the time a network takes for the batch x, beside the dense one."""
    first, second, batch = dense.eval(), small.eval(), Tensor(x)
    with no_grad():
        median, quartiles = speed_up(lambda: first(batch), lambda: second(batch))
        same, own = speed_up(lambda: first(batch), lambda: first(batch))
    ctx.row(
        f"speed-up of inference, batch {len(x)}", said=said, measured=median, interval=quartiles, unit="times",
        criterion=f"lower quartile above {least:g}", holds=quartiles[0] > least,
        control={"what": "the dense network against itself", "measured": same}, control_holds=own[0] > least,
    )  # fmt: skip


def exact(ctx: Context, certificate: Certificate, what: str, far: float) -> None:
    """The row of the certificate; far: by how much outputs differ where something that is not 0 is silenced too."""
    ctx.row(
        "float64 difference between the zeroed and the small network", measured=certificate.difference,
        criterion=f"at most {certificate.tolerance:.1e}", holds=certificate.difference <= certificate.tolerance,
        control={"what": what, "measured": far}, control_holds=far <= certificate.tolerance, scale="computed",
    )  # fmt: skip


def smooth(losses, parts: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """(steps, means of the last len(losses) / parts losses)."""
    window = max(len(losses) // parts, 1)
    means = np.convolve(losses, np.full(window, 1 / window), "valid")
    return np.arange(len(means)) + window, means


def chosen_by_hand(ctx: Context, settings: int) -> None:
    """The note that quick mode owes its reader: how many settings of the Lasso its author had looked at before."""
    if not ctx.full:
        ctx.note(
            f"Quick mode's lambda and steps were chosen by hand among {settings} settings on CIFAR-10 or MNIST, after "
            "runs whose test errors had been seen; the dense network's settings among 1."
        )
