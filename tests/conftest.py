"""What every test shares.

Rooms that can be deleted (minidl/fast, claims, bench, classroom): a test of such a room starts its file with

    pytest.importorskip("minidl.claims")

before it imports from there, so that the remaining tests run without it. Tests of several ranks carry
`@pytest.mark.mpi` and start with `pytest.importorskip("mpi4py")`. Tests of optional packages do likewise.
"""

import os

import pytest

# Before NumPy is loaded: one thread, so that sums have one order and two test runs on a machine do not fight for cores.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(autouse=True)
def no_leaked_state():
    """Fail a test that leaves one of minidl's context variables changed: the next one would run something else."""
    from minidl import backend, tensor

    def state():
        return {
            "form": backend.current_form(), "use": backend.replacements.get(), "grad": tensor._grad_enabled.get(),
            "trace": tensor._trace.get(),
        }  # fmt: skip

    before = state()
    yield
    assert state() == before, "the test changed minidl's context variables and did not put them back"
