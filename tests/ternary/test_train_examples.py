"""The two examples that train: they run on real ranks, and end with one checksum on one rank and on two."""

import re
from pathlib import Path

import pytest

from minidl.data.images import mnist
from minidl.errors import DataError, MissingExtra
from minidl.ternary import launch

EXAMPLES = Path(__file__).parents[2] / "mpi_examples"

try:
    launch.find_mpirun()
    NO_MPI = ""
except MissingExtra as missing:
    NO_MPI = str(missing)
pytestmark = [pytest.mark.mpi, pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)]


def output(ranks, name, *arguments):
    return launch.run_ranks(ranks, [str(EXAMPLES / name), *map(str, arguments)], timeout=120).stdout


def checksum(text):
    return re.search(r"weights (\w{8})", text)[1]


def test_train_lenet():
    try:
        mnist(allow_download=False)
    except DataError as error:
        pytest.skip(str(error))
    two = output(2, "train_lenet.py", "--steps", 2)
    for text in ("step    0   loss 2.", "2 ranks for 4 workers", "sends 628,112 bytes", "5,024,320"):
        assert text in two


@pytest.mark.slow
def test_train_lenet_goes_on_from_its_checkpoint(tmp_path):
    arguments = ["train_lenet.py", "--workers", 2, "--checkpoint"]
    whole = output(1, *arguments, tmp_path / "whole.npz", "--steps", 4)
    first = output(2, *arguments, tmp_path / "run.npz", "--steps", 4)
    again = output(1, *arguments, tmp_path / "run.npz", "--steps", 4)
    assert "step    0" in first and "step" not in again.partition("mnist")[0], "there was nothing left to do"
    assert checksum(whole) == checksum(first) == checksum(again)


@pytest.mark.slow
def test_train_lstm():
    arguments = ["train_lstm.py", "--steps", 3, "--hidden", 20]
    two = output(2, *arguments)
    assert "perplexity" in two and re.search(r"Allgatherv +output.weight +float +3", two)
    assert checksum(output(1, *arguments)) == checksum(two)
