"""LeNet on several ranks: the gradients of a network that learns, exchanged as trits.

    minidl mpirun -n 2 mpi_examples/train_lenet.py
    minidl mpirun -n 2 mpi_examples/train_lenet.py --mode float         the same in floats: eight times the bytes
    minidl mpirun -n 4 mpi_examples/train_lenet.py --workers 8 --checkpoint run.npz         kill it, and start it again

Every rank has the whole network and sees a share of each batch. What is computed depends on the workers, not on the
ranks that stand for them: 4 workers end with the same checksum on 1, 2, 3 or 4 ranks. Try it.
"""

import argparse

import numpy as np

from minidl.callbacks import Run
from minidl.data.images import mnist
from minidl.layers import cross_entropy
from minidl.models.lenet import lenet_terngrad
from minidl.optim import SGD, poly
from minidl.tensor import Tensor
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.workers import SaveOnRank0, shard
from minidl.train import predict

parser = argparse.ArgumentParser()
parser.add_argument("--mode", default="ternary", help="ternary, gather, float, ring32 or ring16")
parser.add_argument("--workers", type=int, default=4, help="how many share a batch of 64, on however many ranks (4)")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--checkpoint", help="a file to go on from, written every 50 steps")
parser.add_argument("--data", help="a folder with mnist/; without it minidl looks in its usual places")
options = parser.parse_args()

comm = world()
rank, ranks = comm.Get_rank(), comm.Get_size()
digits = mnist(options.data)
pixels = lambda images: (images[:, None].astype(np.float32) - 128) / 128

# 1. The same network everywhere: one seed. It is never sent, for equal steps keep equal weights equal.
model = lenet_terngrad(np.random.default_rng(0))
optimizer = SGD(model.named_parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
rate = poly(0.01, 0.5, options.steps)

# 2. What averages the gradients. The last layer could stay in float: keep_float="last layer".
parallel = DataParallel(model.named_parameters(), comm, options.mode, workers=options.workers, model=model)

# 3. Rank 0 reads and writes the checkpoint, and tells the others what was in it.
run = Run(model, optimizer)
saver = SaveOnRank0(options.checkpoint, parallel, 50) if options.checkpoint else None
if saver:
    run.step = saver.resume(model, optimizer)

while run.step < options.steps:
    optimizer.lr = rate(run.step)
    rows = np.random.default_rng([1, run.step]).integers(0, len(digits.train_labels), 64)  # the same batch everywhere
    for w in parallel.my_workers:  # and each worker's own share of it
        mine = shard(rows, w, options.workers)
        with parallel.worker(w, run.step):
            loss = cross_entropy(model(Tensor(pixels(digits.train_images[mine]))), digits.train_labels[mine])
            loss.backward()
    parallel.reduce(run.step)  # now p.grad is the mean of all workers' gradients, on every rank
    optimizer.step()
    if saver:
        saver.after_step(run)
    if rank == 0 and run.step % 20 == 0:
        print(f"step {run.step:4}   loss {loss.item():.3f} (one worker's share)", flush=True)
    run.step += 1
if saver:
    saver.on_end(run)

# 4. Every rank tests a share of the images. The checksum is compared over all ranks: they still hold the same weights.
correct = predict(model, pixels(digits.test_images[rank::ranks])).argmax(1) == digits.test_labels[rank::ranks]
right = sum(comm.allgather(int(correct.sum())))
checksum = parallel.check_weights()
if rank == 0:
    print(f"{digits.name}: {right:,} of {len(digits.test_labels):,} test images right; weights {checksum:08x}")
    print(
        f"{ranks} ranks for {options.workers} workers; in one step this rank sends {parallel.expected_bytes():,} bytes,"
    )
    print(f"in floats they would be {4 * sum(p.data.size for p in model.parameters()):,}")
