"""An allreduce of trits, one message at a time: what travels, from whom to whom, and when.

    python mpi_examples/allreduce_step_by_step.py                     four simulated ranks; every message is shown
    python mpi_examples/allreduce_step_by_step.py --wait              Enter delivers the next one
    minidl mpirun -n 4 mpi_examples/allreduce_step_by_step.py         the same on real ranks, whose messages stay unseen

Four ranks have 64 trits each, and all of them want the 64 sums. A sum of four trits is one of -4..4: four bits hold it,
and so one hexadecimal digit. Sixteen digits are a 64-bit word, and words are what `MPI.SUM` adds. No digit overflows
into the next, because every rank adds t + 1, which is 0, 1 or 2: at most 8 in all.
"""

import argparse

import numpy as np

from minidl.ternary.allreduce import mean_of
from minidl.ternary.comm import SUM, world
from minidl.ternary.pack import pack_fields, unpack_fields
from minidl.ternary.sim_comm import SimComm

D, RANKS = 64, 4
parser = argparse.ArgumentParser()
parser.add_argument("--wait", action="store_true", help="wait for Enter before each message is delivered")
options = parser.parse_args()


def trits_of(rank):
    return np.random.default_rng(rank).integers(-1, 2, D).astype(np.int8)


def digits(words):
    """Words as hexadecimal digits, field 0 first."""
    return " ".join(f"{word:016x}"[::-1] for word in words)


def main(comm):
    """What each rank does. The same function runs on simulated ranks and on real ones."""
    words = pack_fields(trits_of(comm.Get_rank()), workers=comm.Get_size())
    total = np.empty_like(words)
    comm.Allreduce(words, total, op=SUM)
    sums = unpack_fields(total, D, workers=comm.Get_size())
    return words, sums, mean_of(sums, np.ones(1, np.float32), comm.Get_size())


comm = world()
if comm.Get_size() > 1:  # real ranks: started by mpirun
    words, sums, mean = main(comm)
    if comm.Get_rank() == 0:
        print(f"sums {sums[:16]}...\nmean {mean[:6]}...")
    raise SystemExit

# 1. Simulated ranks, on a network of 1 ms and 100 Mbit/s. walk() stops before each message is delivered.
sim = SimComm(RANKS, latency=1e-3, bandwidth=100e6 / 8)
print(f"{RANKS} ranks, each with {D} trits in 4 words. A ring: everybody sends to the right, and listens to the left.")
for rank in range(RANKS):
    print(f"  rank {rank} has  {digits(pack_fields(trits_of(rank), RANKS))}")

# 2. In the first three steps a rank adds its own word to the one that comes in; in the last three, sums are copied.
step, sent = 0, -1.0
for message in sim.walk(main):
    if message.sent > sent:
        step, sent = step + 1, message.sent
        what = f"words to add to: {step} of {RANKS} ranks are in them" if step < RANKS else "finished sums"
        print(f"\nstep {step}, at {1000 * sent:.3f} ms: {what}")
    line = f"  rank {message.source} -> {message.dest}   {digits(message.data)}   {message.bytes} bytes"
    if options.wait:
        input(line)
    else:
        print(line)

# 3. All ranks have the same sums, and they are the right ones.
for rank, (_, sums, mean) in enumerate(sim.results):
    assert np.array_equal(sums, sum(trits_of(r).astype(int) for r in range(RANKS)))
    assert np.array_equal(mean, sim.results[0][2]), rank
print(f"\nafter {1000 * sim.seconds:.3f} ms every rank has the same sums; field k of word j is sum 4 k + j")
print(f"each has sent {sim.sent[0]} bytes; 64 floats over the same ring are {2 * (RANKS - 1) * D * 4 // RANKS:,}")
