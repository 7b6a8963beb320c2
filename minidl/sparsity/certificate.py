"""The certificate of a compaction: what left and why, what stays and why, and the proof that nothing else changed.

The proof runs the original and the small network in float64 on x, and compares their outputs in evaluation mode, the
gradients of every parameter that was kept (of sum(y cos(1, 2, 3, ...)) over the outputs, before any clipping), and both
once more in training mode. There dropout's masks for the small network are cut out of the original's. A constant that
went through BatchNorm or dropout is another one in training: the certificate then says "evaluation only".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from minidl.checkpoint import generators
from minidl.errors import CompactError, InputError, ShapeError
from minidl.sparsity.cost import Cost
from minidl.sparsity.units import Network, key, tensors_in
from minidl.tensor import Tensor


@dataclass(frozen=True)
class Proof:
    """Largest differences in float64: of outputs, and of gradients of what was kept; `allowed` is 1e-12 max(1, max|y|).

    train: the same two in training mode, or None; train_says: the proof in words.
    """

    outputs: float
    allowed: float
    gradients: float
    train: tuple[float, float] | None
    train_says: str


@dataclass(frozen=True)
class Certificate:
    """What was removed and why, what stays and why, and the proof. `str(certificate)` is all of it as a table, and
    `certificate.figure()` shows the units that are left.

    removed, stays: rows (layer, reason, number of units). kept: {layer: the indices of its units that are left}.
    folded: the biases, and merged: the weights, that took over constants. columns: {convolution: (positions (c, k, l)
    that are left, of how many)} where it became a reduced GEMM. before, after: Cost of model(x).
    """

    removed: list[tuple[str, str, int]]
    stays: list[tuple[str, str, int]]
    kept: dict[str, np.ndarray]
    folded: list[str]
    merged: list[str]
    columns: dict[str, tuple[int, int]]
    before: Cost
    after: Cost
    proof: Proof

    macs_before = property(lambda self: self.before.macs)
    macs_after = property(lambda self: self.after.macs)
    weights_before = property(lambda self: self.before.weights)
    weights_after = property(lambda self: self.after.weights)
    difference = property(lambda self: self.proof.outputs)
    tolerance = property(lambda self: self.proof.allowed)

    def figure(self):
        """A matplotlib Figure: a strip for each layer with a column per unit, white where it was removed."""
        from matplotlib.figure import Figure

        from minidl.sparsity.picture import draw_strips

        figure = Figure(figsize=(7, 0.8 + 0.5 * len(self.kept)), layout="constrained")
        draw_strips(figure, self)
        return figure

    def __str__(self):
        lines = []
        for title, rows in (("removed", self.removed), ("stays", self.stays)):
            lines += [f"{title:14}{count:9,}  {layer:12}  {reason}" for layer, reason, count in rows]
        for layer, (left, of) in self.columns.items():
            lines.append(f"{'reduced GEMM':14}{left:9,}  {layer:12}  of {of:,} columns: gathered, not dense")
        for title, names in (("folded into", self.folded), ("merged in", self.merged)):
            lines += [f"{title:14}{', '.join(names)}"] if names else []
        for name, a, b in (
            ("multiply-adds", self.macs_before, self.macs_after),
            ("weights", self.weights_before, self.weights_after),
        ):
            lines.append(f"{name:14}{a:,} -> {b:,} ({b / max(a, 1):.1%})")
        lines.append(f"{'proof':14}largest difference {self.difference:.1e} in float64, {self.tolerance:.1e} allowed")
        lines.append(f"{'':14}gradients of what is kept: {self.proof.gradients:.1e}")
        lines.append(f"{'':14}{self.proof.train_says}")
        return "\n".join(lines)


def prove(whole: Network, cut) -> Proof:
    """Compare the original network with the small one that `cut` makes; raises CompactError if they are not the same.

    whole: the traced original; cut: as in compact.py.
    """
    try:
        outputs, largest, gradients = _compare(whole.model, cut.small(), whole, cut)
    except Exception as error:  # whatever a forward may raise when its sizes are written into it
        raise CompactError(
            f"the small network does not run ({type(error).__name__}: {error}): its forward must read sizes from its "
            "arrays, not from numbers that were right for the large one"
        ) from error
    allowed = 1e-12 * largest
    if not outputs <= allowed:
        raise CompactError(
            f"the small network differs by {outputs:.1e} where {allowed:.1e} is rounding: its forward does "
            "something with its units that the tape does not show"
        )
    try:
        original, small = copy.deepcopy(whole.model).train(), cut.small().train()
        _share_draws(original, small, cut)
        train, largest, slopes = _compare(original, small, whole, cut)
    except Exception as error:  # a batch of one, for BatchNorm; draws of another kind than dropout's
        return Proof(outputs, allowed, gradients, None, f"evaluation only: no comparison in training mode ({error})")
    if not train <= 1e-12 * largest:
        says = f"evaluation only: in training mode they differ by {train:.1e}"
        return Proof(outputs, allowed, gradients, None, f"{says}, where BatchNorm or dropout meets a constant")
    says = f"in training mode {train:.1e}, gradients {slopes:.1e}"
    return Proof(outputs, allowed, gradients, (train, slopes), says)


def _compare(original, small, whole, cut) -> tuple[float, float, float]:
    """(largest difference of any output, max(1, largest output), largest difference of a gradient that was kept)."""
    before = tensors_in(original(*whole.args))
    after = tensors_in(small(*cut.arguments(cut.net.args)))
    difference, largest = 0.0, 1.0
    losses: list[list[Tensor]] = [[], []]
    for traced, a, b in zip(tensors_in(cut.net.out), before, after, strict=True):
        units = cut.net.units_of(key(traced))
        expected = cut.array(a.data, units)
        if expected.shape != b.shape:
            raise ShapeError(f"it returns shape {b.shape} where {expected.shape} is left of {a.shape}")
        difference = max(difference, float(np.abs(expected - b.data).max(initial=0)))
        largest = max(largest, float(np.abs(expected).max(initial=0)))
        weight = np.cos(np.arange(1.0, a.numel() + 1)).reshape(a.shape)
        losses[1].append((b * cut.array(weight, units)).sum())
        for axis, of in enumerate(units):  # what is gone has no part in the loss
            weight *= ~cut.gone[of].reshape([-1 if k == axis else 1 for k in range(a.ndim)])
        losses[0].append((a * weight).sum())
    slopes = _farthest(_gradients(original, sum(losses[0])), _gradients(small, sum(losses[1])), cut)
    return difference, largest, slopes


def _gradients(model, loss) -> dict[str, np.ndarray]:
    """{parameter: gradient of loss}, of those that have one."""
    for p in model.parameters():
        p.grad = None
    if loss.requires_grad:
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _farthest(original: dict, small: dict, cut) -> float:
    """The largest difference between a gradient of the small network and the part of the original's that it keeps."""
    worst = 0.0
    for name, g in small.items():
        expected = cut.parameter(name, original[name]) if name in original else None
        if expected is not None and expected.shape == g.shape:
            worst = max(worst, float(np.abs((g - expected) * ~cut.spoken_for(name)).max(initial=0)))
    return worst


