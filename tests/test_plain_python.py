"""The proof with `NUMBA_DISABLE_JIT=1`: every Numba kernel as plain Python, so that a debugger can step through it.

Python's own arithmetic also notices what compiled code does not: an index below zero, a number that runs over.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
pytest.importorskip("minidl.fast")

TESTS = Path(__file__).parent
PROOF = ("golden", "test_proof.py", "test_rules.py", "test_methods.py", "test_losses.py", "test_gradcheck.py",
         "test_locate.py", "layers")  # fmt: skip


def run(*arguments: str) -> str:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": ":".join(sys.path)}
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments],
        cwd=TESTS.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    return outcome.stdout


def test_numba_kernels_equal_pytorch_as_plain_python():
    """The stored PyTorch values, in the form that takes the twins."""
    assert " passed" in run("tests/golden", "-k", "auto")


@pytest.mark.slow
def test_the_whole_proof_passes_as_plain_python():
    """Small sizes: what is measured at full size (float32 at measured sizes) would take minutes without a compiler."""
    assert " passed" in run(*(f"tests/{name}" for name in PROOF), "-k", "not measured_sizes")
