"""Real ranks: exact sums, counted bytes, and every way in which a run can end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_of_tests

from minidl.errors import CommError, InputError, MissingExtra
from minidl.ternary import comm as comm_module
from minidl.ternary import launch
from minidl.ternary.allreduce import mean_of
from minidl.ternary.comm import OneRank, check_size, world
from minidl.ternary.data_parallel import DataParallel, bytes_per_step
from minidl.ternary.launch import mpirun_main, run_ranks
from minidl.ternary.ternarise import Ternariser

SCRIPT = str(Path(ranks_of_tests.__file__))

try:
    launch.find_mpirun()
    NO_MPI = ""
except MissingExtra as missing:
    NO_MPI = str(missing)
needs_mpi = [pytest.mark.mpi, pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)]
mpi = lambda test: needs_mpi[0](needs_mpi[1](test))


def gone(pid):
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            os.kill(pid, 0)
        except (OSError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


# ------------------------------------------------------------------------------------------------ what they compute


@mpi
@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_sums_are_exact_and_the_same_on_every_rank(n):
    results = run_ranks(n, [SCRIPT, "sums"], timeout=60).results
    ternariser = Ternariser(scale=100)
    own = [ternariser.scales(ranks_of_tests.gradient(r)) for r in range(n)]
    s = np.max(own, axis=0)
    trits = [ternariser.trits(ranks_of_tests.gradient(r), s, own=own[r], step=5, worker=r) for r in range(n)]
    for rank, result in enumerate(results):
        assert np.array_equal(result["s"], s)
        assert np.array_equal(result["trits"], trits[rank])
        assert np.array_equal(result["mean"], mean_of(np.sum(trits, axis=0), s, n, 100))
        assert np.allclose(result["float"], np.mean([ranks_of_tests.gradient(r) for r in range(n)], axis=0), atol=1e-6)
        assert np.array_equal(result["float"], results[0]["float"])


@mpi
@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "float"}]  # simulated ranks try all of them in test_data_parallel.py
    + [
        pytest.param(options, marks=pytest.mark.slow)
        for options in ({"scale": "layer"}, {"scale": 64, "clip": None}, {"keep_float": 200})
    ],
    ids=str,
)
def test_bytes_counted_are_bytes_predicted_and_weights_agree(options):
    first, second = run_ranks(2, [SCRIPT, "steps", repr(options)], timeout=60).results
    assert first == second, "bytes, gradients and weights"
    assert first["counted"] == first["expected"]
    assert first["dtypes"] == ["float32"] * 4 + ["float64"], "a gradient keeps its dtype"
    sizes = [105, 7, 6000, 200, 110]
    words = lambda size: 8 * -(-size // 21)
    per_step = {
        "float": 4 * sum(sizes),
        "keep_float": 4 * (105 + 7 + 110) + words(6000) + words(200) + 4 * 2,
        "layer": sum(map(words, sizes)) + 4 * 3,
        64: sum(map(words, sizes)) + 4 * (2 + 1 + 94 + 4 + 2),
        None: sum(map(words, sizes)) + 4 * 5,
    }
    kind = options.get("mode") or ("keep_float" if "keep_float" in options else options.get("scale"))
    assert first["counted"] == 3 * per_step[kind]
    assert first["by_tensor"]["b.weight"] == 3 * (24_000 if kind == "float" else words(6000))


@mpi
def test_different_weights_are_told():
    with pytest.raises(CommError, match=r"the ranks hold different weights .rank 0: \w{8}, rank 1: \w{8}"):
        run_ranks(2, [SCRIPT, "different_weights"], timeout=60)


# ------------------------------------------------------------------------------------------------ how they end


@mpi
def test_results_progress_threads_and_output_come_back():
    seen = []
    run = run_ranks(2, [SCRIPT, "tells"], timeout=60, threads=3, progress=seen.append)
    assert [r["rank"] for r in run.results] == [0, 1] and all(r["size"] == 2 for r in run.results)
    assert set(run.results[1]["threads"].values()) == {"3"}
    assert run.returncode == 0 and sorted(run.stdout.split("\n")) == ["", "said by 0", "said by 1"]
    assert seen and seen == sorted(seen) and set(seen) <= {1, 2, 3}


@mpi
def test_a_rank_that_raises_ends_the_run_with_its_traceback():
    start = time.monotonic()
    with pytest.raises(
        CommError, match=r"(?s)on 2 ranks: rank 1 raised ValueError: rank 1 has had enough.*Traceback.*in raises"
    ):
        run_ranks(2, [SCRIPT, "raises"], timeout=60)
    assert time.monotonic() - start < 20


@mpi
def test_the_time_limit_ends_every_rank(tmp_path):
    start = time.monotonic()
    with pytest.raises(CommError, match="on 2 ranks: no end within its 4 s: a rank may wait for a call.*; rank 1 at "):
        run_ranks(2, [SCRIPT, "hangs", str(tmp_path)], timeout=4)
    assert time.monotonic() - start < 15
    pids = [int(f.read_text()) for f in tmp_path.glob("pid-*")]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


def started(folder):
    for _ in range(300):
        files = list(folder.glob("pid-*"))
        if len(files) == 2 and all(f.read_text() for f in files):
            return [int(f.read_text()) for f in files]
        time.sleep(0.1)
    raise AssertionError("the ranks did not start within 30 s")


@mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_ends_every_rank(tmp_path, number):
    code = (  # a shell's background job, as which this may run, starts with Ctrl-C ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from minidl.ternary.launch import mpirun_main; mpirun_main(['-n', '2', {SCRIPT!r}, 'hangs', '{tmp_path}'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=launch.rank_environment(), stderr=subprocess.DEVNULL)
    pids = started(tmp_path)
    parent.send_signal(number)
    assert parent.wait(10) != 0
    assert all(gone(pid) for pid in pids)


@mpi
def test_a_killed_rank_ends_the_run(tmp_path):
    code = (
        "import sys; from minidl.ternary.launch import mpirun_main; "
        f"sys.exit(mpirun_main(['-n', '2', {SCRIPT!r}, 'hangs', '{tmp_path}']))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=launch.rank_environment(), stdout=subprocess.DEVNULL)
    pids = started(tmp_path)
    os.kill(pids[1], signal.SIGKILL)
    assert parent.wait(10) != 0
    assert all(gone(pid) for pid in pids)


@mpi
def test_minidl_mpirun_passes_the_exit_status_on(capfd):
    assert mpirun_main(["-n", "2", SCRIPT, "leaves", "0"]) == 0
    assert mpirun_main(["-n", "2", "--timeout", "60", SCRIPT, "leaves", "7"]) == 7
    with pytest.raises(InputError, match="there is no script nothing.py"):
        mpirun_main(["-n", "2", "nothing.py"])
    with pytest.raises(InputError, match="0 ranks"):
        mpirun_main(["-n", "0", SCRIPT])


@mpi
@pytest.mark.slow
@pytest.mark.skipif("MINIDL_OTHER_PYTHON" not in os.environ, reason="needs a Python whose mpi4py has another MPI")
def test_another_mpi_sums_trits_to_the_same_bits():
    code = (
        "import sys; from minidl.ternary.launch import run_ranks, find_mpirun; "
        "print(find_mpirun()[1], [run_ranks(n, [sys.argv[1], 'steps', '{}'], timeout=60).results for n in (2, 3)])"
    )
    said = [
        subprocess.run([python, "-c", code, SCRIPT], env=launch.rank_environment(), capture_output=True, text=True)
        for python in (sys.executable, os.environ["MINIDL_OTHER_PYTHON"])
    ]
    ours, other = (run.stdout.partition("[") for run in said)
    assert ours[0] != other[0] and ours[2] == other[2] and "crc" in ours[2], said


@mpi
def test_hello_trits_runs():
    example = Path(__file__).parents[2] / "mpi_examples" / "hello_trits.py"
    run = run_ranks(2, [str(example)], timeout=60)
    for text in ("rank 1: g = ", "4,000,000", "380,964", "10.5 times fewer", "200,032", "20.0 times fewer"):
        assert text in run.stdout


# ------------------------------------------------------------------------------------------------ the wrong mpirun


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"])
def test_an_mpirun_of_another_mpi_is_told(variable):
    with pytest.raises(CommError, match=rf"started 2 processes .{variable}=2., but MPI sees 1 in this one.*minidl mpi"):
        check_size(1, {variable: "2"}, "MPICH")
    check_size(2, {variable: "2"}, "MPICH")
    check_size(4, {"MPI_LOCALNRANKS": "2", "PMI_SIZE": "4"}, "two machines")
    check_size(1, {}, "no mpirun")


@mpi
def test_a_rank_finds_out_that_it_is_not_alone():
    ask = [sys.executable, "-c", "from minidl.ternary.comm import world; world()"]
    env = launch.rank_environment(1, {"OMPI_COMM_WORLD_SIZE": "2"})
    run = subprocess.run(ask, env=env, capture_output=True, text=True)
    assert run.returncode and "mpirun started 2 processes" in run.stderr


def test_no_mpi_means_one_rank_or_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    alone = world()
    assert isinstance(alone.comm, OneRank) and alone.Get_size() == 1
    launch.find_mpirun.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'minidl\[mpi\]'"):
        run_ranks(2, ["x.py"], timeout=1)
    launch.find_mpirun.cache_clear()


# ------------------------------------------------------------------------------------------------ one rank, no MPI


def test_one_rank_reduces_to_its_own_ternary_gradient():
    params = ranks_of_tests.network(0)
    before = {name: p.grad.copy() for name, p in params}
    alone = comm_module.Counted(OneRank())
    parallel = DataParallel(params, alone, seed=3)
    parallel.reduce(7)
    for k, (name, p) in enumerate(params):
        ternariser = Ternariser(seed=3)
        s, trits = ternariser.scales(before[name]), ternariser.trits(before[name], step=7, tensor=k)
        assert np.array_equal(p.grad.ravel(), s * trits)
    sent = alone.ledger.total() - alone.ledger.total(phase="agree")
    assert sent == parallel.expected_bytes() == bytes_per_step(1, [p.data.size for _, p in params], 5)
    assert alone.ledger.total(phase="scales") == 20 and alone.ledger.calls["Allreduce", "a.bias", "sum"] == 1


def test_keep_float_by_name_and_missing_gradients():
    params = ranks_of_tests.network(0)
    before = params[4][1].grad.copy()
    parallel = DataParallel(params, comm_module.Counted(OneRank()), keep_float=lambda name, p: name.startswith("c."))
    parallel.reduce(0)
    assert np.array_equal(params[4][1].grad, before) and len(np.unique(params[2][1].grad)) == 3
    params[1][1].grad = None
    with pytest.raises(InputError, match="a.bias has no gradient at step 1"):
        parallel.reduce(1)
    with pytest.raises(InputError, match="'int8' is not one of ternary, gather, float"):
        DataParallel(params, comm_module.Counted(OneRank()), "int8")


def test_a_layer_may_share_one_scale():
    params = ranks_of_tests.network(0)
    parallel = DataParallel(params, comm_module.Counted(OneRank()), scale="layer", clip=None)
    largest = max(np.abs(params[0][1].grad).max(), np.abs(params[1][1].grad).max())
    parallel.reduce(0)
    assert set(np.abs(params[0][1].grad).ravel()) | set(np.abs(params[1][1].grad).ravel()) == {0, largest}


def test_the_compression_ratios_of_the_paper():
    """32 / log2(3) and 32 / log2(1 + 2N), what an ideal code sends; fields send whole bits, and fill words of 64."""
    assert round(32 / np.log2(3), 2) == 20.19
    assert [round(32 / np.log2(1 + 2 * n), 2) for n in (2, 4, 8, 16, 64)] == [13.78, 10.09, 7.83, 6.34, 4.56]
    for n in (2, 4, 8, 16, 64):
        bits = 8 * bytes_per_step(n, [10**6], 1) / 10**6
        assert np.log2(1 + 2 * n) < bits < 1.4 * np.log2(1 + 2 * n)
