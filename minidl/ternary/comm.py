"""Ranks that talk: mpi4py's communicator, with every byte counted at the call.

A communicator here is anything with mpi4py's names: `MPI.COMM_WORLD`, the single rank below, or simulated ranks.
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
from collections import Counter
from contextlib import contextmanager

import numpy as np

from minidl.errors import CommError

SUM, MAX = "SUM", "MAX"
"""The operations by name, so that code needs no mpi4py to say them. Counted translates them to MPI.SUM and MPI.MAX."""


class Ledger:
    """Bytes this rank handed to the communicator, by (call, tensor, phase)."""

    def __init__(self):
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self._subject = ("", "")

    @contextmanager
    def about(self, tensor: str, phase: str):
        """Enter what is sent inside the block under this tensor and phase."""
        before, self._subject = self._subject, (tensor, phase)
        try:
            yield
        finally:
            self._subject = before

    def enter(self, call: str, size: int) -> None:
        self.bytes[(call, *self._subject)] += size
        self.calls[(call, *self._subject)] += 1

    def total(self, *, call: str | None = None, tensor: str | None = None, phase: str | None = None) -> int:
        """The bytes of all entries that match what is given."""
        wanted = (call, tensor, phase)
        matches = lambda entry: all(w in (None, e) for w, e in zip(wanted, entry, strict=True))
        return sum(size for entry, size in self.bytes.items() if matches(entry))


class Counted:
    """A communicator with mpi4py's names that enters every buffer in its ledger before it passes it on."""

    def __init__(self, comm):
        self.comm, self.ledger = comm, Ledger()

    def Get_rank(self) -> int:
        return self.comm.Get_rank()

    def Get_size(self) -> int:
        return self.comm.Get_size()

    def Allreduce(self, sendbuf: np.ndarray, recvbuf: np.ndarray, op=SUM) -> None:
        self.ledger.enter("Allreduce", sendbuf.nbytes)
        self.comm.Allreduce(sendbuf, recvbuf, op=self._operation(op))

    def Allgather(self, sendbuf: np.ndarray, recvbuf: np.ndarray) -> None:
        self.ledger.enter("Allgather", sendbuf.nbytes)
        self.comm.Allgather(sendbuf, recvbuf)

    def Bcast(self, buf: np.ndarray, root: int = 0) -> None:
        self.ledger.enter("Bcast", buf.nbytes if self.Get_rank() == root else 0)
        self.comm.Bcast(buf, root=root)

    def bcast(self, obj, root: int = 0):
        self.ledger.enter("bcast", len(pickle.dumps(obj)) if self.Get_rank() == root else 0)
        return self.comm.bcast(obj, root=root)

    def Barrier(self) -> None:
        self.comm.Barrier()

    def _operation(self, op):
        if isinstance(op, str) and type(self.comm).__module__.startswith("mpi4py"):
            from mpi4py import MPI

            return getattr(MPI, op)
        return op


class OneRank:
    """A world of one: what a rank says, it hears itself. Used where MPI is not installed."""

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 1

    def Allreduce(self, sendbuf, recvbuf, op=SUM) -> None:
        recvbuf[...] = sendbuf

    def Allgather(self, sendbuf, recvbuf) -> None:
        recvbuf.reshape(sendbuf.shape)[...] = sendbuf

    def Bcast(self, buf, root: int = 0) -> None:
        pass

    def bcast(self, obj, root: int = 0):
        return obj

    def Barrier(self) -> None:
        pass


def world() -> Counted:
    """All ranks of this job: mpi4py's COMM_WORLD, or one rank where MPI is not installed.

    Raises CommError where mpirun started several processes and each of them believes to be alone.
    """
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
