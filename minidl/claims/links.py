"""Links that are really slow: MPI ranks on one machine, each in a network namespace of its own, behind a throttle.

    with Links(4, "100mbit") as links:
        results = links.run(["-m", "minidl.claims.terngrad_link", options], timeout=600)
        links.bytes()                                     what each rank's interface has received and sent

Every rank has a wire to one switch, throttled at both of its ends by a token bucket, so that up and down are each
limited as at a switch's port. `mpiexec` itself sits beside them on a wire without a limit. Linux, root and iproute2
(`ip`, `tc`) are needed, and MPICH, whose launcher can be told how to reach a "host": by entering its namespace. All
names hold this process's number; nothing outside these namespaces is touched, and all of them are gone at the end, also
after Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from minidl.errors import CommError, MissingExtra
from minidl.ternary.launch import RESULTS, _collect, find_mpirun, rank_environment

NET = "10.213.77"
"""Addresses inside the namespaces: rank k is .k + 1, mpiexec .254."""
BUCKETS = {"1gbit": ("128kb", "4mb")}
"""Burst and queue of the token bucket, by rate. Small bursts cut large packets to fit, so that short messages are not
let through for free; at 1 Gbit/s the kernel's timer needs larger ones."""
BUCKET = ("16kb", "512kb")


def missing() -> str | None:
    """What this machine lacks for throttled links, in words; None if nothing."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "throttled links need Linux and root"
    for tool in ("ip", "tc", "unshare"):
        if shutil.which(tool) is None:
            return f"throttled links need {tool} (apt install iproute2 util-linux)"
    try:
        if find_mpirun()[1] == "Open MPI":
            return "throttled links need MPICH (pip install mpich), and mpi4py uses Open MPI here"
    except MissingExtra as error:
        return str(error)
    probe = f"minidl-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"this machine lets nobody add a network namespace: {made.stderr.strip()}" if made.returncode else None


class Links:
    """n ranks' namespaces, up while the block runs. rate: as tc says it, "100mbit", "1gbit"; None: no throttle."""

    def __init__(self, n: int, rate: str | None):
        self.n, self.rate = n, rate
        self.names = [f"minidl-{os.getpid()}-{host}" for host in ("switch", "start", *range(n))]
        self.hosts = {f"{NET}.{254 if k == 1 else k - 1}": name for k, name in enumerate(self.names) if k}

    def __enter__(self) -> Links:
        self.folder = Path(tempfile.mkdtemp(prefix="minidl-links-"))
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        switch, start, *_ = self.names
        for name in self.names:
            _do("ip", "netns", "add", name)
            _do("ip", "-n", name, "link", "set", "lo", "up")
        _do("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "bridge", "up")
        for port, (address, name) in enumerate(self.hosts.items()):
            end = f"port{port}"
            _do("ip", "-n", switch, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
            _do("ip", "-n", switch, "link", "set", end, "master", "bridge", "up")
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _do("ip", "-n", name, "link", "set", "eth0", "up")
            if name != start and self.rate is not None:
                burst, limit = BUCKETS.get(self.rate, BUCKET)
                bucket = ["root", "tbf", "rate", self.rate, "burst", burst, "limit", limit]
                _do("tc", "-n", name, "qdisc", "replace", "dev", "eth0", *bucket)
                _do("tc", "-n", switch, "qdisc", "replace", "dev", end, *bucket)
        # what MPICH's launcher takes for ssh: AGENT [options] HOST COMMAND..., run inside HOST's namespace
        cases = "\n".join(f"  {address}) space={name};;" for address, name in self.hosts.items())
        agent = self.folder / "enter"
        agent.write_text(
            '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost="$1"; shift\n'
            f'case "$host" in\n{cases}\n  *) echo "no host $host" >&2; exit 1;;\nesac\n'
            'exec ip netns exec "$space" unshare --uts '
            '/bin/sh -c \'hostname "$0"; exec /bin/sh -c "$1"\' "$host" "$*"\n'
        )
        agent.chmod(0o700)

    def run(self, argv: list[str], *, timeout: float, env: dict[str, str] | None = None) -> list[dict]:
        """`python -m mpi4py *argv` on all ranks; what each gave to report_result. CommError if they fail."""
        ranks = [address for address in self.hosts if not address.endswith(".254")]
        mpiexec = find_mpirun()[0]
        with tempfile.TemporaryDirectory(prefix="minidl-ranks-") as folder:
            wires = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0", "FI_TCP_IFACE": "eth0"}
            environment = rank_environment(1, wires | (env or {}) | {RESULTS: folder})
            command = [
                "ip", "netns", "exec", self.names[1], mpiexec, "-launcher", "ssh", "-launcher-exec",
                str(self.folder / "enter"), "-iface", "eth0", "-hosts", ",".join(ranks), "-ppn", "1", "-n", str(self.n),
                sys.executable, "-m", "mpi4py", *argv,
            ]  # fmt: skip
            with (Path(folder) / "said").open("w+") as said:
                job = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                )
                try:
                    job.wait(timeout)
                except subprocess.TimeoutExpired:
                    raise CommError(f"ranks behind links of {self.rate}: no end within {timeout:g} s") from None
                finally:
                    self._end_all()
                    job.wait()
                if job.returncode:
                    said.seek(0)
                    tail = "\n".join(said.read().strip().splitlines()[-30:])
                    raise CommError(f"ranks behind links of {self.rate}: exit status {job.returncode}\n{tail}")
            return _collect(Path(folder), self.n)

    def bytes(self) -> list[tuple[int, int]]:
        """(received, sent) by each rank's interface since the start, with headers: the kernel's own counters."""
        found = []
        for name in self.names[2:]:
            table = _do("ip", "netns", "exec", name, "cat", "/proc/net/dev")
            numbers = next(line.partition(":")[2].split() for line in table.splitlines() if "eth0:" in line)
            found.append((int(numbers[0]), int(numbers[8])))
        return found

    def _end_all(self) -> None:
        """End every process inside these namespaces, and none outside."""
        for name in self.names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def __exit__(self, *_) -> None:
        self._end_all()
        for name in self.names:  # their wires go with them
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CommError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
