"""More ranks, more to say: what an exchange of one gradient costs as ranks are added, in floats and in trits.

    python mpi_examples/scaling.py                            2 to 16 simulated ranks at 100 Mbit/s, and the cost model
    python mpi_examples/scaling.py --mbit 1000 --ms 0.05 --numbers 25_600_000
    minidl mpirun -n 4 mpi_examples/scaling.py                real ranks of this machine, whose "network" is its memory

On a slow network bytes decide: floats send 8 bytes a number however many ranks there are, gathered trits 1.6 bits for
each rank, and sums of trits a number of bits that grows with the logarithm. In memory nothing is slow but the codec,
and trits lose. The last column says what a training with so much computing in a step gains: whether it is worth it.
"""

import argparse
import time

import numpy as np

from minidl.ternary.allreduce import gather_allreduce, share_scales
from minidl.ternary.comm import world
from minidl.ternary.more.cost_model import Machine, calibrate, seconds
from minidl.ternary.more.sums import sum_allreduce
from minidl.ternary.ring import ring_allreduce
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.ternarise import Ternariser

parser = argparse.ArgumentParser()
parser.add_argument("--numbers", type=int, default=1_000_000, help="how long the gradient is (1,000,000)")
parser.add_argument("--mbit", type=float, default=100, help="what a simulated link carries, Mbit/s (100)")
parser.add_argument("--ms", type=float, default=0.1, help="and how long a message takes at least (0.1)")
parser.add_argument("--compute", type=float, default=0.1, help="seconds of computing in a step (0.1)")
options = parser.parse_args()

SCHEMES = ("ring32", "ring16", "gather", "sums")


def exchange(scheme, comm):
    """Each rank's own gradient becomes the mean of all."""
    gradient = np.random.default_rng(comm.Get_rank()).standard_normal(options.numbers, np.float32)
    if scheme.startswith("ring"):
        return ring_allreduce(gradient, comm, np.float16 if scheme == "ring16" else np.float32)
    ternariser = Ternariser()
    own = ternariser.scales(gradient)
    s = share_scales(own, comm)
    trits = ternariser.trits(gradient, s, own=own, worker=comm.Get_rank())
    return (gather_allreduce if scheme == "gather" else sum_allreduce)(trits, s, comm)


def table(title, rows):
    """rows: (ranks, {scheme: (seconds, seconds by the cost model)})."""
    print(f"{title}\nmilliseconds an exchange of {options.numbers:,} numbers (in brackets: by the cost model)\n")
    print("ranks " + "".join(f"{scheme:>19}" for scheme in SCHEMES) + f"   a step of {options.compute:g} s + exchange")
    for ranks, times in rows:
        cells = "".join(f"{1e3 * took:>10.1f} ({1e3 * model:.1f})".rjust(19) for took, model in times.values())
        floats = min(times[scheme][0] for scheme in SCHEMES[:2])
        trits = min(times[scheme][0] for scheme in SCHEMES[2:])
        gain = (options.compute + floats) / (options.compute + trits)
        print(f"{ranks:>5} {cells}   {gain:.2f} times as fast with trits" + ("" if gain > 1.05 else ": not worth it"))


comm = world()
if comm.Get_size() == 1:
    # 1. Simulated: the clock counts messages and bytes; the cost model adds what packing takes.
    machine, rows = Machine.link(1e6 * options.mbit, options.ms / 1e3), []
    for ranks in (2, 4, 8, 16):
        sim, times = SimComm(ranks, latency=machine.alpha, bandwidth=1 / machine.beta), {}
        for scheme in SCHEMES:
            sim.run(lambda comm, scheme=scheme: exchange(scheme, comm))
            codec = seconds(scheme, ranks, options.numbers, Machine(0, 0))
            times[scheme] = (sim.seconds + codec, seconds(scheme, ranks, options.numbers, machine))
        rows.append((ranks, times))
    table(f"simulated ranks, {options.mbit:g} Mbit/s, {options.ms:g} ms a message", rows)
else:
    # 2. Real: first measure what a message, a byte and a number take here, then predict, then exchange.
    ranks, machine, times = comm.Get_size(), calibrate(comm), {}
    for scheme in SCHEMES:
        took = []
        for _ in range(5):
            comm.Barrier()
            start = time.perf_counter()
            exchange(scheme, comm)
            took.append(max(comm.allgather(time.perf_counter() - start)))
        times[scheme] = (float(np.median(took)), seconds(scheme, ranks, options.numbers, machine))
    if comm.Get_rank() == 0:
        title = f"{ranks} ranks here: {1e6 * machine.alpha:.1f} us a message, {8e-6 / machine.beta:,.0f} Mbit/s"
        table(title, [(ranks, times)])