# -- the same draws in both ------------------------------------------------------------------------------------------
class _Probe(Network):
    """Traces the model with its random layers on, every draw 1: shows to which units each draw belongs."""

    def _run(self):
        self.draws: list[tuple] = []
        for module in self.model.modules():
            for name, value in vars(module).items():
                if isinstance(value, np.random.Generator):
                    setattr(module, name, self)
                    module.training = True
        return super()._run()

    def random(self, shape, dtype=np.float64):
        self.draws.append((shape, len(self.tape)))
        return np.ones(shape, dtype)

    def units(self):
        """The units along each axis of each draw: those of what the next node makes of it."""
        for shape, place in self.draws:
            found = self.units_of((id(self.tape[place]), 0))
            yield [u if len(u) == n else np.array([-1] * n) for u, n in zip(found, shape, strict=True)]


class _Draws:
    """Stands for a Generator: draws and keeps it (with rng), or takes what another has kept, without gone units."""

    def __init__(self, kept: list, rng=None, cut=None):
        self.kept, self.rng, self.cut = kept, rng, cut

    def random(self, shape, dtype=np.float64):
        if self.rng is not None:
            units = next(self.kept[0])
            self.kept.append((self.rng.random(shape, dtype), units))
            return self.kept[-1][0]
        return self.cut.array(*self.kept.pop(1))


def _share_draws(original, small, cut) -> None:
    """Where both models draw random numbers, let the small one take the original's, without those of gone units."""
    if generators(original):
        probe = _Probe(cut.net.model, cut.net.args, np.float64)
        if probe.layer != cut.net.layer:
            raise InputError("its random numbers do not belong to units")
        kept: list = [probe.units()]
        for model in (original, small):
            for module in model.modules():
                for name, value in list(vars(module).items()):
                    if isinstance(value, np.random.Generator):
                        setattr(module, name, _Draws(kept, value if model is original else None, cut))
