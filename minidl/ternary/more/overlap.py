"""Exchanging gradients while backward still runs: a thread of its own, and buckets in the order they are ready.

    with Overlap(parallel) as overlap:
        for step in ...:
            for w in parallel.my_workers:
                with overlap.worker(w, step):
                    loss.backward()              # the last layer's gradient is there first, and leaves first
            overlap.reduce(step)                 # waits for what is still on its way
            optimizer.step()

Backward computes the last layer's gradients first, so their exchange can hide behind the computing of the others. MPI's
nonblocking calls hide little: most libraries move data only inside a call. A thread that blocks in an ordinary call on
a communicator of its own hides nearly all of it (and NumPy's and Numba's kernels let go of Python's lock).

The bits are those of `parallel.reduce`: scales belong to tensors or layers, and no bucket splits one. All ranks must
start exchanges in the same order, so a bucket waits for those before it, whichever gradient is ready first.
Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020 (buckets).
"""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from minidl.errors import InputError
from minidl.ternary.comm import simulated
from minidl.ternary.heartbeat import beat

BUCKET = 1 << 20
"""Bytes of float32 gradients in a bucket: few enough that the first leaves early, enough that a message's start is
small beside it."""


class Overlap:
    """Wraps a DataParallel whose parameters are Tensors; its gradients travel as soon as they are there.

    bucket_bytes: how many bytes of gradients (as float32) one bucket holds at least, but for the last
    Simulated ranks have one thread each: there each bucket is exchanged at once, with the same bits and bytes.
    Errors: what the exchange raised is raised by `reduce`; InputError if a gradient comes twice in one step.
    """

    def __init__(self, parallel, bucket_bytes: int = BUCKET):
        for name, p in parallel.params:
            if not hasattr(p, "register_post_accumulate_grad_hook"):
                raise InputError(f"{name} is a {type(p).__name__}: only a Tensor tells when its gradient is there")
        self.parallel, self.comm = parallel, parallel.comm.Dup()
        self.buckets = self._buckets(bucket_bytes)
        self._handles = [
            p.register_post_accumulate_grad_hook(lambda p, k=k: self._arrived(k, p))
            for k, (_, p) in enumerate(parallel.params)
        ]
        self._worker: int | None = None  # the last of this rank's workers, while its block is open
        self._begin(-1)
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._done: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = None
        if simulated.get() is None:
            self._thread = threading.Thread(
                target=copy_context().run, args=(self._exchange_all,), name="exchange", daemon=True
            )
            self._thread.start()

    def _buckets(self, least: int) -> list[list[int]]:
        """Numbers of parameters, the last first; those that share a scale stay together."""
        parallel = self.parallel
        groups = [[k] for k in parallel.floats] + parallel._groups(parallel.ternary)
        buckets: list[list[int]] = [[]]
        for group in sorted(groups, key=max, reverse=True):
            if sum(4 * parallel.params[k][1].data.size for k in buckets[-1]) >= least:
                buckets.append([])
            buckets[-1] += group
        return buckets

    def _begin(self, step: int) -> None:
        self._step, self._sent = step, 0  # how many buckets are on their way
        self._local: dict[int, Any] = {}  # the gradients of the open block, by number of the parameter

    @contextmanager
    def worker(self, w: int, step: int):
        """As `parallel.worker`; in the block of this rank's last worker gradients leave as they come."""
        with self.parallel.worker(w, step):
            if w == self.parallel.my_workers[-1]:
                self._begin(step)
                self._worker = w
            try:
                yield
            finally:
                self._worker = None

    def _arrived(self, k: int, p) -> None:
        """Called by backward when p.grad is there."""
        if self._worker is None:
            return
        if k in self._local:
            raise InputError(
                f"{self.parallel.params[k][0]} got its gradient twice in step {self._step}: with Overlap it has left "
                "after the first backward(); call backward() once in each block, or use parallel.reduce"
            )
        self._local[k] = p.grad
        while self._sent < len(self.buckets) and all(k in self._local for k in self.buckets[self._sent]):
            grads = {w: dict(enumerate(g)) for w, g in self.parallel._kept.items()} | {self._worker: self._local}
            job = (self.buckets[self._sent], grads, self._step)
            self._sent += 1
            if self._thread is None:
                self._done.put(self._exchange(*job))
            else:
                self._jobs.put(job)

    def _exchange(self, bucket: list[int], grads, step: int) -> dict:
        """The means of one bucket; the first comes after the ranks have agreed on what they train."""
        parallel = self.parallel
        if bucket is self.buckets[0]:
            parallel.agree(step)
        floats, ternary = ([k for k in bucket if k in part] for part in (parallel.floats, parallel.ternary))
        return dict(parallel.means(floats, sorted(ternary), grads, step, self.comm))

    def _exchange_all(self) -> None:
        """The thread: one bucket after the other, until there are no more."""
        while (job := self._jobs.get()) is not None:
            try:
                self._done.put(self._exchange(*job))
            except BaseException as error:
                self._done.put(error)

    def reduce(self, step: int) -> None:
        """Wait until every p.grad is its mean over all workers. Collective, in place of `parallel.reduce`."""
        beat(step)
        grads = self.parallel._gradients(step)
        if self._step != step or self._sent < len(self.buckets):
            raise InputError(
                f"{self._sent if self._step == step else 0} of {len(self.buckets)} buckets have left in step {step}: "
                f"backward() belongs into overlap.worker(w, {step}), once for each of this rank's workers"
            )
        for _ in self.buckets:
            means = self._done.get()
            if isinstance(means, BaseException):
                raise means
            for k, mean in means.items():
                self.parallel._replace(k, grads, mean)
        self._begin(-1)

    def close(self) -> None:
        """End the thread, and let backward alone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Overlap:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is None or self._thread is None:
            self.close()  # after an error the thread may wait for ranks that have ended: it ends with the process
