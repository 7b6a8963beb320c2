"""Ternary gradients for PyTorch: the same three steps, on arrays that another framework owns.

    minidl mpirun -n 2 mpi_examples/pytorch_gradients.py        needs: pip install torch

Every rank trains the same network on rows of its own. Between backward and step stand the lines that compress what the
ranks tell each other: nothing in minidl/ternary knows where a gradient comes from, it is a NumPy array.
"""

import numpy as np
import torch

from minidl.ternary.allreduce import gather_allreduce, share_scales
from minidl.ternary.comm import world
from minidl.ternary.ternarise import Ternariser

comm, ternariser = world(), Ternariser(seed=0)
rank, ranks = comm.Get_rank(), comm.Get_size()

torch.manual_seed(0)  # the same weights everywhere
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.from_numpy(np.random.default_rng(1 + rank).standard_normal((256, 20), dtype=np.float32))
y = x[:, :1] * x[:, 1:2]

for step in range(100):
    loss = torch.nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    for k, p in enumerate(model.parameters()):
        g = p.grad.numpy().reshape(-1)  # not a copy: what is written here, the optimizer reads
        own = ternariser.scales(g)
        s = share_scales(own, comm)
        trits = ternariser.trits(g, s, own=own, step=step, worker=rank, tensor=k)
        g[:] = gather_allreduce(trits, s, comm, step=step)
    optimizer.step()
    if rank == 0 and step % 33 == 0:
        values = np.unique(model[0].weight.grad.numpy()).size
        print(f"step {step:3}: loss {loss.item():.3f}; the first weights' gradients have {values} values")

if rank == 0:
    sent, numbers = comm.ledger.total() / (step + 1), sum(p.numel() for p in model.parameters())
    print(f"{sent:,.0f} bytes a step instead of {4 * numbers:,}")
