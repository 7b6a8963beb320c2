"""Virtual workers: W equal partners in a training, on however many ranks there are.

    for w in parallel.my_workers:
        with parallel.worker(w, step):
            cross_entropy(model(shard(x, w, W)), shard(y, w, W)).backward()
    parallel.reduce(step)
    optimizer.step()

A worker is what the method counts: a share of the batch, ternary draws, masks of dropout and running statistics of
BatchNorm of its own. A rank is a process, and stands for one worker or for several, one after the other. What is
computed depends on the workers alone, so 8 of them end with the same bits on 1, 2, 3 or 8 ranks.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minidl import checkpoint
from minidl.callbacks import SaveEvery
from minidl.errors import CommError, InputError


def shard(rows, worker: int, workers: int):
    """The rows of a batch that are this worker's: every W-th, so that no worker gets one end of sorted rows."""
    return rows[worker::workers]


def agree(comm, description: dict) -> None:
    """Compare what the ranks are about to train, before anything is exchanged. Collective.

    Raises CommError on every rank: the first entry that differs, what the rank has there, and what rank 0 has.
    """
    every = comm.allgather(description)
    for rank, theirs in enumerate(every):
        for key in sorted(every[0].keys() | theirs.keys()):
            has, first = theirs.get(key, "none"), every[0].get(key, "none")
            if has != first:
                raise CommError(
                    f"rank {rank} has {key} {has}, rank 0 {first}: all ranks must start the same script with the same "
                    "options, seed and checkpoint"
                )


class Belongings:
    """What each worker of this rank has for itself in a model: running statistics, and the draws of dropout.

    The model holds the running statistics of the worker whose turn it is. Dropout draws from Generators made of (seed,
    step, worker, place in the model), so that nothing of them has to be kept.
    """

    def __init__(self, model, workers: range, seed: int):
        self.workers, self.seed = workers, seed
        modules = [] if model is None else list(model.named_modules())
        self.places = [
            (f"{name}.{buffer}".lstrip("."), module, buffer)
            for name, module in modules for buffer in module.buffers if getattr(module, buffer).dtype.kind == "f"
        ]  # fmt: skip
        self.draws = [
            (module, key) for _, module in modules for key, value in vars(module).items()
            if isinstance(value, np.random.Generator)
        ]  # fmt: skip
        self._of = dict.fromkeys(workers, self._in_the_model())

    def _in_the_model(self) -> list[np.ndarray]:
        return [getattr(module, buffer) for _, module, buffer in self.places]

    def _into_the_model(self, arrays) -> None:
        for (_, module, buffer), array in zip(self.places, arrays, strict=True):
            setattr(module, buffer, array)

    @contextmanager
    def of(self, worker: int, step: int):
        """Inside the block the model is this worker's."""
        before = [getattr(module, key) for module, key in self.draws]
        self._into_the_model(self.own()[worker])
        for k, (module, key) in enumerate(self.draws):
            setattr(module, key, np.random.default_rng([self.seed, step, worker, k]))
        try:
            yield
        finally:
            self._of[worker] = self._in_the_model()
            for (module, key), rng in zip(self.draws, before, strict=True):
                setattr(module, key, rng)

    def own(self) -> dict[int, list[np.ndarray]]:
        """The running statistics of this rank's workers; of an only one they are those in the model."""
        if len(self.workers) == 1:
            self._of[self.workers[0]] = self._in_the_model()
        return self._of

    def take(self, of: dict[int, list[np.ndarray]]) -> None:
        self._of = of
        self._into_the_model(of[self.workers[0]])

    def gathered(self, comm) -> dict[str, np.ndarray]:
        """{name: (W, ...)}, the running statistics of the workers of all ranks, in worker order. Collective."""
        rows = [row for of_rank in comm.allgather(self.own()) for row in of_rank.values()]
        return {name: np.stack([row[i] for row in rows]) for i, (name, _, _) in enumerate(self.places)}

    @contextmanager
    def averaged(self, comm):
        """Inside the block the model holds the mean of all workers' running statistics. Collective."""
        before, means = self.own(), self.gathered(comm)
        self._into_the_model([means[name].mean(axis=0, dtype=np.float64).astype(means[name].dtype) for name in means])
        try:
            yield
        finally:
            self.take(before)


class SaveOnRank0(SaveEvery):
    """SaveEvery for ranks: rank 0 alone reads and writes the file, and what all workers have for themselves is in it.

        saver = SaveOnRank0("run.npz", parallel, 100)
        start = saver.resume(model, optimizer)            # on every rank; only rank 0 needs to see the file

    The run goes on with the same bits, also on another number of ranks (under the same virtual workers, BLAS kernel and
    number of threads). The model in the file has the mean of all workers' running statistics. data, rngs: those of
    rank 0 are kept for all, so each rank reads the whole batches and takes its shards. The losses are rank 0's.
    """

    def __init__(self, path, parallel, every: int = 100, *, data=None, rngs=None):
        super().__init__(path, every, data=data, rngs=rngs)
        self.parallel = parallel
        self._state: dict = {}

    def resume(self, model, optimizer) -> int:
        """Load rank 0's checkpoint, if there is one, on every rank. Collective. Returns the steps that are done."""
        comm = self.parallel.comm
        first = comm.Get_rank() == 0
        content = comm.bcast(self.path.read_bytes() if first and self.path.exists() else None)
        if content is None:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            path = self.path if first else Path(folder) / self.path.name
            if not first:
                path.write_bytes(content)
            found = checkpoint.load(path, model=model, optimizer=optimizer, **self.members)
        if "parallel" not in found.extra:
            raise InputError(f"{self.path} was not written by SaveOnRank0: it has nothing of the workers")
        self._past = found.extra
        self.parallel.load_state_dict(found.extra["parallel"])
        return found.step

    def extra(self) -> dict:
        return {"parallel": self._state}

    def _save(self, run, step):
        self._state = self.parallel.state_dict()
        with self.parallel.averaged():
            if self.parallel.comm.Get_rank() == 0:
                super()._save(run, step)
