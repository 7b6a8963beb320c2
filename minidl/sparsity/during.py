"""Compacting while training: the longer a run, the smaller its network.

    fit(model, batches, optimizer, epochs=20, after_step=..., callbacks=[CompactEvery(2, x)])

Every so many epochs the model and its optimizer *become* the small ones: the two objects stay, their contents are
replaced, so that whoever holds them goes on. Single Parameters are others afterwards: a penalty on groups has to be
made anew, which is what `then` is for.
"""

from __future__ import annotations

from minidl.callbacks import Callback
from minidl.errors import InputError
from minidl.sparsity.certificate import Certificate
from minidl.sparsity.compact import NothingToRemove, compact


class CompactEvery(Callback):
    """Take out what does nothing after every `epochs` epochs of `fit`.

    x: as for compact, or a function model -> x (a state has the size of the network). then(model): called after each
    compaction. certificates: {epoch: its Certificate}, for the epochs that found something to remove.
    """

    def __init__(self, epochs: int, x, *, then=None, columns: bool = False):
        if epochs < 1:
            raise InputError(f"CompactEvery: every {epochs} epochs; it must be at least 1")
        self.epochs, self.x, self.then, self.columns = epochs, x, then, columns
        self.certificates: dict[int, Certificate] = {}

    def after_epoch(self, run):
        if (run.epoch + 1) % self.epochs:
            return
        x = self.x(run.model) if callable(self.x) else self.x
        try:
            small, certificate, optimizer = compact(run.model, x, run.optimizer, columns=self.columns)
        except NothingToRemove:
            return
        run.model.__dict__, run.optimizer.__dict__ = small.__dict__, optimizer.__dict__
        self.certificates[run.epoch] = certificate
        if self.then is not None:
            self.then(run.model)
