"""Virtual workers: the same bits on any number of ranks, what each worker has for itself, and what ranks must share."""

import numpy as np
import pytest

from minidl.callbacks import Run
from minidl.errors import CommError, InputError
from minidl.layers import BatchNorm1d, Dropout, Linear, Module, ReLU, cross_entropy
from minidl.optim import SGD, Adam, RMSprop
from minidl.tensor import Tensor
from minidl.ternary.comm import Counted, OneRank
from minidl.ternary.data_parallel import DataParallel
from minidl.ternary.sim_comm import SimComm
from minidl.ternary.workers import SaveOnRank0, shard

OPTIMIZERS = {
    "sgd": lambda params: SGD(params, 0.1),
    "caffe": lambda params: SGD(params, 0.1, momentum=0.9, form="caffe"),
    "adam": lambda params: Adam(params, 0.01),
    "rmsprop": lambda params: RMSprop(params, 0.01),
}


class Net(Module):
    """A network with everything a worker has for itself: running statistics, and dropout from a Generator."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.first, self.norm, self.relu = Linear(12, 30, rng=rng), BatchNorm1d(30), ReLU()
        self.drop, self.last = Dropout(0.3, rng=rng), Linear(30, 4, rng=rng)

    def forward(self, x):
        return self.last(self.drop(self.relu(self.norm(self.first(x)))))


def batch(step):
    rng = np.random.default_rng([5, step])
    x = rng.standard_normal((48, 12)).astype(np.float32)
    return x, (x @ np.random.default_rng(9).standard_normal((12, 4))).argmax(1)


def do(step, model, optimizer, parallel, workers):
    x, y = batch(step)
    for w in parallel.my_workers:
        with parallel.worker(w, step):
            cross_entropy(model(Tensor(shard(x, w, workers))), shard(y, w, workers)).backward()
    parallel.reduce(step)
    optimizer.step()


def train(comm, workers=8, steps=5, optimizer="sgd", **options):
    """The weights' checksum, every worker's running statistics, and the mean statistics that evaluation uses."""
    model = Net()
    step = OPTIMIZERS[optimizer](model.named_parameters())
    parallel = DataParallel(model.named_parameters(), comm, workers=workers, model=model, **options)
    for k in range(steps):
        do(k, model, step, parallel, workers)
    with parallel.averaged():
        model.eval()
        out = model(Tensor(batch(99)[0])).data
    return parallel.check_weights(), parallel.state_dict()["buffers"], out


def same(first, second):
    crc, buffers, out = first
    return (
        crc == second[0] and np.array_equal(out, second[2]) and buffers.keys() == second[1].keys()
        and all(np.array_equal(buffers[name], second[1][name]) for name in buffers)
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {}, {"optimizer": "adam"}, {"optimizer": "rmsprop"}, {"optimizer": "caffe"}, {"mode": "gather"},
        {"scale": 50}, {"scale": "layer", "keep_float": "last layer"}, {"keep_float": 100, "clip": None},
    ],
    ids=str,
)  # fmt: skip
def test_eight_workers_end_with_the_same_bits_on_any_number_of_ranks(options):
    alone = train(Counted(OneRank()), **options)
    for ranks in (2, 3, 8) if options else (1, 2, 3, 4, 5, 6, 7, 8):
        assert all(same(alone, result) for result in SimComm(ranks).run(lambda comm: train(comm, **options))), ranks


def test_the_bits_depend_on_workers_step_and_seed():
    """The comparison above would see it: other shares, other draws and another order of statistics differ."""
    alone = train(Counted(OneRank()))
    for options in ({"workers": 4}, {"seed": 1}, {"scale": "layer"}, {"mode": "float"}):
        assert not same(alone, train(Counted(OneRank()), **options)), options
    assert all(len(np.unique(rows, axis=0)) == 8 for rows in alone[1].values()), "statistics differ between workers"


def test_one_worker_on_each_rank_needs_no_block():
    """The loop of before: without model= and worker(), reduce takes the gradients that are there."""

    def plain(comm, block):
        model = Linear(12, 4, rng=np.random.default_rng(0))
        parallel = DataParallel(model.named_parameters(), comm, workers=3 if block else None)
        for step in range(3):
            x, y = batch(step)
            w = comm.Get_rank()
            loss = lambda: cross_entropy(model(Tensor(shard(x, w, 3))), shard(y, w, 3)).backward()  # noqa: B023
            if block:
                with parallel.worker(w, step):
                    loss()
            else:
                model.zero_grad()
                loss()
            parallel.reduce(step)
            for p in model.parameters():
                p.data = p.data - 0.1 * p.grad
        return parallel.check_weights()

    assert SimComm(3).run(lambda comm: plain(comm, True)) == SimComm(3).run(lambda comm: plain(comm, False))


def test_dropout_draws_of_a_worker_depend_on_the_seed_the_step_and_the_worker():
    model = Net()
    parallel = DataParallel(model.named_parameters(), Counted(OneRank()), workers=2, model=model)
    before, masks = model.drop.rng, {}
    for seed, step, worker in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        parallel.belongings.seed = seed
        for _ in range(2):
            with parallel.worker(worker, step):
                mask = model.drop(Tensor(np.ones(1000, np.float32))).data
            assert masks.setdefault((seed, step, worker), mask.tobytes()) == mask.tobytes()
    assert len(set(masks.values())) == 4 and model.drop.rng is before


def test_shards_are_the_batch():
    rows = np.arange(22)
    assert np.array_equal(np.sort(np.concatenate([shard(rows, w, 4) for w in range(4)])), rows)
    assert [len(shard(rows, w, 4)) for w in range(4)] == [6, 6, 5, 5]


def test_what_the_averaged_block_takes_away_comes_back():
    model = Net()
    parallel = DataParallel(model.named_parameters(), Counted(OneRank()), workers=2, model=model)
    do(0, model, SGD(model.parameters(), 0.1), parallel, 2)
    of_workers, before = parallel.state_dict()["buffers"], model.norm.running_mean
    with parallel.averaged():
        assert np.allclose(model.norm.running_mean, of_workers["norm.running_mean"].mean(axis=0), atol=1e-7)
        assert not np.array_equal(model.norm.running_mean, before)
    assert np.array_equal(parallel.state_dict()["buffers"]["norm.running_mean"], of_workers["norm.running_mean"])


# ------------------------------------------------------------------------------------------------ what must be equal


class P:
    def __init__(self, shape=(3, 4), dtype=np.float32, fill=0.0):
        self.data = np.full(shape, fill, dtype)
        self.grad = np.ones(shape, dtype)


@pytest.mark.parametrize(
    "how, told",
    [
        (lambda r: {"params": [("a.weight", P((3, 4) if r != 2 else (3, 5)))]}, r"a.weight \(3, 5\) float32, rank 0 a"),
        (lambda r: {"params": [("a.weight", P(dtype=[float, np.float32][r != 2]))]}, r"\(3, 4\) float64, rank 0"),
        (lambda r: {"params": [("ab"[r == 2], P())]}, r"rank 2 has parameter 0 b \(3, 4\) float32, rank 0 a \(3, 4\)"),
        (lambda r: {"params": [(name, P()) for name in "abc"[: 2 + (r == 2)]]}, r"rank 2 has parameter 2 c .*0 none"),
        (lambda r: {"step": 7 + (r == 2)}, "rank 2 has step 8, rank 0 7"),
        (lambda r: {"mode": ["ternary", "ternary", "gather"][r]}, "rank 2 has exchange gather_.*, rank 0 ternary_"),
        (lambda r: {"clip": 2.5 + (r == 2)}, "rank 2 has clip 3.5, rank 0 2.5"),
        (lambda r: {"seed": 2 * r // 4}, "rank 2 has seed 1, rank 0 0"),
        (lambda r: {"keep_float": 99 * (r == 2)}, r"rank 2 has in float \['a'\], rank 0 \[\]"),
        (lambda r: {"params": [("a", P(fill=float(r == 2)))]}, r"rank 2 has weights with checksum \w{8}, rank 0 \w{8}"),
    ],
)  # fmt: skip
def test_ranks_that_disagree_are_told_before_the_first_exchange(how, told):
    seen = []

    def rank_main(comm):
        options = how(comm.Get_rank())
        params, step = options.pop("params", [("a", P())]), options.pop("step", 7)
        try:
            DataParallel(params, comm, **options).reduce(step)
        except CommError as error:
            seen.append((str(error), comm.ledger.total() - comm.ledger.total(phase="agree")))

    SimComm(3).run(rank_main)
    assert len(seen) == 3, "every rank is told"
    for text, sent in seen:
        assert sent == 0
        pytest.raises(CommError, raise_, text).match(told)


def raise_(text):
    raise CommError(text)


def test_what_cannot_be_is_refused():
    comm = Counted(OneRank())
    with pytest.raises(InputError, match="mode 'binary' is not one of ternary, gather, float, ring32, ring16"):
        DataParallel([("a", P())], comm, "binary")
    with pytest.raises(InputError, match="0 workers on 1 ranks"):
        DataParallel([("a", P())], comm, workers=0)
    with pytest.raises(InputError, match="keep_float='biases' is not 'last layer', a number"):
        DataParallel([("a", P())], comm, keep_float="biases")
    parallel = DataParallel([("a", P())], comm, workers=3)
    with (
        pytest.raises(InputError, match=r"worker 3 is not this rank's: it has \[0, 1, 2\] of 3"),
        parallel.worker(3, 0),
    ):
        pass
    with parallel.worker(0, 0):
        parallel.params[0][1].grad = np.ones((3, 4), np.float32)
    with pytest.raises(InputError, match="worker 1 has no gradients at step 0"):
        parallel.reduce(0)
    for w in range(3):
        with parallel.worker(w, 0):
            pass
    with pytest.raises(InputError, match="a has no gradient at step 0"):
        parallel.reduce(0)


# ------------------------------------------------------------------------------------------------ going on after a kill


def resumable(comm, path, until, every=3):
    model = Net()
    optimizer = Adam(model.named_parameters(), 0.01)
    parallel = DataParallel(model.named_parameters(), comm, workers=4, model=model)
    saver = SaveOnRank0(path, parallel, every)
    run = Run(model, optimizer, saver.resume(model, optimizer))
    while run.step < until:
        do(run.step, model, optimizer, parallel, 4)
        saver.after_step(run)
        run.step += 1
    return parallel.check_weights(), parallel.state_dict()["buffers"], np.zeros(0)


@pytest.mark.parametrize("before, after", [(1, 1), (2, 2), (2, 3), (4, 1)])
def test_a_run_goes_on_with_the_same_bits_also_on_other_ranks(tmp_path, before, after):
    whole = SimComm(1).run(lambda comm: resumable(comm, tmp_path / "whole.npz", 8))[0]
    path = tmp_path / "run.npz"
    cut = SimComm(before).run(lambda comm: resumable(comm, path, 5))[0]  # its last checkpoint is of step 3
    assert not same(whole, cut)
    assert all(same(whole, result) for result in SimComm(after).run(lambda comm: resumable(comm, path, 8)))


def test_only_rank_0_needs_the_file_and_damage_is_told_to_all(tmp_path):
    folders = [tmp_path / str(rank) for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    run = lambda until: SimComm(2).run(lambda comm: resumable(comm, folders[comm.Get_rank()] / "run.npz", until))
    run(4)
    assert (folders[0] / "run.npz").exists() and not any(folders[1].iterdir())
    assert same(run(8)[0], SimComm(1).run(lambda comm: resumable(comm, tmp_path / "whole.npz", 8))[0])
    (folders[0] / "run.npz").write_bytes((folders[0] / "run.npz").read_bytes()[:-500])
    with pytest.raises(CommError, match="damaged or cut off"):
        run(9)


def test_a_checkpoint_of_other_workers_is_refused(tmp_path):
    SimComm(1).run(lambda comm: resumable(comm, tmp_path / "run.npz", 3))
    model = Net()
    parallel = DataParallel(model.named_parameters(), Counted(OneRank()), workers=2, model=model)
    with pytest.raises(InputError, match="a state of 4 workers with .* does not fit 2 workers"):
        SaveOnRank0(tmp_path / "run.npz", parallel).resume(model, Adam(model.named_parameters(), 0.01))
