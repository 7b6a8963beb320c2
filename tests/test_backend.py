"""The door to the fast forms: which form runs, how it is chosen, and that the choice stays where it was made."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from minidl import Tensor, backend, no_grad, trace
from minidl.errors import InputError, MissingExtra
from minidl.layers import linear


@pytest.fixture
def double(monkeypatch):
    """A marked function, and a place for its twin: set `fast` to what minidl/fast would hold."""
    fast: dict = {}

    class Room:
        def __getattr__(self, name):
            try:
                return fast[name]
            except KeyError:
                raise AttributeError(name) from None

    monkeypatch.setattr(backend, "_fast_module", lambda room: Room())

    @backend.twin
    def double(x):
        return 2 * x

    double.fast = fast
    monkeypatch.setattr(backend, "calls", backend.Counter())
    return double


def test_without_a_twin_the_numpy_form_runs(double):
    assert double(3) == 6
    assert backend.calls == {("double", "numpy"): 1}


def test_with_a_twin_the_twin_runs_unless_numpy_is_asked_for(double):
    double.fast["double"] = lambda x: x + x + 0.5
    assert double(3) == 6.5
    with backend.form("numpy"):
        assert double(3) == 6
    assert double.numpy(3) == 6  # the oracle is always at hand
    assert backend.calls == {("double", "numba"): 1, ("double", "numpy"): 1}


def test_a_twin_may_decline(double):
    double.fast["double"] = lambda x: NotImplemented
    assert double(3) == 6
    assert backend.calls == {("double", "numpy"): 1}


def test_asking_for_numba_where_there_is_none_is_an_error_with_the_remedy(double):
    with backend.form("numba"), pytest.raises(MissingExtra, match=r"double has no Numba form here: pip install"):
        double(3)


def test_an_unknown_form_is_refused_and_the_forms_named():
    with pytest.raises(InputError, match="form 'cuda' is not one of auto, numpy, numba, composed"):
        with backend.form("cuda"):
            pass


def test_forms_nest_and_are_restored_after_an_error():
    outside = backend.current_form()
    with backend.form("numpy"):
        with pytest.raises(ValueError, match="inside"), backend.form("composed"):
            assert backend.current_form() == "composed"
            raise ValueError("inside")
        assert backend.current_form() == "numpy"
    assert backend.current_form() == outside


def in_a_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join()
    return result[0]


def test_flags_do_not_leak_into_another_thread():
    x = Tensor(np.ones(2), requires_grad=True)
    outside = backend.current_form()
    with backend.form("composed"), no_grad(), trace() as tape:
        assert in_a_thread(backend.current_form) == outside
        assert in_a_thread(lambda: (x * 2).requires_grad)
        assert tape == []
        assert not (x * 2).requires_grad
        assert len(tape) == 1


def test_two_threads_hold_two_forms_at_the_same_time():
    barrier, seen = threading.Barrier(2, timeout=20), {}

    def run(name):
        with backend.form(name):
            barrier.wait()
            x = Tensor(np.ones((1, 2)), requires_grad=True)
            seen[name] = linear(x, Tensor(np.ones((1, 2)))).node.name
            barrier.wait()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("numpy", "composed")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"numpy": "linear", "composed": "matmul"}


def test_an_unknown_form_in_the_environment_is_refused():
    run = subprocess.run(
        [sys.executable, "-c", "import minidl"], env={"MINIDL_FORM": "cuda", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0
    assert "MINIDL_FORM is 'cuda'; it is one of auto, numpy, numba, composed" in run.stderr.splitlines()[-1]


def test_the_environment_chooses_the_form_of_a_process():
    code = "from minidl import backend; print(backend.current_form())"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"MINIDL_FORM": "numpy", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "numpy"
