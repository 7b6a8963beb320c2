"""Heartbeats: every rank tells its launcher that it lives, how far it is, and why it ends.

    rank:      python -m minidl.ternary.heartbeat script.py       what run_ranks starts: `python -m mpi4py`, and a heart
               beat(step)                                         the reduce of DataParallel does so
    launcher:  Listener().verdict(stall) -> "rank 1 was killed ..., last heard of at step 41"

Each rank keeps a TCP connection to the launcher. Twice a second it says at which line of code it is, at once each step,
and at its end what it raised. So four failures are told apart: a rank that raises says so; of a killed one the kernel
closes the connection; a stopped one falls silent; where all wait for a message that nobody sends, no rank moves on.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer

from minidl.errors import CommError

HEART = "MINIDL_HEART"
"""The environment variable that tells a rank where its launcher listens: host, port and a password."""
BEAT = 0.5
"""Seconds between two signs of life."""
KILLED = "was killed, or left by os._exit"
"""What no rank can say of itself: its connection ends without a last word."""

# ------------------------------------------------------------------------------------------------ in a rank


class Heart:
    """A rank's connection to its launcher."""

    def __init__(self, address: str):
        host, port, password = address.split()
        try:
            self.line = socket.create_connection((host, int(port)), timeout=10)
        except OSError as error:
            raise CommError(f"rank {my_rank()} does not reach its launcher at {host}:{port}: {error}") from None
        self.line.settimeout(None)
        self.line.sendall(f"{password} {my_rank()}\n".encode())
        self.turn = threading.Lock()

    def tell(self, **news) -> None:
        with self.turn:
            self.line.sendall(json.dumps(news).encode() + b"\n")

    def keep_beating(self) -> None:
        """In a thread of its own: say where this rank is, until it ends or its launcher does."""
        while not select.select([self.line], [], [], BEAT)[0]:
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            self.tell(where=f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
        os._exit(1)  # the launcher never writes: it was killed, and its ranks shall not outlive it


heart: Heart | None = None


def beat(step: int) -> None:
    """Tell the launcher that this rank has come to step `step`. Silent where no launcher listens."""
    if heart is not None:
        heart.tell(step=int(step))


def my_rank() -> int:
    """This process's rank as mpirun gave it, known without initialising MPI."""
    return int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", 0)))


def main() -> None:
    """Do what `python -m mpi4py` does with this process's arguments, and tell how it ends."""
    global heart
    from mpi4py import run

    heart, end = Heart(os.environ[HEART]), ""
    threading.Thread(target=heart.keep_beating, daemon=True).start()
    try:
        run.main()
    except BaseException as error:
        end = " ".join(f"raised {type(error).__name__}: {error}".partition("\n")[0].split())
        if isinstance(error, SystemExit):
            end = f"ended with exit status {error.code}" if error.code else ""
        raise
    finally:
        heart.tell(end=end)


# ------------------------------------------------------------------------------------------------ in the launcher


@dataclass
class Voice:
    """What the launcher has heard of one rank."""

    rank: int
    step: int | None = None
    where: str = ""
    end: str | None = None  # why it ended; "" if all is well
    progress: int | None = None
    heard: float = field(default_factory=time.monotonic)  # when it last said anything, and anything new
    moved: float = field(default_factory=time.monotonic)

    def last(self) -> str:
        return "before its first step" if self.step is None else f"last heard of at step {self.step}"


class Listener:
    """The launcher's end. `address` goes into the ranks' environment under HEART."""

    def __init__(self, everywhere: bool = False):
        self.voices, self.password = list[Voice](), secrets.token_hex(16)
        ear = type("Ear", (StreamRequestHandler,), {"handle": lambda ear: self._listen(ear.rfile)})
        self.server = ThreadingTCPServer(("" if everywhere else "127.0.0.1", 0), ear)
        self.server.daemon_threads = True
        host = socket.gethostname() if everywhere else "127.0.0.1"
        self.address = f"{host} {self.server.server_address[1]} {self.password}"
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def _listen(self, said) -> None:
        password, _, rank = said.readline(200).decode(errors="replace").partition(" ")
        if password != self.password:
            return
        self.voices.append(voice := Voice(int(rank)))
        try:
            for text in said:
                voice.heard, news = time.monotonic(), json.loads(text)
                if news.items() - vars(voice).items():
                    voice.moved = voice.heard
                vars(voice).update(news)
        except (ConnectionError, ValueError):  # it died so suddenly that TCP says so, or that half a line came
            pass
        if voice.end is None:
            voice.moved, voice.end = time.monotonic(), KILLED

    def close(self) -> None:
        """Hear the ranks, which have ended, to the last word."""
        for _ in range(100):
            if any(voice.end is None for voice in self.voices):
                time.sleep(0.01)
        self.server.shutdown()
        self.server.server_close()

    def verdict(self, stall: float | None, status: int | None = None) -> str | None:
        """What is wrong, in one sentence, or None. status: mpirun's exit status, once it has ended.

        stall: seconds after which, once any rank has beaten, a silent rank is a failure, and that no rank moves on
        """
        ended = sorted((v for v in self.voices if v.end), key=lambda v: v.moved)  # the first has ended the others
        if ended:
            how = f" (mpirun: exit status {status})" if status and ended[0].end == KILLED else ""
            return f"rank {ended[0].rank} {ended[0].end}{how}, {ended[0].last()}"
        running = sorted((v for v in self.voices if v.end is None), key=lambda v: v.heard)
        if stall is None or not running or all(v.step is None for v in self.voices):
            return None
        now = time.monotonic()
        if now - running[0].heard > stall:
            return f"rank {running[0].rank} has said nothing for {stall:g} s (stopped?), {running[0].last()}"
        if now - max(v.moved for v in self.voices) > stall:
            return f"no rank has moved on for {stall:g} s: {self.whereabouts()}"
        return None

    def whereabouts(self) -> str:
        """Where the ranks are, those that are behind first."""
        ranks = sorted(self.voices, key=lambda v: (-1 if v.step is None else v.step, v.end is None, v.rank))
        return "; ".join(f"rank {v.rank} at {'its end' if v.end == '' else v.where}, {v.last()}" for v in ranks[:4])


if __name__ == "__main__":
    from minidl.ternary import heartbeat

    heartbeat.main()  # not this module's own main: scripts import minidl.ternary.heartbeat, and must find its heart
