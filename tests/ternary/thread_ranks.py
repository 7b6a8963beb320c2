"""Ranks as threads of the test's own process: what needs several ranks, without starting any."""

from __future__ import annotations

import copy
import queue
import threading

import numpy as np

from minidl.ternary.comm import MAX, SUM, Counted


def run(n, main):
    """[main(comm) of rank 0, of rank 1, ...]; what the first rank that failed has raised is raised here."""
    world = World(n)
    results, errors = [None] * n, []

    def one(rank):
        try:
            results[rank] = main(Counted(Rank(world, rank)))
        except BaseException as error:
            errors.append(error)
            world.turn.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return results


class World:
    def __init__(self, n):
        self.size, self.said, self.turn = n, [None] * n, threading.Barrier(n, timeout=60)
        self.mail = {(a, b): queue.Queue() for a in range(n) for b in range(n)}


class Rank:
    """Collectives by putting everything on one table; sums in rank order."""

    def __init__(self, world, rank):
        self.world, self.rank = world, rank

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.world.size

    def _everyone(self, what):
        self.world.said[self.rank] = copy.deepcopy(what)
        self.world.turn.wait()
        every = copy.deepcopy(self.world.said)
        self.world.turn.wait()
        return every

    def Barrier(self):
        self.world.turn.wait()

    def allgather(self, what):
        return self._everyone(what)

    def bcast(self, what, root=0):
        return self._everyone(what)[root]

    def Allreduce(self, mine, total, op=SUM):
        total[...] = 0 if op == SUM else mine
        for theirs in self._everyone(mine):
            (np.maximum if op == MAX else np.add)(total, theirs, out=total)

    def Allgather(self, mine, every):
        every.reshape(self.world.size, -1)[...] = [theirs.reshape(-1) for theirs in self._everyone(mine)]

    def Allgatherv(self, mine, every):
        every[0].reshape(-1)[...] = np.concatenate([theirs.reshape(-1) for theirs in self._everyone(mine)])

    def Isend(self, mine, dest, tag=0):
        self.world.mail[self.rank, dest].put(mine.copy())
        return Request(lambda: None)

    def Irecv(self, out, source, tag=0):
        def finish():
            out[...] = self.world.mail[source, self.rank].get(timeout=60)

        return Request(finish)


class Request:
    def __init__(self, finish):
        self.Wait = finish
