"""Ranks that fail: a sentence with the rank and its last step, an end in time, no process left, a whole checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from test_ranks import SCRIPT, gone, mpi, started

from minidl import checkpoint
from minidl.errors import CommError, InputError
from minidl.ternary import heartbeat, launch
from minidl.ternary.heartbeat import KILLED, Heart, Listener
from minidl.ternary.launch import host_flags, mpirun_main, run_ranks

# What happens to rank 1 after step 3 -> the sentence. The others wait in step 4 for what never comes.
SENTENCES = {
    "killed": r"rank 1 was killed, or left by os\._exit \(mpirun: exit status \d+\), last heard of at step 3",
    "stopped": r"on 2 ranks: rank 1 has said nothing for 3 s \(stopped\?\), last heard of at step 3",
    "raises": r"rank 1 raised ValueError: rank 1 has had enough, last heard of at step 3",
    "leaves": r"rank 1 was killed, or left by os\._exit \(mpirun: exit status \d+\), last heard of at step 3",
    "leaves well": r"rank 1 was killed, or left by os\._exit( \(.*\))?, last heard of at step 3",
    "ends": r"no rank has moved on for 3 s: rank 1 at its end, last heard of at step 3; rank 0 at \S+, .* at step 4",
    "clings": r"on 2 ranks: rank 1 raised ValueError: but does not end, last heard of at step 3",
    "skips": r"no rank has moved on for 3 s: rank 1 at ranks_of_tests\.py:\d+, .* step 3; rank 0 at \S+, .* at step 4",
}
QUICK = ("killed", "stopped")


@mpi
@pytest.mark.parametrize(
    "how", [how if how in QUICK else pytest.param(how, marks=pytest.mark.slow) for how in SENTENCES]
)
def test_one_sentence_names_the_rank_and_its_last_step(tmp_path, how):
    start = time.monotonic()
    with pytest.raises(CommError, match=SENTENCES[how]):
        run_ranks(2, [SCRIPT, "fails", how, str(tmp_path)], timeout=60, stall=3)
    assert time.monotonic() - start < 30, "3 s of silence, 2 s of grace, and the start of a slow machine"
    pids = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
    last = checkpoint.load(tmp_path / "last.npz")
    assert last.step in ((2, 3) if how != "skips" else (2, 3, 4))
    assert np.array_equal(last.extra["total"], np.full(100_000, last.step + 1))  # a gradient of ones has the mean one


@mpi
def test_minidl_mpirun_says_the_sentence_and_fails(tmp_path, capfd):
    assert mpirun_main(["-n", "2", "--stall", "3", "--timeout", "60", SCRIPT, "fails", "raises", str(tmp_path)]) == 1
    assert (
        "minidl: rank 1 raised ValueError: rank 1 has had enough, last heard of at step 3\n" in capfd.readouterr().err
    )


@mpi
@pytest.mark.slow
def test_ranks_do_not_outlive_a_launcher_that_is_killed(tmp_path):
    code = f"from minidl.ternary.launch import mpirun_main; mpirun_main(['-n', '2', {SCRIPT!r}, 'hangs', '{tmp_path}'])"
    parent = subprocess.Popen([sys.executable, "-c", code], env=launch.rank_environment(), stderr=subprocess.DEVNULL)
    pids = started(tmp_path)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all(gone(pid) for pid in pids)


# ------------------------------------------------------------------------------------------------ what is heard


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


def until(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def hearts(listener, monkeypatch, n):
    """n ranks of this process, which are heard one after the other."""
    found = []
    for rank in range(n):
        monkeypatch.setenv("PMI_RANK", str(rank))
        found.append(Heart(listener.address))
        assert until(lambda: len(listener.voices) == len(found))
    return found


def test_all_is_well(listener, monkeypatch):
    first, second = hearts(listener, monkeypatch, 2)
    monkeypatch.setattr(heartbeat, "heart", first)
    for step in range(4):
        heartbeat.beat(np.int64(step))
    assert until(lambda: listener.voices[0].step == 3) and listener.verdict(60) is None
    for heart in (first, second):
        heart.tell(end="")
    assert until(lambda: listener.voices[1].end == "")
    assert listener.verdict(0.0) is None, "ranks that have ended need not speak"


def test_the_first_to_end_is_named(listener, monkeypatch):
    first, second = hearts(listener, monkeypatch, 2)
    second.tell(step=7)
    second.line.sendall(b'{"step": 8')  # half a line
    second.line.shutdown(socket.SHUT_RDWR)
    assert until(lambda: listener.voices[1].end == KILLED)
    first.tell(end="raised CommError: rank 1 is gone")
    assert until(lambda: listener.voices[0].end)
    assert listener.verdict(None) == f"rank 1 {KILLED}, last heard of at step 7"
    assert listener.verdict(None, 9) == f"rank 1 {KILLED} (mpirun: exit status 9), last heard of at step 7"


def test_silence_counts_from_the_first_step_on(listener, monkeypatch):
    first, second = hearts(listener, monkeypatch, 2)
    time.sleep(0.1)
    assert listener.verdict(0.05) is None, "no step yet: it may be loading data"
    first.tell(step=0)
    assert until(lambda: listener.voices[0].step == 0)
    assert listener.verdict(0.05) == "rank 1 has said nothing for 0.05 s (stopped?), before its first step"


def test_living_ranks_that_do_not_move_on_are_told(listener, monkeypatch):
    both = hearts(listener, monkeypatch, 2)
    for heart, step in zip(both, (4, 3), strict=True):
        heart.tell(step=step, where="comm.py:70")
    time.sleep(0.5)

    def again(**news):
        before = [voice.heard for voice in listener.voices]
        for heart in both:
            heart.tell(where="comm.py:70", **news)
        assert until(lambda: all(v.heard > t for v, t in zip(listener.voices, before, strict=True)))

    again()
    behind = "rank 1 at comm.py:70, last heard of at step 3; rank 0 at comm.py:70, last heard of at step 4"
    assert listener.verdict(0.4) == f"no rank has moved on for 0.4 s: {behind}"
    again(step=5)
    assert listener.verdict(0.4) is None


def test_only_our_ranks_are_heard(listener):
    host, port, _ = listener.address.split()
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"wrong 1\n" + b'{"end": "raised"}\n'):
        with socket.create_connection((host, int(port))) as line:
            line.sendall(said)
    time.sleep(0.1)
    assert not listener.voices and host == "127.0.0.1"


def test_a_rank_that_does_not_reach_its_launcher_says_so():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(CommError, match=rf"rank \d+ does not reach its launcher at 127.0.0.1:{port}"):
        Heart(f"127.0.0.1 {port} word")
    heartbeat.beat(3)  # without a launcher: nothing happens
    assert heartbeat.heart is None


def test_simulated_ranks_need_no_mpi(capfd, monkeypatch):
    pytest.importorskip("minidl.ternary.sim_comm")
    monkeypatch.setattr(launch, "find_mpirun", None)
    assert mpirun_main(["-n", "3", "--simulate", SCRIPT, "tells"]) == 0
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "said by 0", "said by 1", "said by 2"]
    assert mpirun_main(["-n", "2", "--simulate", SCRIPT, "raises"]) == 1
    assert "CommError: rank 1 raised ValueError: rank 1 has had enough" in capfd.readouterr().err
    results = launch.run_ranks(2, [SCRIPT, "tells"], timeout=60, simulate=True, threads=1).results
    assert [r["rank"] for r in results] == [0, 1] and set(results[0]["threads"].values()) == {"1"}, "as real ranks"
    with pytest.raises(CommError, match="(?s)exit status 1.*rank 1 raised ValueError"):
        launch.run_ranks(2, [SCRIPT, "raises"], timeout=60, simulate=True)


# ------------------------------------------------------------------------------------------------ hosts


def test_hostfiles_of_both_kinds_go_to_both_mpis(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# lecture hall\nleft:4\nright slots = 2   # the old one\n\n10.0.0.7\n")
    assert host_flags("MPICH", str(file)) == host_flags("Intel", str(file)) == ["-hosts", "left:4,right:2,10.0.0.7:1"]
    flags = host_flags("Open MPI", str(file))
    assert flags[:2] == ["--host", "left:4,right:2,10.0.0.7:1"]
    assert flags[2::2] == ["-x"] * (len(flags) // 2 - 1) and {"PYTHONPATH", heartbeat.HEART} <= set(flags[3::2])
    file.write_text("left 4\n")
    with pytest.raises(InputError, match="hosts, line 1: 'left 4' is not `name`, `name:4` or `name slots=4`"):
        host_flags("MPICH", str(file))
    file.write_text("# nobody\n")
    with pytest.raises(InputError, match="hosts names no machine"):
        host_flags("MPICH", str(file))


@mpi
def test_a_hostfile_with_this_machine_runs(tmp_path, capfd):
    (tmp_path / "hosts").write_text("localhost:2\n")
    assert mpirun_main(["-n", "2", "--hostfile", str(tmp_path / "hosts"), "--timeout", "60", SCRIPT, "tells"]) == 0
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "said by 0", "said by 1"]


@mpi
def test_a_limit_shorter_than_the_beats_is_refused():
    with pytest.raises(InputError, match=r"stall 1 s: ranks tell every 0.5 s that they live; allow at least 2 s"):
        run_ranks(2, ["x.py"], timeout=1, stall=1)
