"""Ranks that talk: mpi4py's communicator, with every byte counted at the call.

A communicator here is anything with mpi4py's names: `MPI.COMM_WORLD`, a simulated rank, or the single rank below.
`Counted` wraps one of them and keeps a ledger: for each call, tensor and phase, the bytes of the buffer handed to
mpi4py, which is what this rank has to say. What the MPI library makes of it (rounds, envelopes) is its own affair.

    comm = world()
    with comm.ledger.about("conv1.weight", "sum"):
        comm.Allreduce(words, total, op=SUM)
    comm.ledger.total(phase="sum")
"""

from __future__ import annotations

import os
import pickle
import threading
from array import array
from collections import Counter, deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidl.errors import CommError
from minidl.ternary.collectives import MAX, SUM, Collectives

__all__ = ["MAX", "SUM", "Counted", "Ledger", "OneRank", "Request", "check_size", "simulated", "world"]

simulated: ContextVar[Any] = ContextVar("simulated", default=None)
"""The communicator of the simulated rank whose code this is, or None: see sim_comm."""


class Ledger:
    """Bytes this rank handed to the communicator, by (call, tensor, phase, step).

    step: the step that entries belong to, -1 before the first; a loop sets it. Threads may write at the same time: what
    one says with `about` holds for that thread alone.
    """

    def __init__(self):
        self.step = -1
        self._entries: dict[tuple[str, str, str], tuple[array, array]] = {}  # -> steps, bytes: 16 bytes an entry
        self._lock, self._here = threading.Lock(), threading.local()

    @contextmanager
    def about(self, tensor: str, phase: str, step: int | None = None):
        """Enter what is sent inside the block under this tensor and phase, and under this step if one is given."""
        before = self._subject()
        self._here.subject = (tensor, phase, before[2] if step is None else step)
        try:
            yield
        finally:
            self._here.subject = before

    def enter(self, call: str, size: int) -> None:
        tensor, phase, step = self._subject()
        with self._lock:
            steps, sizes = self._entries.setdefault((call, tensor, phase), (array("q"), array("q")))
            steps.append(self.step if step is None else step)
            sizes.append(size)

    def _subject(self) -> tuple[str, str, int | None]:
        return getattr(self._here, "subject", ("", "", None))

    @property
    def calls(self) -> Counter[tuple[str, str, str]]:
        """How often each (call, tensor, phase) was entered."""
        return Counter({entry: len(sizes) for entry, (_, sizes) in self._entries.items()})

    def total(self, *, call=None, tensor=None, phase=None, step: int | None = None) -> int:
        """The bytes of all entries that match what is given."""
        found = 0
        for entry, (steps, sizes) in self._entries.items():
            if all(wanted in (None, is_) for wanted, is_ in zip((call, tensor, phase), entry, strict=True)):
                found += sum(size for at, size in zip(steps, sizes, strict=True) if step in (None, at))
        return found

    def table(self) -> str:
        """All entries as text, one line for each call, tensor and phase: times called, steps, bytes in all."""
        rows = [f"{'call':11} {'tensor':20} {'phase':8} {'calls':>7} {'steps':>9} {'bytes':>15}"]
        for (call, tensor, phase), (steps, sizes) in self._entries.items():
            first, last = min(steps), max(steps)
            span = f"{first}..{last}" if first < last else f"{first}"
            rows.append(f"{call:11} {tensor:20} {phase:8} {len(sizes):>7,} {span:>9} {sum(sizes):>15,}")
        return "\n".join([*rows, f"{'all':58} {self.total():>15,}"])


def _counted(call: str):
    """A method that enters its first buffer (an array, or [array, counts]) and passes everything on."""

    def method(self, sendbuf, *others, **named):
        self.ledger.enter(call, (sendbuf[0] if isinstance(sendbuf, list | tuple) else sendbuf).nbytes)
        return getattr(self.comm, call)(sendbuf, *others, **named)

    return method


