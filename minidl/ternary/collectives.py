"""Collectives, written in messages from one rank to another, as the textbooks have them.

    Allreduce       a ring: n - 1 steps to add, n - 1 more to pass the sums round        2 (n - 1) (alpha + D / n beta)
    Allgather(v)    a ring: what comes from the left goes on to the right                   (n - 1) (alpha + D beta)
    Alltoall(v)     in step k, send to the rank k places on                             (n - 1) (alpha + D / n beta)
    Bcast           a binomial tree: each step, twice as many have it            at most ceil(lg n) (alpha + D beta)
    Barrier         in step k, send to the rank 2^k places on                            ceil(lg n) alpha

alpha: seconds a message takes; beta: seconds a byte takes; D: bytes of a rank's buffer.

An MPI library chooses among such algorithms by size and network. Integers have the same sums whichever it takes; floats
are added in another order, and may differ in their last bits. Here chunk k of an Allreduce is added from rank k on.
Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 2005.
"""

from __future__ import annotations

import pickle

import numpy as np

from minidl.errors import CommError

SUM, MAX = "SUM", "MAX"
"""The operations by name, so that code needs no mpi4py to say them."""


class Collectives:
    """mpi4py's collective calls on contiguous arrays, for a communicator that can send and receive.

    What it needs: `rank`, `size`, `_send(array, dest, call, tag=0)`, which does not wait for the receiver, and
    `_receive(source, call, tag=0)`, which gives the array sent for the same call, as a flat one.
    Errors: CommError where sizes clash between ranks, or counts do not fit a buffer.
    """

    rank: int
    size: int

    def _send(self, data: np.ndarray, dest: int, call: str, tag: int = 0) -> None:
        raise NotImplementedError

    def _receive(self, source: int, call: str, tag: int = 0) -> np.ndarray:
        raise NotImplementedError

    def Get_rank(self) -> int:
        return self.rank

    def Get_size(self) -> int:
        return self.size

    def _receive_into(self, room: np.ndarray, source: int, call: str, tag: int = 0) -> None:
        self._put(self._receive(source, call, tag), room, source, call)

    def _put(self, data: np.ndarray, room: np.ndarray, source: int, call: str) -> None:
        if data.nbytes != room.nbytes:
            raise CommError(
                f"rank {self.rank} has room for {room.nbytes} bytes from rank {source} in {call}, "
                f"but {data.nbytes} came: all ranks must use the same sizes and dtypes"
            )
        room.reshape(-1).view(np.uint8)[...] = data.view(np.uint8)

    def Barrier(self) -> None:
        far = 1
        while far < self.size:
            self._send(np.empty(0, np.uint8), (self.rank + far) % self.size, "Barrier")
            self._receive((self.rank - far) % self.size, "Barrier")
            far *= 2

    def Allreduce(self, sendbuf, recvbuf, op=SUM) -> None:
        rank, n = self.rank, self.size
        combine = np.add if op == SUM else np.maximum
        total = np.array(sendbuf).reshape(-1)
        chunks = [total[total.size * k // n : total.size * (k + 1) // n] for k in range(n)]
        for step in range(2 * (n - 1)):
            self._send(chunks[(rank - step) % n], (rank + 1) % n, "Allreduce")
            chunk = chunks[(rank - step - 1) % n]
            coming = np.empty_like(chunk)
            self._receive_into(coming, (rank - 1) % n, "Allreduce")
            chunk[...] = combine(coming, chunk) if step < n - 1 else coming
        recvbuf.reshape(-1)[...] = total

    def Allgather(self, sendbuf, recvbuf) -> None:
        self._gather("Allgather", sendbuf, recvbuf, [sendbuf.size] * self.size)

    def Allgatherv(self, sendbuf, recvbuf) -> None:
        self._gather("Allgatherv", sendbuf, *recvbuf)

    def _gather(self, call: str, own, room, counts) -> None:
        parts = self._parts(call, room, counts)
        parts[self.rank][...] = own.reshape(-1)
        for step in range(self.size - 1):
            self._send(parts[(self.rank - step) % self.size], (self.rank + 1) % self.size, call)
            self._receive_into(parts[(self.rank - step - 1) % self.size], (self.rank - 1) % self.size, call)

    def Alltoall(self, sendbuf, recvbuf) -> None:
        self._exchange("Alltoall", *([buf, [buf.size // self.size] * self.size] for buf in (sendbuf, recvbuf)))

    def Alltoallv(self, sendbuf, recvbuf) -> None:
        self._exchange("Alltoallv", sendbuf, recvbuf)

    def _exchange(self, call: str, sendbuf, recvbuf) -> None:
        going, coming = self._parts(call, *sendbuf), self._parts(call, *recvbuf)
        coming[self.rank][...] = going[self.rank]
        for far in range(1, self.size):
            to, from_ = (self.rank + far) % self.size, (self.rank - far) % self.size
            self._send(going[to], to, call)
            self._receive_into(coming[from_], from_, call)

    def _parts(self, call: str, buf: np.ndarray, counts) -> list[np.ndarray]:
        """Views of a buffer, one for each rank."""
        if len(counts) != self.size or sum(counts) != buf.size:
            raise CommError(
                f"{call} on rank {self.rank}: {len(counts)} counts that add up to {sum(counts)}, "
                f"for {self.size} ranks and a buffer of {buf.size} elements"
            )
        return np.split(buf.reshape(-1), np.cumsum(counts)[:-1])

    def Bcast(self, buf, root: int = 0) -> None:
        data = self._tree("Bcast", buf.reshape(-1), root)
        self._put(data, buf, root, "Bcast")

    def _tree(self, call: str, data: np.ndarray, root: int) -> np.ndarray:
        """The root's data; what the others pass does not count."""
        place, reach = (self.rank - root) % self.size, 1  # places below `reach` have the data
        while reach < self.size:
            if place < reach and place + reach < self.size:
                self._send(data, (self.rank + reach) % self.size, call)
            elif reach <= place < 2 * reach:
                data = self._receive((self.rank - reach) % self.size, call)
            reach *= 2
        return data

    def bcast(self, obj, root: int = 0):
        own = np.frombuffer(pickle.dumps(obj if self.rank == root else None), np.uint8)
        return pickle.loads(self._tree("bcast", own, root).tobytes())

    def allgather(self, obj) -> list:
        every = {self.rank: np.frombuffer(pickle.dumps(obj), np.uint8)}
        for step in range(self.size - 1):
            self._send(every[(self.rank - step) % self.size], (self.rank + 1) % self.size, "allgather")
            every[(self.rank - step - 1) % self.size] = self._receive((self.rank - 1) % self.size, "allgather")
        return [pickle.loads(every[rank].tobytes()) for rank in range(self.size)]
