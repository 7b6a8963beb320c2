"""Train a tiny model and be killed: a helper of test_checkpoint.py, and a script.

    python tests/kill_me.py FOLDER KILLS     kill -9 the training KILLS times, each at a random moment, then let it end

Importing NumPy takes longer than the whole training, so that the killed processes are forked from one that has already
imported everything. Each of them is a process of its own that gets a true SIGKILL and starts again from the file alone.
They run the NumPy forms: a library's threads do not survive a fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from minidl import backend, checkpoint
from minidl.data import DataLoader, crop_and_mirror
from minidl.layers import BatchNorm1d, Conv2d, Dropout, Flatten, Linear, ReLU, Sequential
from minidl.optim import Adam, cosine
from minidl.train import fit

PICTURES = np.random.default_rng(7).random((22, 1, 6, 6), dtype=np.float32)
LABELS = np.arange(22) % 3


def train(path: Path, steps: int) -> bytes:
    """Train up to `steps` steps in all, a checkpoint after each, from the file if it is there: the bits of the end."""
    rng = np.random.default_rng(0)
    model = Sequential(
        Conv2d(1, 2, 3, rng=rng), ReLU(), Flatten(), Linear(32, 5, rng=rng), BatchNorm1d(5),
        Dropout(0.3, rng=np.random.default_rng(1)), Linear(5, 3, rng=rng),
    )  # fmt: skip
    optimizer = Adam(model.parameters())
    loader = DataLoader(
        (PICTURES, LABELS), 4, rng=np.random.default_rng(2), transform=crop_and_mirror, prefetch=2, drop_last=True
    )
    noise = np.random.default_rng(3)
    own = dict(model=model, optimizer=optimizer, data=loader, rngs={"noise": noise})
    done = checkpoint.load(path, **own).step if path.exists() else 0

    def disturb(step):
        for p in model.parameters():
            p.grad = p.grad + noise.normal(0, 0.01, p.shape).astype(np.float32)

    def endless():
        while True:
            yield from loader

    def limited():
        for k, minibatch in enumerate(endless(), done):
            if k >= steps:
                return
            yield minibatch

    fit(
        model, limited(), optimizer, schedule=cosine(0.01, 2000), after_backward=disturb, start=done,
        after_step=lambda step: checkpoint.save(path, step=step + 1, **own),
    )  # fmt: skip
    arrays = [*model.state_dict().values(), *(a for state in optimizer.state for a in state.values())]
    return b"".join(np.asarray(a).tobytes() for a in arrays)


def kill(folder: Path, kills: int, seed: int = 0) -> tuple[bytes, int, int]:
    """Kill the training `kills` times, then let it end: (the bits, how many steps, how many kills fell into a save)."""
    path, chance, inside = folder / "run.npz", random.Random(seed), 0
    begin = time.perf_counter()
    train(folder / "warm.npz", 6)
    while_training = time.perf_counter() - begin  # so that kills fall before the first, and between later, steps
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                train(path, sys.maxsize)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0, while_training))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        inside += (folder / ".run.npz.part").exists()
        (folder / ".run.npz.part").unlink(missing_ok=True)
    steps = (checkpoint.load(path).step if path.exists() else 0) + 5
    return train(path, steps), steps, inside


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with backend.form("numpy"):
        bits, total, saving = kill(where, int(sys.argv[2]))
        same = bits == train(where / "undisturbed.npz", total)
    print("same" if same else "DIFFERENT", total, saving)
