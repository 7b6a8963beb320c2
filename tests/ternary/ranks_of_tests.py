"""What the ranks of tests/ternary/test_ranks.py run: `python -m mpi4py ranks_of_tests.py SCENE [ARGUMENT]`."""

import os
import signal
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np

from minidl import checkpoint
from minidl.ternary import launch
from minidl.ternary.allreduce import float_allreduce, share_scales, ternary_allreduce
from minidl.ternary.comm import world
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.ternarise import Ternariser


class P:
    def __init__(self, data, grad):
        self.data, self.grad = data, grad


def gradient(rank, size=1003):
    return (np.random.default_rng(rank).standard_normal(size) * (1 + rank)).astype(np.float32)


def sums():
    """One exchange; the test repeats it in one process, with the same draws, and compares every bit."""
    comm = world()
    rank, ternariser = comm.Get_rank(), Ternariser(scale=100)
    own = ternariser.scales(gradient(rank))
    s = share_scales(own, comm)
    trits = ternariser.trits(gradient(rank), s, own=own, step=5, worker=rank)
    mean = ternary_allreduce(trits, s, comm, 100)
    launch.report_result({"s": s, "trits": trits, "mean": mean, "float": float_allreduce(gradient(rank), comm)})


def network(rank):
    shapes = {"a.weight": (7, 5, 3), "a.bias": (7,), "b.weight": (200, 30), "b.bias": (200,), "c.weight": (10, 11)}
    rng, same = np.random.default_rng(rank), np.random.default_rng(99)
    return [
        (name, P(same.standard_normal(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)))
        for name, shape in shapes.items()
    ]


def steps(options):
    """Three steps of every mode; bytes counted and predicted, gradients and weights of every rank."""
    comm = world()
    params = network(comm.Get_rank())
    mode = options.pop("mode", "ternary")
    parallel = DataParallel(params, comm, mode, **options)
    for step in range(3):
        for name, p in params:
            p.grad = np.random.default_rng([step, comm.Get_rank(), len(name)]).standard_normal(p.data.shape)
            p.grad = p.grad.astype(np.float64 if name == "c.weight" else np.float32)
        parallel.reduce(step)
        for _, p in params:
            p.data = p.data - 0.1 * p.grad
    counted = comm.ledger.total() - comm.ledger.total(phase="agree")
    expected = 3 * parallel.expected_bytes()
    crc = parallel.check_weights()
    grads = zlib.crc32(b"".join(np.ascontiguousarray(p.grad) for _, p in params))
    by_tensor = {name: comm.ledger.total(tensor=name) for name, _ in params}
    dtypes = [p.grad.dtype.name for _, p in params]
    launch.report_result(
        dict(counted=counted, expected=expected, crc=crc, grads=grads, by_tensor=by_tensor, dtypes=dtypes)
    )


def different_weights():
    comm = world()
    params = network(comm.Get_rank())
    params[0][1].data = params[0][1].data + comm.Get_rank()
    DataParallel(params, comm).check_weights()


def raises():
    comm = world()
    if comm.Get_rank() == 1:
        raise ValueError("rank 1 has had enough")
    comm.Barrier()


def hangs(folder):
    comm = world()
    (Path(folder) / f"pid-{comm.Get_rank()}").write_text(str(os.getpid()))
    if comm.Get_rank() == 0:
        time.sleep(600)
    comm.Barrier()


def tells():
    comm = world()
    for step in range(1, 4):
        if comm.Get_rank() == 0:
            launch.report_progress(step)
        time.sleep(0.12)
    threads = {name: os.environ.get(name) for name in launch.THREAD_VARIABLES}
    launch.report_result({"rank": comm.Get_rank(), "size": comm.Get_size(), "threads": threads})
    print(f"said by {comm.Get_rank()}\n", end="", flush=True)  # one write: lines of two ranks must not mix


def leaves(status):
    sys.exit(int(status))


def fails(how, folder):
    """Steps that write checkpoints, until something happens to rank 1 after step 3."""
    comm = world()
    rank, p = comm.Get_rank(), P(np.zeros(100_000, np.float32), None)
    parallel = DataParallel([("a.weight", p)], comm)
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(1000):
        skipped = how == "skips" and rank == 1 and step == 4
        if not skipped:
            p.grad = np.ones(p.data.size, np.float32)
            parallel.reduce(step)
            p.data = p.data + p.grad
        if rank == 0:
            checkpoint.save(Path(folder) / "last.npz", step=step, extra={"total": p.data})
        if rank == 1 and step == 3:
            after_step_3(how)
        if skipped:
            time.sleep(600)


def after_step_3(how):
    match how:
        case "raises":
            raise ValueError("rank 1 has had enough\nof it")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "leaves":
            os._exit(3)
        case "leaves well":
            os._exit(0)
        case "ends":
            sys.exit()
        case "clings":  # a thread that is no daemon keeps a process that raised from ending
            threading.Thread(target=time.sleep, args=(600,)).start()
            raise ValueError("but does not end")


if __name__ == "__main__":
    scene, *arguments = sys.argv[1:]
    globals()[scene](*(eval(a) if scene == "steps" else a for a in arguments))
