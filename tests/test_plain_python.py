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
         "test_locate.py", "test_arguments.py", "layers", "ternary/test_pack.py",
         "ternary/test_ternarise.py")  # fmt: skip
MANY = ("measured_sizes", "over_all_draws", "symmetry", "unbiased", "variance", "gaussian", "uniform", "boundary",
        "own_scale", "many_lanes", "proof_refuses", "no_coordinate", "noise_of", "bias_is")  # fmt: skip
"""Tests of millions of numbers, or float32 at full size."""


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


def test_trits_are_packed_and_drawn_to_the_same_bits_as_plain_python():
    names = "published_vectors or decoding_the_sum or largest_sum or hash_vectors or edges"
    assert " passed" in run("tests/ternary/test_pack.py", "tests/ternary/test_ternarise.py", "-k", names)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_proof_passes_as_plain_python():
    """Small sizes: what takes millions of numbers would take minutes without a compiler."""
    assert " passed" in run(*(f"tests/{name}" for name in PROOF), "-k", f"not ({' or '.join(MANY)})")
