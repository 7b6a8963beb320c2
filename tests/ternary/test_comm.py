"""The names every communicator has, alone and counted, and what the ledger makes of them."""

import threading

import numpy as np
import pytest

from minidl.errors import CommError
from minidl.ternary.comm import MAX, Counted, Ledger, OneRank


def test_alone_every_call_gives_back_what_it_was_given():
    comm, g = Counted(OneRank()), np.arange(6, dtype=np.float32)
    calls = {
        "Allreduce": lambda out: comm.Allreduce(g, out, op=MAX),
        "Allgather": lambda out: comm.Allgather(g, out.reshape(1, 6)),
        "Allgatherv": lambda out: comm.Allgatherv(g, [out, [6]]),
        "Alltoall": lambda out: comm.Alltoall(g, out),
        "Alltoallv": lambda out: comm.Alltoallv([g, [6]], [out, [6]]),
        "Send": lambda out: (comm.Send(g, 0), comm.Recv(out, 0)),
        "Isend": lambda out: (comm.Isend(g, 0, tag=3).Wait(), comm.Irecv(out, 0, tag=3).Wait()),
    }
    for call, do in calls.items():
        out = np.zeros_like(g)
        do(out)
        assert np.array_equal(out, g), call
        assert comm.ledger.total(call=call) == 24, call
    assert comm.bcast({"a": 1}) == {"a": 1} and comm.allgather("x") == ["x"]
    comm.Barrier()
    assert comm.Get_rank() == 0 and comm.Get_size() == 1


def test_a_message_to_oneself_is_a_copy_and_comes_in_its_turn():
    comm, g, out = OneRank(), np.zeros(3), np.ones(3)
    request = comm.Irecv(out, 0)
    assert not request.Test()
    comm.Send(g, 0)
    comm.Send(g + 2, 0)
    g[:] = 5
    assert request.Test() and request.Test() and (out == 0).all(), "done once, and then it stays done"
    comm.Recv(out, 0)
    assert (out == 2).all()
    with pytest.raises(CommError, match="alone and waits for a message .tag 4."):
        comm.Recv(out, 0, tag=4)


def test_the_ledger_is_by_step_tensor_phase_and_call():
    comm = Counted(OneRank())
    g, out = np.zeros(10, np.float32), np.zeros(10, np.float32)
    comm.Allreduce(g, out)
    for step in range(3):
        comm.ledger.step = step
        with comm.ledger.about("w", "sum"):
            comm.Allreduce(g, out)
            with comm.ledger.about("b", "scale", step=1):
                comm.Allgather(g[:2], out[:2])
            comm.Allreduce(g[:1], out[:1])
    total = comm.ledger.total
    assert total() == 40 + 3 * (40 + 8 + 4)
    assert [total(step=step) for step in (-1, 0, 1, 2)] == [40, 44, 44 + 24, 44]
    assert total(tensor="w") == 3 * 44 and total(phase="scale") == total(call="Allgather", tensor="b", step=1) == 24
    assert comm.ledger.calls["Allreduce", "w", "sum"] == 6 and comm.ledger.calls["Allgather", "b", "scale"] == 3
    table = comm.ledger.table().splitlines()
    assert table[2].split() == ["Allreduce", "w", "sum", "6", "0..2", "132"]
    assert table[3].split() == ["Allgather", "b", "scale", "3", "1", "24"] and table[-1].split() == ["all", "196"]
    assert Ledger().table().splitlines()[-1].split() == ["all", "0"]


def test_threads_share_a_ledger_and_no_subject():
    """As a communication thread beside backward does, over a second communicator of the same ranks."""
    comm = Counted(OneRank())
    other, inside, done = comm.Dup(), threading.Event(), threading.Event()

    def talk():
        inside.wait(10)
        other.Send(np.zeros(5, np.uint8), 0)
        done.set()

    thread = threading.Thread(target=talk)
    thread.start()
    with comm.ledger.about("w", "sum"):
        inside.set()
        assert done.wait(10)
        comm.Send(np.zeros(3, np.uint8), 0)
    thread.join()
    assert comm.ledger.total(tensor="w") == 3 and comm.ledger.total(tensor="") == 5 and other.ledger is comm.ledger
    with pytest.raises(CommError):
        other.Recv(np.zeros(3, np.uint8), 0, tag=1)
