"""Every byte of three training steps, by tensor and phase: where does a ternary gradient's traffic go?

    minidl mpirun -n 2 mpi_examples/byte_ledger.py
    minidl mpirun -n 4 mpi_examples/byte_ledger.py --mode gather
    minidl mpirun -n 4 --simulate mpi_examples/byte_ledger.py --mode ring16         without MPI: the same bytes

`world()` counts each buffer at the call to MPI, under the tensor, phase and step that the code says it is about. What
the library makes of it (how often a rank passes on what others sent, envelopes, retries) comes on top.
"""

import argparse

import numpy as np

from minidl.layers import cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD
from minidl.tensor import Tensor
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--mode", default="ternary", help="ternary, gather, float, ring32 or ring16")
parser.add_argument("--keep-last", action="store_true", help="keep the last layer in float, as published")
options = parser.parse_args()

STEPS, comm = 3, world()
rank, ranks = comm.Get_rank(), comm.Get_size()

# 1. LeNet, and a made-up batch of eight digits for each rank: bytes do not depend on what is learned.
model = lenet_terngrad(np.random.default_rng(0))
optimizer = SGD(model.parameters(), 0.01)
keep = "last layer" if options.keep_last else None
parallel = DataParallel(model.named_parameters(), comm, options.mode, keep_float=keep)
rng = np.random.default_rng([1, rank])

for step in range(STEPS):
    images, labels = rng.standard_normal((8, 1, 28, 28), np.float32), rng.integers(0, 10, 8)
    model.zero_grad()
    cross_entropy(model(Tensor(images)), labels).backward()
    parallel.reduce(step)  # each of its calls says: this tensor, this phase, this step
    optimizer.step()

# 2. What rank 0 handed over. Phase "agree" is said once, before the first step: that all ranks train the same.
if rank == 0:
    print(comm.ledger.table())
    counted = comm.ledger.total(step=1)
    floats = 4 * sum(p.data.size for p in model.parameters())
    print(f"\nstep 1 of {STEPS}: {counted:,} bytes; predicted before it: {parallel.expected_bytes():,}")
    print(f"in 32-bit floats the gradient has {floats:,}: {floats / counted:.1f} times as many")
