"""The examples: those that train run on real ranks, and end with one checksum on one rank and on two."""

import re
from pathlib import Path

import pytest

from minidl.data.images import mnist
from minidl.errors import DataError, MissingExtra
from minidl.ternary import launch
from minidl.ternary.sim_comm import run_script

EXAMPLES = Path(__file__).parents[2] / "mpi_examples"

try:
    launch.find_mpirun()
    NO_MPI = ""
except MissingExtra as missing:
    NO_MPI = str(missing)
needs_mpi = pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)


def output(ranks, name, *arguments):
    return launch.run_ranks(ranks, [str(EXAMPLES / name), *map(str, arguments)], timeout=120).stdout


def checksum(text):
    return re.search(r"weights (\w{8})", text)[1]


@pytest.mark.mpi
@needs_mpi
def test_train_lenet():
    try:
        mnist(allow_download=False)
    except DataError as error:
        pytest.skip(str(error))
    two = output(2, "train_lenet.py", "--steps", 2)
    for text in ("step    0   loss 2.", "2 ranks for 4 workers", "sends 628,112 bytes", "5,024,320"):
        assert text in two


@pytest.mark.mpi
@needs_mpi
@pytest.mark.slow
def test_train_lenet_goes_on_from_its_checkpoint(tmp_path):
    arguments = ["train_lenet.py", "--workers", 2, "--checkpoint"]
    whole = output(1, *arguments, tmp_path / "whole.npz", "--steps", 4)
    first = output(2, *arguments, tmp_path / "run.npz", "--steps", 4)
    again = output(1, *arguments, tmp_path / "run.npz", "--steps", 4)
    assert "step    0" in first and "step" not in again.partition("mnist")[0], "there was nothing left to do"
    assert checksum(whole) == checksum(first) == checksum(again)


@pytest.mark.mpi
@needs_mpi
@pytest.mark.slow
def test_train_lstm():
    arguments = ["train_lstm.py", "--steps", 3, "--hidden", 20]
    two = output(2, *arguments)
    assert "perplexity" in two and re.search(r"Allgatherv +output.weight +float +3", two)
    assert checksum(output(1, *arguments)) == checksum(two)


def test_allreduce_step_by_step(capsys):
    """Two ranks would not be alone, so what it does alone is what is shown: 24 messages of one word."""
    run_script(str(EXAMPLES / "allreduce_step_by_step.py"), [], 1)
    said = capsys.readouterr().out
    assert said.count(" -> ") == 24 and said.count("   8 bytes") == 24 and "step 6, at 5.003 ms: finished sums" in said
    assert "each has sent 48 bytes; 64 floats over the same ring are 384" in said


@pytest.mark.parametrize("mode, total", [("ternary", 478_568), ("gather", 251_504)])
def test_byte_ledger(capsys, mode, total):
    run_script(str(EXAMPLES / "byte_ledger.py"), ["--mode", mode], 2)
    said = capsys.readouterr().out
    assert f"step 1 of 3: {total:,} bytes; predicted before it: {total:,}\n" in said and "ip1.weight" in said


def test_scaling(capsys):
    run_script(str(EXAMPLES / "scaling.py"), ["--numbers", "5000", "--ms", "0.001", "--compute", "0.001"], 1)
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[0] for line in lines] == ["2", "4", "8", "16"]
    gains = [float(line.split()[-6]) for line in lines]
    assert min(gains) > 1.5 and "not worth it" not in "".join(lines)
    run_script(str(EXAMPLES / "scaling.py"), ["--numbers", "5000", "--mbit", "1e5", "--compute", "1"], 1)
    assert capsys.readouterr().out.count("not worth it") == 4
