"""The benchmark's protocol on programs that take no time, and its rows. No figure of this machine is asserted."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("minidl.bench")

from minidl import bench, cli
from minidl.bench import cases, child, growth, measure, wire
from minidl.errors import InputError, MinidlError

ABOUT = {"version": "1.0", "form": "numpy", "blas": "Haswell", "peak_mib": 40.0}


class Runner:
    """A program whose steps take what it is told: alone, and when another is alive."""

    alive = 0

    def __init__(self, alone, crowded):
        Runner.alive += 1
        self.alone, self.crowded = alone, crowded

    def block(self):
        return [self.crowded if Runner.alive > 1 else self.alone] * 15

    def close(self):
        Runner.alive -= 1
        return ABOUT


def measured(mine, other):
    (found,) = measure.compare(lambda: Runner(*mine), [lambda: Runner(*other)])
    return found


def test_programs_that_do_not_disturb_each_other_get_a_ratio():
    found = bench.compared("mlp", "PyTorch", 1, *measured((0.0020, 0.0021), (0.0040, 0.0042)))
    assert found["ratio"] == pytest.approx(0.5) and found["note"] == ""
    assert found["ms"] == pytest.approx(2.1) and found["peer_ms"] == pytest.approx(4.2)
    assert tuple(found) == bench.FIELDS and found["peer"] == "PyTorch 1.0"
    assert "0.50" in bench.line(found)


@pytest.mark.parametrize("mine, other, guilty", [((2, 2.3), (4, 4), "minidl"), ((2, 2), (4.6, 4), "PyTorch")])
def test_where_alone_and_by_turns_disagree_there_is_no_ratio(mine, other, guilty):
    found = bench.compared("mlp", "PyTorch", 2, *measured(mine, other))
    assert found["ratio"] is None and found["ms"] and found["peer_ms"]
    assert f"{guilty} took" in found["note"] and found["note"].count("took") == 1
    assert "no ratio" in bench.line(found)


def test_blocks_take_turns_after_each_was_alone():
    order = []

    class Recorder(Runner):
        def block(self):
            order.append((self.alone, Runner.alive))
            return [1.0]

    a, b, c = (lambda name=name: Recorder(name, 0) for name in "abc")
    assert [tried for *_, tried in measure.compare(a, [b, c])] == [1, 1]
    n = measure.BLOCKS
    assert n >= 5
    beside_b = [("a", 1)] * n + [("b", 1)] * n + [("a", 2), ("b", 2)] * n
    assert order == beside_b + [("c", 1)] * n + [("a", 2), ("c", 2)] * n  # the first is alone only once


def test_a_disturbed_pair_is_measured_again_in_new_processes():
    alone = iter((1.5, 1.0, 1.0, 1.0))  # seconds: the first try meets something else that runs

    def start():
        return Runner(next(alone), 1.0)

    steady = lambda: Runner(2.0, 2.0)
    found = list(measure.compare(start, [steady]))
    ((mine, other, tried),) = found
    assert tried == 2 and mine.steady and other.steady and mine.alone_ms == pytest.approx(1000)
    assert bench.compared("mlp", "PyTorch", 2, *found[0])["note"] == f"steady at try 2 of at most {measure.TRIES}"
    ((mine, _, tried),) = measure.compare(lambda: Runner(1.5, 1.0), [steady])
    assert tried == measure.TRIES and not mine.steady


def test_a_block_pauses_discards_and_keeps(monkeypatch):
    pauses, now = [], iter(range(10_000))
    monkeypatch.setattr(measure.time, "sleep", pauses.append)
    clock = lambda: next(now) * 0.005  # each step takes 5 ms
    steps = []
    kept = measure.block(lambda: steps.append(0), clock)
    assert pauses[0] == measure.PAUSE and measure.PAUSE >= 0.15
    assert len(kept) >= 15 and sum(kept) >= measure.SPAN and len(steps) - len(kept) >= 3
    kept = measure.block(lambda: None, lambda: next(now) * 0.2)  # a slow step
    assert len(kept) == 3
    kept = measure.block(lambda: None, lambda: next(now) * 2.0)
    assert len(kept) == 1


def test_a_block_ends_when_its_threads_no_longer_spin(monkeypatch):
    used, pauses = iter((0, 0.05, 0.1, 0.14, 0.2, 0.2, 0.3, 0.31)), []  # of the processor, before and after each rest
    monkeypatch.setattr(measure.time, "sleep", pauses.append)
    monkeypatch.setattr(measure.time, "process_time", lambda: next(used))
    measure.rest()
    assert pauses == [measure.REST] * 3
    spinning = iter(range(10_000))
    monkeypatch.setattr(measure.time, "process_time", lambda: next(spinning))
    measure.rest()  # threads that never sleep are waited for, but not for ever
    assert sum(pauses) == pytest.approx(measure.LONGEST_REST + 3 * measure.REST)


def test_the_environment_decides_threads_and_drops_a_pinned_kernel(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    env = measure.environment(2, pinned=False)
    assert env["OPENBLAS_NUM_THREADS"] == env["NUMBA_NUM_THREADS"] == "2" and "OPENBLAS_CORETYPE" not in env
    assert measure.environment(1)["OPENBLAS_CORETYPE"] == "Haswell"


def fake_children(monkeypatch):
    started = []

    class Fake(Runner):
        def __init__(self, *arguments, env):
            super().__init__(0.001, 0.001)
            started.append((*arguments, "OPENBLAS_CORETYPE" in env))

    monkeypatch.setattr(measure, "Child", Fake)
    for pin in measure.PINS:
        monkeypatch.delenv(pin, raising=False)
    return started


def test_missing_peers_are_left_out_with_one_line_each_that_installs_them(monkeypatch, capsys, tmp_path):
    started = fake_children(monkeypatch)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    (found,) = bench.rows(["mlp"], 1)
    assert tuple(found) == bench.FIELDS and "none of its peers" in found["note"]
    assert found["ms"] == pytest.approx(1) and found["peer"] is found["ratio"] is None
    assert {name for _, name, *_ in started} == {"minidl"}
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "onnx" else object())
    bench.bench(["lenet-infer", "lstm-infer"], 1, json_file=str(tmp_path / "rows.json"))
    assert capsys.readouterr().out.count("pip install onnxruntime onnx") == 1
    written = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert len(written["left_out"]) == 1 and [r["peer"] for r in written["rows"]] == ["PyTorch 1.0"] * 2
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert "pip install torch==2.13.0" in bench.left_out(bench.NAMES)[0]
    assert len(bench.left_out(bench.NAMES)) == len(cases.PEERS) and bench.left_out(["growth"]) == []


def test_a_pinned_kernel_is_measured_both_ways(monkeypatch):
    started = fake_children(monkeypatch)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = list(bench.rows(["lenet-infer"], 1))
    assert [(r["peer"], r["ratio"]) for r in found] == [("PyTorch 1.0", 1), ("ONNX Runtime 1.0", 1)] * 2
    assert [pinned for *_, pinned in started] == [False] * 7 + [True] * 7


def test_rows_are_printed_and_written(monkeypatch, tmp_path, capsys):
    fake_children(monkeypatch)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: object())
    file = tmp_path / "rows.json"
    assert cli.main(["bench", "mlp", "mlp-tiny", "--threads", "1", "--json", str(file)]) == 0
    written = json.loads(file.read_text("utf-8"))
    assert [r["name"] for r in written["rows"]] == ["mlp"] * 3 + ["mlp-tiny"] * 3 and written["processor"]
    assert all(tuple(r) == bench.FIELDS for r in written["rows"])
    assert capsys.readouterr().out.count("   1.00 ") == 6
    assert cli.main(["bench", "mlp", "--threads", "1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["threads"] == 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="mpl.*there are mlp-tiny, mlp"):
        bench.bench(["mpl"], 1)
    with pytest.raises(InputError, match="2 threads"):
        bench.bench(["mlp"], 2, clock="cpu")


def test_a_real_child_measures_and_says_what_it_is(monkeypatch):
    runner = measure.Child("mlp-tiny", "minidl", "cpu", env=measure.environment(1))
    seconds = runner.block()
    assert len(seconds) >= 3 and min(seconds) > 0  # more, but after a slow first step (a busy machine)
    about = runner.close()
    assert set(about) == set(ABOUT) and about["form"] in ("numba", "numpy") and runner.process.returncode == 0


def test_a_child_that_dies_is_an_error():
    runner = measure.Child("no such case", "minidl", "cpu", env=measure.environment(1))
    with pytest.raises(MinidlError, match="ended with status 1"):
        runner.block()


@functools.cache
def answers(name, peer, times):
    """What the first steps return: the losses before each update, or logits."""
    step = cases.build(name, peer)
    return [np.array(step()) for _ in range(times)]


SLOW = {"resnet20", "lstm-lm"}
PAIRS = [
    pytest.param(name, peer, marks=pytest.mark.slow if name in SLOW or (name, peer) == ("lenet", "autograd") else ())
    for name, peers in cases.CASES.items()
    for peer in peers
]


@pytest.mark.parametrize("name", [n if n not in SLOW else pytest.param(n, marks=pytest.mark.slow) for n in cases.CASES])
def test_every_step_of_minidl_runs(name):
    first, *_, last = answers(name, "minidl", 2)
    assert np.isfinite(first).all() and (first.ndim == 2 or last < first)


@pytest.mark.parametrize("name, peer", PAIRS)
def test_every_peer_does_the_same_work(name, peer):
    """Three losses in float32 agree only if forward, backward, momentum and the state carried on all do."""
    for package in cases.PEERS[peer].packages:
        pytest.importorskip(package)
    for mine, other in zip(answers(name, "minidl", 3), answers(name, peer, 3), strict=True):
        np.testing.assert_allclose(other, mine, rtol=1e-5, atol=1e-5)


def test_no_peer_is_loaded_where_minidl_is_measured():
    code = "import sys; from minidl.bench import cases, child; cases.build('mlp-tiny', 'minidl')(); "
    code += "print([p for peer in cases.PEERS.values() for p in peer.packages if p in sys.modules and p != 'scipy'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=measure.environment(1))
    assert ran.stdout.strip() == "[]", ran.stderr


def test_peak_memory_is_in_mib():
    assert child.peak_mib() is None or 10 < child.peak_mib() < 1e5


def test_the_exponent_of_a_power_law():
    sizes = (10, 20, 40)
    assert growth.exponent(sizes, [3 * n**2 for n in sizes]) == pytest.approx(2)


def test_growth_is_measured(monkeypatch):
    monkeypatch.setattr(growth, "DEPTHS", (50, 100))
    monkeypatch.setattr(growth, "TIME_STEPS", (4, 8))
    depth, lstm = growth.measure()
    assert (depth["name"], depth["size"], lstm["name"], lstm["size"]) == ("growth-depth", 100, "growth-lstm", 8)
    assert np.isfinite([depth["time"], depth["memory"], lstm["time"], lstm["memory"]]).all()


def test_ternary_gradients_are_measured_beside_a_copy(monkeypatch):
    found = wire.measure(size=1000, turns=2)
    assert [part["name"] for part in found] == ["wire-pack", "wire-add", "wire-mean"]
    assert all(part["ms"] >= 0 and part["copy_ms"] >= 0 and part["size"] == 1000 for part in found)
    answer = [{**ABOUT, "name": "wire-pack", "size": 1000, "ms": 3.0, "copy_ms": 2.0, "note": "packs"}]
    monkeypatch.setattr(bench, "_ask_once", lambda what, env: answer)
    (packed,) = bench.rows(["wire"], 2)
    assert tuple(packed) == bench.FIELDS and packed["ratio"] == 1.5 and packed["threads"] == 1
    assert packed["note"] == "packs; 1,000 numbers, CPU time of one core"


@pytest.mark.slow
def test_packing_costs_two_copies_and_adding_one():
    """Compiled, 25 million numbers, one core. A machine that is disturbed throughout a measurement gets two more."""
    pytest.importorskip("numba")
    for _ in range(3):
        ratios = {part["name"]: part["ms"] / part["copy_ms"] for part in wire.measure()}
        if all(ratios[name] <= most for name, most in wire.LIMITS.items()):
            return
    raise AssertionError(f"in copies of the gradient: {ratios}, where {wire.LIMITS} are allowed")


def test_cold_start_and_growth_are_rows(monkeypatch):
    answers = {"first-step": {**ABOUT, "seconds": 6.0}}
    answers["growth"] = [{**ABOUT, "name": "growth-depth", "size": 1000, "ms": 2.0, "time": 1.01, "memory": 0.99}]
    monkeypatch.setattr(bench, "_ask_once", lambda what, env: answers[what])
    cold, grown = bench.rows(["cold-start", "growth"], 1)
    assert tuple(cold) == tuple(grown) == bench.FIELDS
    assert "above the limit of 5000 ms" in cold["note"] and "n^1.01" in grown["note"] and "1,000" in grown["note"]


def test_nothing_of_it_is_loaded_with_minidl():
    code = "import sys, minidl, minidl.nn, minidl.cli; print([m for m in sys.modules if 'bench' in m])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=measure.environment(1))
    assert ran.stdout.strip() == "[]", ran.stderr


def test_without_the_folder_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench"]) == 2
    assert "minidl/bench is not here" in capsys.readouterr().err
