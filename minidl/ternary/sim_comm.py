"""Simulated ranks: n ranks in one process, with mpi4py's names, a clock of their own, and every message to look at.

    sim = SimComm(4, latency=1e-4, bandwidth=100e6 / 8)      seconds a message; bytes a second, in and out of each rank
    sim.run(lambda comm: comm.allgather(comm.Get_rank()))    [[0, 1, 2, 3]] * 4
    sim.seconds, sim.sent                                    what that took, and the bytes each rank sent for it
    for message in sim.walk(main): ...                       the same, held before each message is delivered
    run_script("train.py", ["--steps", "9"], n=4)            a script for mpirun, unchanged

A rank is a thread, but they take turns: one runs until it sends or waits, then the one whose clock is earliest goes on.
So every run is the same run, a wait that can never end is seen at once, and a debugger shows one rank at a time.
Collectives are made of messages from rank to rank, see collectives.py. The clock counts messages alone: computing takes
none of its time. Send does not wait for the receiver here; in MPI it may, with a large message.
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidl.errors import CommError, InputError
from minidl.ternary.collectives import Collectives
from minidl.ternary.comm import Counted, Request, simulated


class Message(NamedTuple):
    """One message between two ranks: the call it belongs to, when its first byte left, when its last was there."""

    source: int
    dest: int
    call: str
    bytes: int
    sent: float
    arrived: float
    data: np.ndarray


class _Over(BaseException):
    """Raised in ranks that still wait when the run has ended; no `except Exception` of theirs shall stop it."""


class _Seat:
    """What there is of one rank beside its thread: its turn, its clock, its mail."""

    def __init__(self, rank: int):
        self.rank, self.turn = rank, threading.Semaphore(0)
        self.clock = self.out_free = self.in_free = 0.0  # seconds; when its wires are free again
        self.mail: dict[tuple, deque[tuple[np.ndarray, float]]] = {}  # (communicator, source, call, tag) -> in order
        self.wants: tuple | None = None  # the mail it waits for
        self.polls = self.ended = False
        self.result: Any = None
        self.reported: dict = {}  # by report_result

    def ready(self) -> float:
        """When it can go on: inf if it has ended, or waits for what nobody has sent yet."""
        if self.ended:
            return math.inf
        if self.wants is None:
            return self.clock
        mail = self.mail.get(self.wants)
        return max(self.clock, mail[0][1]) if mail else math.inf


class SimComm:
    """n simulated ranks.

    latency: seconds between the last byte that leaves a rank and its arrival;  bandwidth: bytes a second, each way
    Errors: CommError names the rank that raised (its exception is the cause), or what each rank waits for if all do.
    """

    def __init__(self, n: int, *, latency: float = 0.0, bandwidth: float = math.inf):
        if n < 1:
            raise InputError(f"{n} ranks: at least 1 is needed")
        if not (0 <= latency < math.inf and bandwidth > 0):
            raise InputError(f"latency {latency} s and bandwidth {bandwidth} bytes/s: at least 0, and more than 0")
        self.n, self.latency, self.bandwidth = n, latency, bandwidth
        self._reset()

    def _reset(self) -> None:
        self._seats = [_Seat(rank) for rank in range(self.n)]
        self._here = threading.Semaphore(0)  # the turn of the thread that called run or walk
        self._held: Message | None = None
        self._failure: tuple[int, BaseException] | None = None
        self._over = False
        self.sent, self.received = [0] * self.n, [0] * self.n  # bytes, by rank

    @property
    def seconds(self) -> float:
        """What the clock of the last rank shows: the time all messages took."""
        return max(seat.clock for seat in self._seats)

    @property
    def results(self) -> list:
        """What main returned, by rank: after run, or after a walk to the end."""
        return [seat.result for seat in self._seats]

    def run(self, main: Callable[[Counted], Any]) -> list:
        """[main(comm) on rank 0, on rank 1, ...], each in a copy of this context. The clock starts at 0."""
        for _ in self._go(main, walking=False):
            pass
        return self.results

    def walk(self, main: Callable[[Counted], Any]) -> Iterator[Message]:
        """Run main on all ranks, and stop before each message is delivered: its receiver does not have it yet."""
        return self._go(main, walking=True)

    def _go(self, main, walking: bool) -> Iterator[Message]:
        self._reset()
        self._walking = walking
        threads = [
            threading.Thread(target=copy_context().run, args=(self._live, seat, main), name=f"rank {seat.rank}")
            for seat in self._seats
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        try:
            self._pass_on()
            self._here.acquire()
            while self._held is not None:
                yield self._held
                source, self._held = self._held.source, None
                self._seats[source].turn.release()
                self._here.acquire()
            self._judge()
        finally:  # also if the caller walks no further, or presses Ctrl-C
            self._over = True
            for seat in self._seats:
                seat.turn.release()
            for thread in threads:
                thread.join()

    def _judge(self) -> None:
        """Nobody can go on: because all have ended, or one has raised, or all wait."""
        if self._failure is not None:
            rank, error = self._failure
            if isinstance(error, SystemExit):
                raise CommError(f"rank {rank} left with exit status {error.code}") from error
            first = (str(error).splitlines() or [""])[0]
            raise CommError(f"rank {rank} raised {type(error).__name__}: {first}") from error
        if not all(seat.ended for seat in self._seats):
            raise CommError("no rank can go on: " + "; ".join(map(_whereabouts, self._seats)))

    def _live(self, seat: _Seat, main) -> None:
        """One rank's thread."""
        rank = _Rank(self, seat, ())
        simulated.set(rank)
        try:
            rank._await_turn()
            seat.result = main(Counted(rank))
        except _Over:
            return
        except BaseException as error:
            if not (isinstance(error, SystemExit) and error.code in (None, 0)):
                self._failure = self._failure or (seat.rank, error)
        seat.ended = True
        if self._failure:
            self._here.release()
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the rank that can go on earliest; to the caller if there is none."""
        ready = [seat for seat in self._seats if seat.ready() < math.inf]
        if ready:
            min(ready, key=lambda seat: (seat.polls, seat.ready(), seat.rank)).turn.release()
        else:
            self._here.release()


def _whereabouts(seat: _Seat) -> str:
    if seat.wants is None:
        return f"rank {seat.rank} has ended"
    _, source, call, tag = seat.wants
    return f"rank {seat.rank} waits in {call} for rank {source}" + (f" (tag {tag})" if call == "Recv" else "")


class _Rank(Collectives):
    """The communicator of one simulated rank: mpi4py's names, on plain contiguous arrays."""

    def __init__(self, world: SimComm, seat: _Seat, group: tuple[int, ...]):
        self._world, self._seat, self._group, self._dups = world, seat, group, 0
        self.rank, self.size = seat.rank, world.n

    def Dup(self) -> _Rank:
        self._dups += 1  # all ranks duplicate in the same order, so they agree on the number
        return _Rank(self._world, self._seat, (*self._group, self._dups))

    # -------------------------------------------------------------------------------- from rank to rank

    def _await_turn(self) -> None:
        self._seat.turn.acquire()
        if self._world._over:
            raise _Over

    def _send(self, data: np.ndarray, dest: int, call: str, tag: int = 0) -> None:
        """Put it on the wire, and give ranks that are earlier a turn."""
        world, seat = self._world, self._seat
        if not 0 <= dest < self.size:
            raise CommError(f"rank {self.rank} sends to rank {dest}, but there are {self.size} ranks")
        if world._over:
            raise _Over
        data, other = np.array(data).reshape(-1), world._seats[dest]
        start = arrived = seat.clock
        if other is not seat:
            start = max(seat.clock, seat.out_free)
            seat.out_free = start + data.nbytes / world.bandwidth
            arrived = max(start + world.latency, other.in_free) + data.nbytes / world.bandwidth
            other.in_free = arrived
            world.sent[self.rank] += data.nbytes
            world.received[dest] += data.nbytes
            if world._walking:
                world._held = Message(self.rank, dest, call, data.nbytes, start, arrived, data)
                world._here.release()
                self._await_turn()
        key = (self._group, self.rank, "Recv" if call in ("Send", "Isend") else call, tag)
        other.mail.setdefault(key, deque()).append((data, arrived))
        world._pass_on()
        self._await_turn()

    def _receive(self, source: int, call: str, tag: int = 0) -> np.ndarray:
        """Wait for the next message of that rank, call and tag; then it is at least as late as its arrival."""
        seat = self._seat
        if not 0 <= source < self.size:
            raise CommError(f"rank {self.rank} waits for rank {source}, but there are {self.size} ranks")
        if self._world._over:
            raise _Over
        seat.wants = (self._group, source, call, tag)
        self._world._pass_on()
        self._await_turn()
        data, arrived = seat.mail[seat.wants].popleft()
        seat.wants, seat.clock = None, max(seat.clock, arrived)
        return data

    def Send(self, buf, dest: int, tag: int = 0) -> None:
        self._send(buf, dest, "Send", tag)
        self._seat.clock = max(self._seat.clock, self._seat.out_free)

    def Isend(self, buf, dest: int, tag: int = 0) -> Request:
        self._send(buf, dest, "Isend", tag)
        return Request(lambda: None)

    def Recv(self, buf, source: int, tag: int = 0) -> None:
        self._receive_into(buf, source, "Recv", tag)

    def Irecv(self, buf, source: int, tag: int = 0) -> Request:
        def ready() -> bool:
            self._seat.polls = True
            self._world._pass_on()
            self._await_turn()
            self._seat.polls = False
            return bool(self._seat.mail.get((self._group, source, "Recv", tag)))

        return Request(lambda: self.Recv(buf, source, tag), ready)

    def report(self, result: dict) -> None:
        """What report_result does here: the values as they would come out of a real rank's files."""
        arrays = {key: np.array(value) for key, value in result.items() if isinstance(value, np.ndarray)}
        rest = {key: value for key, value in result.items() if key not in arrays}
        self._seat.reported |= json.loads(json.dumps(rest)) | arrays


# ------------------------------------------------------------------------------------------------ a whole script


def run_script(
    path: str, argv: list[str], n: int, *, each: Callable[[Message], Any] | None = None, **clock: float
) -> list[dict]:
    """Run a Python script on n simulated ranks: `world()` in it is a simulated rank. What each gave to report_result.

    each: called with every message before it is delivered;  clock: latency and bandwidth, as of SimComm
    The ranks share this process, and so its modules, sys.argv, and the files they open; each has its own globals.
    """
    file = Path(path).resolve()
    code = compile(file.read_bytes(), str(file), "exec")
    sim, before = SimComm(n, **clock), (sys.argv, sys.path)
    sys.argv, sys.path = [str(path), *argv], [str(file.parent), *sys.path]
    main = lambda comm: exec(code, {"__name__": "__main__", "__file__": str(file)})
    try:
        if each is None:
            sim.run(main)
        else:
            for message in sim.walk(main):
                each(message)
    finally:
        sys.argv, sys.path = before
    return [seat.reported for seat in sim._seats]
