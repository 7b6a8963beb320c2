"""Data-parallel training: every worker has the whole network and a share of each batch; they average gradients.

    loss.backward()              # this rank's gradients, of its share of the batch
    parallel.reduce(step)        # p.grad becomes the mean over all ranks
    optimizer.step()             # the same step everywhere, so the weights stay the same everywhere

Gradients travel, weights never do: ranks that start from one seed and apply the same means hold the same bits, and
`check_weights` proves it. In ternary mode a gradient is 20 times smaller at best (log2(3) bits instead of 32); what
this form really sends is `bytes_per_step`, and what it did send is in `comm.ledger`.

A rank may stand for several virtual workers; see workers.py for that loop, which gives the same bits on any number of
ranks. Source: Wen et al., TernGrad, NIPS 2017, algorithm 1 (parameter localisation, scaler sharing).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minidl.errors import CommError, InputError
from minidl.ternary.allreduce import (
    float_allreduce,
    gather_allreduce,
    gather_in_order,
    share_of,
    share_scales,
    ternary_allreduce,
)  # fmt: skip
from minidl.ternary.heartbeat import beat
from minidl.ternary.pack import field_words, message_bytes, sum_dtype
from minidl.ternary.ring import ring_allreduce
from minidl.ternary.ternarise import Ternariser
from minidl.ternary.workers import Belongings, agree

EXCHANGES = {"ternary": ternary_allreduce, "gather": gather_allreduce}
FLOATS = {
    "float": float_allreduce,
    "ring32": ring_allreduce,
    "ring16": lambda g, comm: ring_allreduce(g, comm, np.float16),
}


class DataParallel:
    """Averages the gradients of named parameters over the workers on the ranks of a communicator.

    named_params: (name, p) pairs, the same on all ranks in the same order; p has `.data` and `.grad`, both arrays
    mode: "ternary", trits summed by MPI | "gather", trits sent to every rank, fewest bytes for two | and the baselines
        "float", MPI's own sum of 32-bit floats | "ring32", "ring16", our ring's, in 32 or 16 bits
    scale, clip, seed, rule: of the Ternariser; the same on all ranks, which the first `reduce` checks
    keep_float: which parameters stay in float also in the ternary modes: "last layer", as TernGrad keeps it, a function
        of (name, p), or a number of elements below which a parameter does (9,217 for TernGrad's AlexNet)
    workers: how many virtual workers the ranks stand for together, at least one each; None: exactly one each
    model: whose BatchNorm and dropout become each worker's own, inside `worker`; without it ranks that start from one
        seed draw the same masks. None for plain arrays
    exchange: a function like `ternary_allreduce`, for the ternary modes, in the place of the mode's own
    """

    def __init__(
        self, named_params, comm, mode="ternary", *, scale="tensor", clip=2.5, seed=0, keep_float=None, rule="exact",
        workers=None, model=None, exchange=None,
    ):  # fmt: skip
        if mode not in (modes := [*EXCHANGES, *FLOATS]):
            raise InputError(f"mode {mode!r} is not one of {', '.join(modes)}")
        rank, ranks = comm.Get_rank(), comm.Get_size()
        self.workers = ranks if workers is None else workers
        if self.workers < ranks:
            raise InputError(
                f"{self.workers} workers on {ranks} ranks leave some with nothing to do: start fewer ranks"
            )
        self.params, self.comm, self.mode = list(named_params), comm, mode
        self.ternariser, self.exchange = Ternariser(scale, clip, seed, rule), exchange or EXCHANGES.get(mode)
        stays = self._stays(keep_float)
        self.floats = [k for k, (name, p) in enumerate(self.params) if mode in FLOATS or stays(name, p)]
        self.ternary = [k for k in range(len(self.params)) if k not in self.floats]
        self.my_workers = share_of(rank, ranks, self.workers)
        self.belongings = Belongings(model, self.my_workers, seed)
        self._kept: dict[int, list] = {}  # worker -> its gradients, until the next reduce
        self._agreed = False

    def _stays(self, keep_float):
        if callable(keep_float):
            return keep_float
        layer = lambda name: name.rpartition(".")[0]
        if keep_float == "last layer":
            return lambda name, p: layer(name) == layer(self.params[-1][0])
        if isinstance(keep_float, str):
            raise InputError(f"keep_float={keep_float!r} is not 'last layer', a number of elements or a function")
        return lambda name, p: p.data.size < (keep_float or 0)

    @contextmanager
    def worker(self, w: int, step: int):
        """Be worker w inside a block, which holds its forward and backward; its gradients are kept for `reduce`."""
        if w not in self.my_workers:
            raise InputError(f"worker {w} is not this rank's: it has {[*self.my_workers]} of {self.workers}")
        for _, p in self.params:
            p.grad = None
        with self.belongings.of(w, step):
            yield
        self._kept[w] = [p.grad for _, p in self.params]

    def reduce(self, step: int) -> None:
        """Replace every p.grad by its mean over all workers, in p.grad's dtype. Collective: every rank must call it."""
        beat(step)
        grads = self._gradients(step)
        self.agree(step)
        for k, mean in self.means(self.floats, self.ternary, grads, step, self.comm):
            self._replace(k, grads, mean)

    def agree(self, step: int) -> None:
        """At the first step, compare what the ranks are about to train; at each, tell the ledger which it is."""
        self.comm.ledger.step = step
        if not self._agreed:
            with self.comm.ledger.about("all", "agree"):
                agree(self.comm, self._description(step))
            self._agreed = True

    def means(self, floats: list[int], ternary: list[int], grads, step: int, comm) -> Iterator[tuple[int, np.ndarray]]:
        """(k, the mean over all workers) for these parameters, one exchange each. grads: {worker: gradients}."""
        for k in floats:
            with comm.ledger.about(self.params[k][0], "float"):
                mean = self._mean_in_float([g[k] for g in grads.values()], comm)
            yield k, mean
        if not ternary:
            return
        own, parts = self._own_scales(ternary, grads)
        with comm.ledger.about("all", "scales"):
            shared = share_scales(np.max(list(own.values()), axis=0), comm)
        for k in ternary:
            part, block = parts[k], self.ternariser.block(self.params[k][1].data.size)
            sums = self._sum_of_trits(k, grads, shared[part], {w: own[w][part] for w in own}, step)
            count = {"workers": self.workers, "own": len(grads), "step": step}
            with comm.ledger.about(self.params[k][0], "sum"):
                mean = self.exchange(sums, shared[part], comm, block, **count)
            yield k, mean

    def _gradients(self, step: int) -> dict[int, list]:
        """The gradients of this rank's workers, in their order."""
        kept, self._kept = self._kept, {}
        if not kept and len(self.my_workers) == 1:  # there is but one, and nobody had to say so
            kept = {self.my_workers[0]: [p.grad for _, p in self.params]}
        for w in self.my_workers:
            if w not in kept:
                raise InputError(
                    f"worker {w} has no gradients at step {step}: backward() inside parallel.worker({w}, step)"
                )
            for (name, _), g in zip(self.params, kept[w], strict=True):
                if g is None:
                    raise InputError(f"{name} has no gradient at step {step}: call backward() before reduce()")
        return {w: kept[w] for w in self.my_workers}

    def _mean_in_float(self, rows: list, comm) -> np.ndarray:
        if self.mode in EXCHANGES:  # few and small: sent as they are, and added in worker order
            return gather_in_order(np.stack([np.reshape(g, -1) for g in rows]), comm, self.workers)
        total = rows[0]
        for g in rows[1:]:
            total = total + g
        mean, ranks = FLOATS[self.mode](total, comm), comm.Get_size()
        return mean if ranks == self.workers else mean * np.float32(ranks / self.workers)

    def _sum_of_trits(self, k: int, grads, shared, own, step: int) -> np.ndarray:
        trits = lambda w: self.ternariser.trits(grads[w][k], shared, own=own[w], step=step, worker=w, tensor=k)
        first, *others = grads
        sums = trits(first) if not others else trits(first).astype(sum_dtype(len(grads)))
        for w in others:
            sums += trits(w)
        return sums

    def _own_scales(self, ternary, grads) -> tuple[dict[int, np.ndarray], dict[int, slice]]:
        """The scales of each worker here, all in one vector, and where in it each ternary parameter finds its own."""
        scales: dict[int, list[np.ndarray]] = {w: [] for w in grads}
        parts: dict[int, slice] = {}
        at = 0
        for group in self._groups(ternary):
            name = " and ".join(self.params[k][0] for k in group)
            for w, g in grads.items():
                flat = [np.asarray(g[k]).reshape(-1) for k in group]
                scales[w].append(self.ternariser.scales(np.concatenate(flat) if len(flat) > 1 else flat[0], name))
            size = scales[w][-1].size
            parts |= dict.fromkeys(group, slice(at, at + size))
            at += size
        return {w: np.concatenate(every) for w, every in scales.items()}, parts

    def _groups(self, ternary) -> list[list[int]]:
        """The parameters that share scales: by layer (the name up to its last dot), or each by itself."""
        if self.ternariser.scale != "layer":
            return [[k] for k in ternary]
        layers: dict[str, list[int]] = {}
        for k in ternary:
            layers.setdefault(self.params[k][0].rpartition(".")[0], []).append(k)
        return list(layers.values())

    def _replace(self, k: int, grads, mean: np.ndarray) -> None:
        p, like = self.params[k][1], grads[self.my_workers[0]][k]
        p.grad = mean.reshape(like.shape).astype(like.dtype, copy=False)

    def expected_bytes(self) -> int:
        """What one `reduce` after the first hands to mpi4py on this rank, by `bytes_per_step`."""
        sizes = [p.data.size for _, p in self.params]
        scales = sum(-(-max(sizes[g[0]], 1) // self.ternariser.block(sizes[g[0]])) for g in self._groups(self.ternary))
        ternary, floats = [sizes[k] for k in self.ternary], [sizes[k] for k in self.floats]
        if ternary and self.exchange not in EXCHANGES.values():
            raise InputError(f"what {self.exchange} sends is not known here: see comm.ledger after a step")
        who = {"ranks": self.comm.Get_size(), "rank": self.comm.Get_rank(), "workers": self.workers}
        return self._expected(ternary, floats, scales=scales, mode=self.mode, **who)

    def _expected(self, ternary: list[int], floats: list[int], **options) -> int:
        return bytes_per_step(ternary=ternary, floats=floats, **options)

    def averaged(self):
        """A block in which the model has the mean of all workers' running statistics: for evaluation. Collective."""
        return self.belongings.averaged(self.comm)

    def state_dict(self) -> dict:
        """The running statistics of all workers: the same on every rank. Collective."""
        return {"workers": self.workers, "buffers": self.belongings.gathered(self.comm)}

    def load_state_dict(self, state: dict) -> None:
        """Take from it what belongs to this rank's workers. Raises InputError if it is of other workers."""
        names = [name for name, _, _ in self.belongings.places]
        if state["workers"] != self.workers or set(state["buffers"]) != set(names):
            raise InputError(
                f"a state of {state['workers']} workers with {sorted(state['buffers'])} does not fit {self.workers} "
                f"workers with {sorted(names)}"
            )
        self.belongings.take({w: [state["buffers"][name][w] for name in names] for w in self.my_workers})

    def _description(self, step: int) -> dict[str, str]:
        """What all ranks must have in common before they exchange anything."""
        named = {f"parameter {k}": f"{name} {p.data.shape} {p.data.dtype}" for k, (name, p) in enumerate(self.params)}
        kept = [self.params[k][0] for k in self.floats] if self.mode in EXCHANGES else "all"
        exchange = getattr(self.exchange, "__name__", type(self.exchange).__name__)
        told = {"step": step, "mode": self.mode, "exchange": exchange, "workers": self.workers, "in float": kept}
        return {key: str(value) for key, value in (told | vars(self.ternariser)).items()} | named | {
            "weights with checksum": f"{self.weights_crc():08x}"
        }  # fmt: skip

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


def bytes_per_step(
    ranks: int, ternary, scales: int, floats=(), *, mode: str = "ternary", workers: int | None = None, rank: int = 0
) -> int:
    """Bytes that a rank hands to mpi4py in one step.

        "ternary"  4 * scales + 8 * sum over ternary tensors of ceil(D / floor(64 / bits)), bits = ceil(log2(2 W + 1))
        "gather"   4 * scales + sum over ternary tensors of 32 + ceil(D / digits), digits in base 2 ceil(W / ranks) + 1
        both       + 4 * own workers * sum over float tensors of D
        "float"    4 * sum of D;  "ring32"  4 * the chunks that pass this rank, 2 (n - 1) / n D;  "ring16"  half of it

    ternary, floats: the number of elements D of each tensor;  scales: how many;  workers: W; None: one on each rank.
    """
    workers = ranks if workers is None else workers
    if mode == "float":
        return 4 * sum(floats)
    if mode in FLOATS:
        passing = [(rank - step) % ranks for step in range(2 * (ranks - 1))]
        numbers = sum(size * (chunk + 1) // ranks - size * chunk // ranks for size in floats for chunk in passing)
        return (4 if mode == "ring32" else 2) * numbers
    most = -(-workers // ranks)
    if mode == "gather":
        trits = sum(message_bytes(size, f"base{2 * most + 1}") for size in ternary)
    else:
        trits = sum(8 * field_words(size, workers) for size in ternary)
    return 4 * scales + trits + 4 * len(share_of(rank, ranks, workers)) * sum(floats)
