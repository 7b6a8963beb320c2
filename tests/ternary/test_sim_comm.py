"""Simulated ranks: every collective against NumPy, the clock against its formulas, and how a run ends."""

import contextlib
import threading

import numpy as np
import pytest

from minidl import backend
from minidl.errors import CommError, InputError
from minidl.ternary.comm import MAX, world
from minidl.ternary.launch import report_result
from minidl.ternary.ring import ring_allreduce
from minidl.ternary.sim_comm import SimComm, run_script

RANKS = range(1, 10)
LENGTHS = [0, 1, 2, 7, 8, 9, 40]


def numbers(rank, n, dtype=np.int64):
    return np.random.default_rng([rank, n]).integers(-99, 99, n).astype(dtype)


# ------------------------------------------------------------------------------------------------ what arrives


@pytest.mark.parametrize("n", RANKS)
def test_collectives_give_what_numpy_gives(n):
    def main(comm):
        rank = comm.Get_rank()
        for size in LENGTHS:
            every = np.array([numbers(r, size) for r in range(n)]).reshape(n, size)
            for op, whole in (("SUM", every.sum(0)), (MAX, every.max(0))):
                total = np.empty(size, np.int64)
                comm.Allreduce(every[rank], total, op=op)
                assert np.array_equal(total, whole), (op, size)
            room = np.empty((n, size), np.int64)
            comm.Allgather(every[rank], room)
            assert np.array_equal(room, every)
            counts = [size + r for r in range(n)]
            room = np.empty(sum(counts), np.int64)
            comm.Allgatherv(numbers(rank, counts[rank]), [room, counts])
            assert np.array_equal(room, np.concatenate([numbers(r, counts[r]) for r in range(n)]))
            for root in {0, n - 1, n // 2}:
                room = every[rank].copy() if rank == root else np.full(size, -1)
                comm.Bcast(room, root=root)
                assert np.array_equal(room, every[root])
            # what rank a sends to rank b: size + a - b numbers or none, all of them 100 a + b
            counts = np.maximum(0, size + np.arange(n)[:, None] - np.arange(n))
            going, coming = np.repeat(100 * rank + np.arange(n), counts[rank]), counts[:, rank]
            room = np.empty(coming.sum(), np.int64)
            comm.Alltoallv([going, counts[rank]], [room, coming])
            assert np.array_equal(room, np.repeat([100 * a + rank for a in range(n)], coming))
            room = np.empty((n, size), np.int64)
            comm.Alltoall(np.repeat(np.arange(n) + 10 * rank, size).reshape(n, size), room)
            assert np.array_equal(room, np.repeat(10 * np.arange(n) + rank, size).reshape(n, size))
        assert comm.allgather({"rank": rank}) == [{"rank": r} for r in range(n)]
        assert comm.bcast(["x", rank], root=n - 1) == ["x", n - 1]
        comm.Barrier()
        return (rank, comm.Get_size())

    assert SimComm(n).run(main) == [(rank, n) for rank in range(n)]


def test_messages_of_a_tag_a_communicator_and_a_source_keep_their_order():
    def main(comm):
        other, room = comm.Dup(), np.zeros(1)
        seen = []
        if comm.Get_rank() == 0:
            for number, (through, tag) in enumerate([(comm, 0), (comm, 5), (other, 0), (comm, 0)]):
                through.Send(np.array([float(number)]), 1, tag)
        if comm.Get_rank() == 1:
            for through, tag in [(other, 0), (comm, 5), (comm, 0), (comm, 0)]:
                through.Recv(room, 0, tag)
                seen.append(room[0])
        return seen

    assert SimComm(2).run(main)[1] == [2, 1, 0, 3]


def test_a_request_can_be_asked_until_it_is_done():
    def main(comm):
        room = np.zeros(2)
        if comm.Get_rank() == 0:
            request = comm.Irecv(room, 1)
            assert not request.Test() and not request.Test(), "rank 1 still waits"
            comm.Send(np.ones(2), 1)
            while not request.Test():
                pass
            assert request.Test() and (room == 7).all()
            comm.Send(room + 1, 0, tag=1)  # to itself
            comm.Recv(room, 0, tag=1)
        else:
            comm.Recv(room, 0)
            comm.Isend(np.full(2, 7.0), 0).Wait()
        return room[0]

    assert SimComm(2).run(main) == [8, 1]


def test_what_is_sent_is_a_copy():
    def main(comm):
        mine, theirs = np.full(3, float(comm.Get_rank())), np.empty(3)
        comm.Isend(mine, 1 - comm.Get_rank())
        mine[:] = 9
        comm.Recv(theirs, 1 - comm.Get_rank())
        return theirs[0]

    assert SimComm(2).run(main) == [1, 0]


# ------------------------------------------------------------------------------------------------ the clock

ALPHA, BANDWIDTH, D = 1e-3, 1e6, 5040 * 8  # seconds, bytes a second, bytes; 5040 is divisible by 1 to 9
CALLS = {
    "Allreduce": (lambda comm, g, n: comm.Allreduce(g, np.empty_like(g)), lambda n: (2 * (n - 1), 2 * (n - 1) / n)),
    "Allgather": (lambda comm, g, n: comm.Allgather(g, np.empty((n, g.size))), lambda n: (n - 1, n - 1)),
    "Alltoall": (lambda comm, g, n: comm.Alltoall(g, np.empty_like(g)), lambda n: (n - 1, (n - 1) / n)),
    "Bcast": (lambda comm, g, n: comm.Bcast(g), lambda n: ((n - 1).bit_length(), (n - 1).bit_length())),
    "Barrier": (lambda comm, g, n: comm.Barrier(), lambda n: ((n - 1).bit_length(), 0)),
    "ring": (lambda comm, g, n: ring_allreduce(g, comm), lambda n: (2 * (n - 1), (n - 1) / n)),  # float32 of float64
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("n", RANKS)
def test_the_clock_follows_the_formulas(call, n):
    """alpha times the rounds plus beta times the bytes, to the last digits."""
    do, formula = CALLS[call]
    sim = SimComm(n, latency=ALPHA, bandwidth=BANDWIDTH)
    sim.run(lambda comm: do(comm, np.ones(D // 8), n))
    rounds, share = formula(n)
    predicted = rounds * ALPHA + share * D / BANDWIDTH
    if call == "Bcast" and n & (n - 1):  # the last step is not full: its message may leave early
        assert 0.7 * predicted < sim.seconds < predicted
    else:
        assert sim.seconds == pytest.approx(predicted, rel=1e-12)
    if call not in ("Bcast", "Barrier"):
        assert set(sim.sent) == set(sim.received) == {round(share * D)}


def test_two_messages_into_one_rank_share_its_wire():
    def main(comm):
        room = np.empty(125)
        if comm.Get_rank() < 2:
            comm.Send(np.ones(125), 2)
        else:
            for source in (0, 1):
                comm.Recv(room, source)

    sim = SimComm(3, latency=0.5, bandwidth=1000)
    arrived = [message.arrived for message in sim.walk(main)]
    assert arrived == [1.5, 2.5] and sim.seconds == 2.5 and sim.sent == [1000, 1000, 0] and sim.received[2] == 2000


def test_segments_on_their_way_together_take_less_time():
    times = []
    for segment in (5040, 504):
        sim = SimComm(4, latency=ALPHA, bandwidth=BANDWIDTH)
        sim.run(lambda comm: ring_allreduce(np.ones(5040), comm, segment=segment))  # noqa: B023
        times.append(sim.seconds)
    assert times[1] <= times[0]


# ------------------------------------------------------------------------------------------------ one message at a time


def test_walking_stops_before_a_message_is_delivered():
    """A ring of two: each message seen, in order of time, before its receiver has its numbers."""
    known: list[dict] = [{}, {}]

    def main(comm):
        g, total = np.array([1.0, 10.0]) * (1 + comm.Get_rank()), np.empty(2)
        room = np.empty(1)
        comm.Isend(g[:1], 1 - comm.Get_rank())
        comm.Recv(room, 1 - comm.Get_rank())
        known[comm.Get_rank()]["room"] = room[0]
        comm.Allreduce(g, total)
        return total.tolist()

    sim, seen = SimComm(2, latency=1.0), []
    for message in sim.walk(main):
        if message.call == "Isend":
            assert "room" not in known[message.dest]
        seen.append((message.source, message.dest, message.call, message.data.tolist(), message.sent))
    assert seen == [
        (0, 1, "Isend", [1.0], 0), (1, 0, "Isend", [2.0], 0),
        (0, 1, "Allreduce", [1.0], 1), (1, 0, "Allreduce", [20.0], 1),
        (0, 1, "Allreduce", [30.0], 2), (1, 0, "Allreduce", [3.0], 2),
    ]  # fmt: skip
    assert sim.results == [[3, 30], [3, 30]] and known == [{"room": 2}, {"room": 1}]
    assert [m.data.tolist() for m in sim.walk(main)] == [data for *_, data, _ in seen], "every run is the same run"


def test_who_walks_no_further_leaves_no_thread_behind():
    before, ended = threading.active_count(), []

    def main(comm):
        with contextlib.suppress(Exception):
            try:
                comm.Barrier()
            finally:
                ended.append(comm.Get_rank())
        comm.Barrier()

    walk = SimComm(4, latency=1.0).walk(main)
    for _ in range(4):
        next(walk)
    assert threading.active_count() == before + 4
    walk.close()
    assert threading.active_count() == before and sorted(ended) == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------------ ends


def test_a_rank_that_raises_ends_all_and_is_named():
    def main(comm):
        if comm.Get_rank() == 2:
            raise ValueError("it has had enough\nof it")
        comm.Barrier()

    with pytest.raises(CommError, match="^rank 2 raised ValueError: it has had enough$") as told:
        SimComm(3).run(main)
    assert isinstance(told.value.__cause__, ValueError)


def test_ranks_that_all_wait_are_told_for_what():
    def main(comm):
        match comm.Get_rank():
            case 0:
                comm.Allreduce(np.ones(4), np.ones(4))
            case 1:
                comm.Barrier()
            case 2:
                comm.Recv(np.ones(4), 0, tag=7)

    says = (
        "no rank can go on: rank 0 waits in Allreduce for rank 3; rank 1 waits in Barrier for rank 0; "
        r"rank 2 waits in Recv for rank 0 \(tag 7\); rank 3 has ended"
    )
    with pytest.raises(CommError, match=says):
        SimComm(4).run(main)


@pytest.mark.parametrize(
    "main, says",
    [
        (
            lambda c: c.Allreduce(np.ones(4 + 2 * c.Get_rank()), np.ones(4 + 2 * c.Get_rank())),
            "rank 0 has room for 16 bytes from rank 1 in Allreduce, but 24",
        ),
        (
            lambda c: c.Bcast(np.ones(4 + c.Get_rank())),
            "rank 1 has room for 40 bytes from rank 0 in Bcast, but 32 came",
        ),
        (lambda c: c.Send(np.ones(1), 2), "rank 0 sends to rank 2, but there are 2 ranks"),
        (lambda c: c.Recv(np.ones(1), -1), "rank 0 waits for rank -1, but there are 2 ranks"),
        (
            lambda c: c.Alltoallv([np.ones(4), [1, 2]], [np.ones(4), [2, 2]]),
            "Alltoallv on rank 0: 2 counts that add up to 3, for 2 ranks and a buffer of 4 elements",
        ),
        (lambda c: exec("import sys; sys.exit(3)"), "rank 0 left with exit status 3"),
    ],
)
def test_what_cannot_be_is_refused(main, says):
    with pytest.raises(CommError, match=says):
        SimComm(2).run(main)


def test_odd_networks_are_refused():
    for options in ({"latency": -1.0}, {"latency": np.inf}, {"bandwidth": 0.0}, {"bandwidth": np.nan}):
        with pytest.raises(InputError, match="latency .* s and bandwidth .* bytes/s: at least 0, and more than 0"):
            SimComm(2, **options)
    with pytest.raises(InputError, match="0 ranks: at least 1"):
        SimComm(0)


# ------------------------------------------------------------------------------------------------ scripts, contexts


def test_each_rank_has_a_copy_of_the_context():
    def main(comm):
        before = backend.current_form()
        with backend.form("numba" if comm.Get_rank() else "numpy"):
            comm.Barrier()
            return before, backend.current_form()

    with backend.form("numpy"):
        assert SimComm(2).run(main) == [("numpy", "numpy"), ("numpy", "numba")]
    assert world().Get_size() == 1 and SimComm(3).run(lambda comm: world().Get_size()) == [3, 3, 3]


SCRIPT = """
import sys
import numpy as np
import beside
from minidl.ternary.comm import world
from minidl.ternary.launch import report_progress, report_result

comm = world()
total = np.empty(2)
comm.Allreduce(np.full(2, comm.Get_rank() + 1.0), total)
report_progress(1)
report_result({"total": total, "pair": (1, 2), "argv": sys.argv[1:], "name": __name__, "beside": beside.answer})
total[:] = 0
if __name__ == "__main__" and "leave" in sys.argv:
    sys.exit()
"""


@pytest.mark.parametrize("each", [None, [].append])
def test_a_script_reports_what_it_would_under_mpirun(tmp_path, each):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("answer = 42")
    results = run_script(str(tmp_path / "script.py"), ["leave"], 3, each=each, latency=1e-3)
    for result in results:
        assert np.array_equal(result.pop("total"), [6, 6])
        assert result == {"pair": [1, 2], "argv": ["leave"], "name": "__main__", "beside": 42}
    assert len(results) == 3 and (each is None or len(each.__self__) == 3 * 4)
    report_result({"nobody": "listens"})
