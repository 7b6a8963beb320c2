"""What the ranks of test_resume_ranks.py run: a training with virtual workers that goes on from its checkpoint.

python -m mpi4py ranks_of_workers.py CHECKPOINT STEPS [KILL]        KILL: rank 1 kills itself before this step
"""

import os
import signal
import sys
import zlib

import numpy as np
from test_workers import Net, do

from minidl.callbacks import Run
from minidl.optim import Adam
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.launch import report_result
from minidl.ternary.workers import SaveOnRank0

WORKERS = 4


def train(comm, path, steps, kill=None, every=3):
    model = Net()
    optimizer = Adam(model.named_parameters(), 0.01)
    parallel = DataParallel(model.named_parameters(), comm, workers=WORKERS, model=model)
    saver = SaveOnRank0(path, parallel, every)
    run = Run(model, optimizer, start := saver.resume(model, optimizer))
    while run.step < steps:
        if run.step == kill and comm.Get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        do(run.step, model, optimizer, parallel, WORKERS)
        saver.after_step(run)
        run.step += 1
    buffers = parallel.state_dict()["buffers"]
    statistics = zlib.crc32(b"".join(np.ascontiguousarray(buffers[name]) for name in sorted(buffers)))
    return {"start": start, "weights": parallel.check_weights(), "statistics": statistics}


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    report_result(train(world(), path, *map(int, numbers)))
