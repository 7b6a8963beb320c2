"""Hello, trits: the smallest run of ternary gradients over real processes.

    mpirun -n 2 python -m mpi4py mpi_examples/hello_trits.py
    minidl mpirun -n 2 mpi_examples/hello_trits.py        the same, with the right mpirun and one thread per rank

Every rank makes up a gradient of its own. Together they compute the mean of all of them: once in 32-bit floats, once
in trits. Then rank 0 prints what each rank had to send for it, and how far the cheap mean is from the dear one.
"""

import numpy as np

from minidl.ternary.allreduce import float_allreduce, gather_allreduce, share_scales, ternary_allreduce
from minidl.ternary.comm import world
from minidl.ternary.ternarise import Ternariser

D = 1_000_000
comm = world()
rank, ranks = comm.Get_rank(), comm.Get_size()

# 1. A gradient: different on every rank, around one they share, as the gradients of shares of one batch are.
common = np.random.default_rng(0).standard_normal(D, dtype=np.float32)
gradient = common + np.random.default_rng(1 + rank).standard_normal(D, dtype=np.float32)

# 2. The dear way: everybody sends 32 bits for each number.
with comm.ledger.about("gradient", "float"):
    mean = float_allreduce(gradient, comm)

# 3. The cheap way. First agree on one scale: the largest of all ranks' min(2.5 sigma, max|g|).
ternariser = Ternariser(seed=0)
own = ternariser.scales(gradient)
with comm.ledger.about("gradient", "scale"):
    s = share_scales(own, comm)

#    Then draw -1, 0 or 1 for each number, such that s times the trit is right on average.
trits = ternariser.trits(gradient, s, own=own, step=0, worker=rank)
print(f"rank {rank}: g = {np.round(gradient[:6], 2)}...  s = {s[0]:.3f}  trits {trits[:6]}...", flush=True)

#    Trits are small integers: pack 21 of them into each 64-bit word (two ranks), and let MPI add the words.
with comm.ledger.about("gradient", "trits"):
    cheap = ternary_allreduce(trits, s, comm)

# 4. Or pack five trits into each byte, below a header with a checksum, and let everybody hear everybody: fewer bytes
#    for two ranks, more for many. The sum is one of integers, so the mean is the same to the last bit.
with comm.ledger.about("gradient", "messages"):
    assert np.array_equal(gather_allreduce(trits, s, comm), cheap)

comm.Barrier()
if rank == 0:
    dear, small = comm.ledger.total(phase="float"), comm.ledger.total(phase="scale") + comm.ledger.total(phase="trits")
    packed = comm.ledger.total(phase="messages")
    error = np.sqrt(np.mean((cheap - mean) ** 2) / np.mean(mean**2))
    print(f"\nbytes that each of {ranks} ranks handed to MPI for {D:,} numbers")
    print(f"  32-bit floats  {dear:>10,}   {8 * dear / D:5.2f} bits a number")
    print(f"  trits, summed  {small:>10,}   {8 * small / D:5.2f} bits a number, {dear / small:.1f} times fewer")
    print(f"  packed message {packed:>10,}   {8 * packed / D:5.2f} bits a number, {dear / packed:.1f} times fewer;")
    print("                 as many come from every other rank")
    print(f"the cheap mean is off by {error:.2f} of its length in this one draw; over all numbers the errors average")
    print(f"out to {abs((cheap - mean).mean()):.4f}, as they do over the steps of training")
