"""Frozen zeros: fine-tune what is left, and let what became 0 stay 0.

    m = 0 where the weight (or its whole group) is 0 now, 1 elsewhere        computed once
    g = m g  before the step,   w = m w  after it

Both are needed: the first keeps momentum, clipping and Adam's means from being fed by weights that may not move, the
second holds against the velocity they had before. (Wen et al. 2016: DISCONNECTED_ELTWISE is by="weight",
DISCONNECTED_GRPWISE by="row+column"; there the penalty is off and weight decay on while fine-tuning.)

    zeros = freeze_zeros(model, by="weight")
    loss.backward(); zeros.mask_grads_(); optimizer.step(); zeros.mask_()        # or fit(..., callbacks=[zeros])
"""

from __future__ import annotations

import numpy as np

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.sparsity.groups import Groups, groups
from minidl.sparsity.prox import group_norms


class FrozenZeros(Callback):
    """Masks {parameter name: array of True where the weight may move} over parameters {name: Parameter}."""

    def __init__(self, parameters: dict, masks: dict[str, np.ndarray]):
        self.parameters, self.masks = parameters, masks

    def __repr__(self):
        frozen = sum(int((~m).sum()) for m in self.masks.values())
        return f"FrozenZeros({frozen:,} of {sum(m.size for m in self.masks.values()):,} weights stay 0)"

    def mask_grads_(self) -> None:
        """Before the step: the gradients of frozen weights become 0."""
        for name, mask in self.masks.items():
            p = self.parameters[name]
            if p.grad is not None:
                p.grad = np.where(mask, p.grad, p.grad.dtype.type(0))

    def mask_(self) -> None:
        """After the step: frozen weights are 0, whatever velocity they had."""
        for name, mask in self.masks.items():
            p = self.parameters[name]
            p.data = np.where(mask, p.data, p.data.dtype.type(0))

    def after_backward(self, run) -> None:
        self.mask_grads_()

    def after_step(self, run) -> None:
        self.mask_()


def freeze_zeros(model, by: str | Groups = "weight", x=None) -> FrozenZeros:
    """The masks of what is 0 in the model now; biases and normalisers (one axis) stay free.

    by: "weight", every weight that is 0 | the kind of a group (groups.py; x where that needs it) or Groups of your own:
    only weights whose group is entirely 0, so that single zeros may come back. Raises InputError if nothing is 0.
    """
    if by == "weight":
        parameters = {name: p for name, p in model.named_parameters() if p.ndim > 1}
        masks = {name: p.data != 0 for name, p in parameters.items()}
    else:
        of = by if isinstance(by, Groups) else groups(model, x, by)
        parameters, masks = of.parameters, _of_living_groups(of)
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    if not masks:
        raise InputError(f"by={by if isinstance(by, str) else by.by!r}: nothing here is 0, so nothing can be frozen")
    return FrozenZeros(parameters, masks)


def _of_living_groups(of: Groups) -> dict[str, np.ndarray]:
    cuts, data = of.blocks(), [p.data for p in of.parameters.values()]
    norms = [[cut.norms(w)] * len(cut.faces) for cut, w in zip(cuts, data, strict=True)]
    alive = group_norms(cuts, norms, of.count) > 0
    alive[-1] = True  # label -1: no group
    masks = {}
    for name, cut, w in zip(of.parameters, cuts, data, strict=True):
        free = np.all([np.broadcast_to(alive[labels], cut.shape) for labels in cut.faces], axis=0)
        masks[name] = cut.spread(free, w).astype(bool)
    return masks