class Counted:
    """A communicator with mpi4py's names that enters every buffer in its ledger before it passes it on."""

    def __init__(self, comm, ledger: Ledger | None = None):
        self.comm, self.ledger = comm, ledger or Ledger()

    def Get_rank(self) -> int:
        return self.comm.Get_rank()

    def Get_size(self) -> int:
        return self.comm.Get_size()

    def Dup(self) -> Counted:
        """The same ranks, whose messages never meet those of this communicator; with the same ledger. Collective."""
        return Counted(self.comm.Dup(), self.ledger)

    def Barrier(self) -> None:
        self.comm.Barrier()

    def Allreduce(self, sendbuf: np.ndarray, recvbuf: np.ndarray, op=SUM) -> None:
        self.ledger.enter("Allreduce", sendbuf.nbytes)
        self.comm.Allreduce(sendbuf, recvbuf, op=self._operation(op))

    Allgather = _counted("Allgather")  # (sendbuf, recvbuf)
    Allgatherv = _counted("Allgatherv")  # (sendbuf, [recvbuf, counts]): counts[r] elements from rank r, in rank order
    Alltoall = _counted("Alltoall")  # (sendbuf, recvbuf): equal parts, part r for rank r and from rank r
    Alltoallv = _counted("Alltoallv")  # ([sendbuf, counts], [recvbuf, counts])
    Send = _counted("Send")  # (buf, dest, tag)
    Isend = _counted("Isend")  # (buf, dest, tag) -> request

    def Recv(self, buf: np.ndarray, source: int, tag: int = 0) -> None:
        self.comm.Recv(buf, source, tag)

    def Irecv(self, buf: np.ndarray, source: int, tag: int = 0):
        return self.comm.Irecv(buf, source, tag)

    def Bcast(self, buf: np.ndarray, root: int = 0) -> None:
        self.ledger.enter("Bcast", buf.nbytes if self.Get_rank() == root else 0)
        self.comm.Bcast(buf, root=root)

    def bcast(self, obj, root: int = 0):
        self.ledger.enter("bcast", len(pickle.dumps(obj)) if self.Get_rank() == root else 0)
        return self.comm.bcast(obj, root=root)

    def allgather(self, obj) -> list:
        self.ledger.enter("allgather", len(pickle.dumps(obj)))
        return self.comm.allgather(obj)

    def _operation(self, op):
        if isinstance(op, str) and type(self.comm).__module__.startswith("mpi4py"):
            from mpi4py import MPI

            return getattr(MPI, op)
        return op


class OneRank(Collectives):
    """A world of one: what a rank says, it hears itself. Used where MPI is not installed."""

    rank, size = 0, 1

    def __init__(self):
        self._mail: dict[int, deque[np.ndarray]] = {}  # tag -> what was sent and not yet received

    def Dup(self) -> OneRank:
        return OneRank()

    def Send(self, buf, dest: int, tag: int = 0) -> None:
        self._mail.setdefault(tag, deque()).append(np.array(buf).reshape(-1))

    def Isend(self, buf, dest: int, tag: int = 0) -> Request:
        self.Send(buf, dest, tag)
        return Request(lambda: None)

    def Recv(self, buf, source: int, tag: int = 0) -> None:
        if not self._mail.get(tag):
            raise CommError(f"this rank is alone and waits for a message (tag {tag}) that it has not sent")
        self._put(self._mail[tag].popleft(), buf, source, "Recv")

    def Irecv(self, buf, source: int, tag: int = 0) -> Request:
        return Request(lambda: self.Recv(buf, source, tag), lambda: bool(self._mail.get(tag)))


class Request:
    """What Isend and Irecv give back: the call that is still to be done."""

    def __init__(self, finish, ready=lambda: True):
        self._finish, self._ready = finish, ready

    def Wait(self) -> bool:
        finish = self._finish
        self._finish, self._ready = lambda: None, lambda: True
        finish()
        return True

    def Test(self) -> bool:
        """True if it is done, and then as after Wait; else it is still to be done."""
        return self._ready() and self.Wait()


def world() -> Counted:
    """All ranks of this job: mpi4py's COMM_WORLD, the simulated ranks, or one rank where MPI is not installed.

    Raises CommError where mpirun started several processes and each of them believes to be alone.
    """
    if simulated.get() is not None:
        return Counted(simulated.get())
    try:
        import mpi4py

        mpi4py.rc(initialize=False, finalize=True)  # look first: MPICH aborts if it is initialised below another mpirun
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # no mpi4py; or mpi4py without an MPI library to load
        check_size(1, os.environ, "no MPI library that mpi4py can load")
        return Counted(OneRank())
    library = " ".join(MPI.Get_library_version().partition(",")[0].splitlines()[0].strip("\x00").split())
    if not MPI.Is_initialized():
        if "OMPI_COMM_WORLD_SIZE" in os.environ and not library.startswith("Open MPI"):
            check_size(1, os.environ, library)
        MPI.Init_thread()
    check_size(MPI.COMM_WORLD.Get_size(), os.environ, library)
    return Counted(MPI.COMM_WORLD)


def check_size(size: int, environ, library: str) -> None:
    """Compare the number of ranks MPI sees with the number mpirun says it started; raise CommError where they clash.

    An mpirun of one MPI under a program of another starts n processes that are each rank 0 of 1, and train n times
    the same. Only the environment tells: PMI_SIZE (MPICH, Intel), OMPI_COMM_WORLD_SIZE, MPI_LOCALNRANKS (one machine).
    """
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        promised = int(environ.get(variable, size))
        if promised > size or (promised != size and variable != "MPI_LOCALNRANKS"):
            raise CommError(
                f"mpirun started {promised} processes ({variable}={promised}), but MPI sees {size} in this one: the "
                f"mpirun is not the one that belongs to mpi4py ({library}). "
                f"Start with: minidl mpirun -n {promised} SCRIPT"
            )
