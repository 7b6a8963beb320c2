"""Data-parallel training: every rank has the whole network and a share of each batch; they average gradients.

    loss.backward()              # this rank's gradients, of its share of the batch
    parallel.reduce(step)        # p.grad becomes the mean over all ranks
    optimizer.step()             # the same step everywhere, so the weights stay the same everywhere

Gradients travel, weights never do: ranks that start from one seed and apply the same means hold the same bits, and
`check_weights` proves it. In ternary mode a gradient is 20 times smaller at best (log2(3) bits instead of 32); what
this form really sends is `bytes_per_step`, and what it did send is in `comm.ledger`.

Source: Wen et al., TernGrad, NIPS 2017, algorithm 1 (parameter localisation, scaler sharing).
"""

from __future__ import annotations

import zlib

import numpy as np

from minidl.errors import CommError, InputError
from minidl.ternary.allreduce import float_allreduce, share_scales, ternary_allreduce
from minidl.ternary.pack import field_words
from minidl.ternary.ternarise import Ternariser

MODES = ("ternary", "float")


class DataParallel:
    """Averages the gradients of named parameters over the ranks of a communicator.

    named_params: (name, p) pairs, the same on all ranks in the same order; p has `.data` and `.grad`, both arrays
    mode: "ternary", or "float": 32 bits for every gradient, the baseline
    scale, clip, seed: of the Ternariser; the seed must be the same on all ranks
    keep_float: which parameters stay in float also in ternary mode: a function of (name, p), or a number of elements
        below which a parameter does. TernGrad keeps the last layer (and, for AlexNet, all below 9,217 elements).
    """

    def __init__(self, named_params, comm, mode="ternary", *, scale="tensor", clip=2.5, seed=0, keep_float=None):
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        self.params, self.comm, self.mode = list(named_params), comm, mode
        self.ternariser = Ternariser(scale, clip, seed)
        stays = keep_float if callable(keep_float) else lambda name, p: p.data.size < (keep_float or 0)
        self.floats = [k for k, (name, p) in enumerate(self.params) if mode == "float" or stays(name, p)]
        self.ternary = [k for k in range(len(self.params)) if k not in self.floats]

    def reduce(self, step: int) -> None:
        """Replace every p.grad by its mean over all ranks, in p.grad's dtype. Collective: every rank must call it."""
        for name, p in self.params:
            if p.grad is None:
                raise InputError(f"{name} has no gradient at step {step}: call backward() before reduce()")
        for k in self.floats:
            name, p = self.params[k]
            with self.comm.ledger.about(name, "float"):
                self._replace(p, float_allreduce(p.grad, self.comm))
        if not self.ternary:
            return
        own, parts = self._own_scales()
        with self.comm.ledger.about("all", "scales"):
            shared = share_scales(own, self.comm)
        for k in self.ternary:
            name, p = self.params[k]
            s, worker = shared[parts[k]], self.comm.Get_rank()
            trits = self.ternariser.trits(p.grad, s, own=own[parts[k]], step=step, worker=worker, tensor=k)
            with self.comm.ledger.about(name, "sum"):
                self._replace(p, ternary_allreduce(trits, s, self.comm, self.ternariser.block(p.grad.size)))

    def _own_scales(self) -> tuple[np.ndarray, dict[int, slice]]:
        """This rank's scales, all in one vector, and where in it each ternary parameter finds its own."""
        scales: list[np.ndarray] = []
        parts: dict[int, slice] = {}
        at = 0
        for group in self._groups():
            name = " and ".join(self.params[k][0] for k in group)
            grads = [np.asarray(self.params[k][1].grad).reshape(-1) for k in group]
            scales.append(self.ternariser.scales(np.concatenate(grads) if len(grads) > 1 else grads[0], name))
            parts |= dict.fromkeys(group, slice(at, at + scales[-1].size))
            at += scales[-1].size
        return np.concatenate(scales), parts

    def _groups(self) -> list[list[int]]:
        """The ternary parameters that share scales: by layer (the name up to its last dot), or each by itself."""
        if self.ternariser.scale != "layer":
            return [[k] for k in self.ternary]
        layers: dict[str, list[int]] = {}
        for k in self.ternary:
            layers.setdefault(self.params[k][0].rpartition(".")[0], []).append(k)
        return list(layers.values())

    @staticmethod
    def _replace(p, mean: np.ndarray) -> None:
        p.grad = mean.reshape(p.grad.shape).astype(p.grad.dtype, copy=False)

    def expected_bytes(self) -> int:
        """What one `reduce` hands to mpi4py on each rank, by `bytes_per_step`."""
        sizes = [p.data.size for _, p in self.params]
        scales = sum(-(-max(sizes[g[0]], 1) // self.ternariser.block(sizes[g[0]])) for g in self._groups())
        ternary, floats = [sizes[k] for k in self.ternary], [sizes[k] for k in self.floats]
        return bytes_per_step(self.comm.Get_size(), ternary, scales, floats)

    def weights_crc(self) -> int:
        """The CRC32 of all of this rank's weights, in order."""
        crc = 0
        for _, p in self.params:
            crc = zlib.crc32(np.ascontiguousarray(p.data).data, crc)
        return crc

    def check_weights(self) -> int:
        """The CRC32 of all weights, if it is the same on every rank; else CommError with each rank's. Collective."""
        crc = self.weights_crc()
        every = np.empty(self.comm.Get_size(), np.uint32)
        with self.comm.ledger.about("all", "check"):
            self.comm.Allgather(np.array([crc], np.uint32), every)
        if (every != crc).any():
            told = ", ".join(f"rank {rank}: {value:08x}" for rank, value in enumerate(every))
            raise CommError(f"the ranks hold different weights ({told}): start from one seed, and reduce every step")
        return crc


def bytes_per_step(ranks: int, ternary, scales: int, floats=()) -> int:
    """Bytes that each rank hands to mpi4py in one step.

        4 * scales + 8 * sum over ternary tensors of ceil(D / floor(64 / bits)) + 4 * sum over float tensors of D
        with bits = ceil(log2(2 ranks + 1)), the width of one sum

    ternary, floats: the numbers of elements D of each tensor;  scales: how many scales there are in all.
    """
    return 4 * scales + sum(8 * field_words(size, ranks) for size in ternary) + 4 * sum(floats)
