"""A language model on several ranks: what is different when the network has a memory.

    minidl mpirun -n 2 mpi_examples/train_lstm.py

An LSTM carries its state from batch to batch, so a worker must always read on in its own part of the text: here each of
W workers has its own columns of the batch stream, and its own state. Dropout is each worker's own too. The gradients
are clipped after the exchange, by the norm of the mean: all ranks then clip alike.
"""

import argparse

import numpy as np

from minidl.data.text import batch_stream, ptb
from minidl.models.lstm_lm import LSTMLanguageModel, cost, detach, perplexity
from minidl.optim import SGD, clip_grad_norm
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.workers import shard

parser = argparse.ArgumentParser()
parser.add_argument("--mode", default="ternary", help="ternary, gather, float, ring32 or ring16")
parser.add_argument("--workers", type=int, default=4, help="how many share a batch of 20 rows, on all ranks (4)")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--hidden", type=int, default=100)
parser.add_argument("--data", help="a folder with ptb/; without it minidl looks in its usual places")
options = parser.parse_args()

comm = world()
rank, workers = comm.Get_rank(), options.workers
text = ptb(options.data)
model = LSTMLanguageModel(
    len(text.vocabulary), options.hidden, (options.hidden, options.hidden), keep=0.8, rng=np.random.default_rng(0)
)
optimizer = SGD(model.named_parameters(), 1.0)

# The last layer, from the hidden units to 10,000 words, stays in float, as in the paper. A word that is not in the
# batch has a gradient of 0 in the embedding, and 0 is a trit that is always right.
parallel = DataParallel(
    model.named_parameters(), comm, options.mode, workers=workers, model=model, keep_float="last layer"
)

states = {w: None for w in parallel.my_workers}
for step, (x, y) in zip(range(options.steps), batch_stream(text.train, 20, 20), strict=False):
    costs = []
    for w in parallel.my_workers:
        mine, theirs = shard(x.T, w, workers).T, shard(y.T, w, workers).T  # (T, B / W): columns, for a column is a text
        with parallel.worker(w, step):
            before = model.zero_states(mine.shape[1]) if states[w] is None else detach(states[w])
            loss, states[w] = cost(model, mine, theirs, before)
            loss.backward()
        costs.append(loss.item() / len(x))
    parallel.reduce(step)
    clip_grad_norm(optimizer.params, 5.0)
    optimizer.step()
    if rank == 0 and step % 20 == 0:
        print(f"step {step:4}   perplexity {np.exp(np.mean(costs)):8.1f} (this rank's workers)", flush=True)

checksum = parallel.check_weights()
if rank == 0:
    print(
        f"{text.name}: perplexity {perplexity(model, batch_stream(text.valid[:20_000], 20, 20)):.1f} on new text;",
        end=" ",
    )
    print(f"weights {checksum:08x}; what this rank sent:")
    print(comm.ledger.table())
