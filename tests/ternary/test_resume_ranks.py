"""kill -9 of a real rank in the middle of a training, and the run that goes on: the bits of the one that was spared."""

import numpy as np
import pytest
import ranks_of_workers

from minidl.errors import CommError, MissingExtra
from minidl.ternary import launch
from minidl.ternary.comm import Counted, OneRank

try:
    launch.find_mpirun()
    NO_MPI = ""
except MissingExtra as missing:
    NO_MPI = str(missing)


@pytest.mark.mpi
@pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)
def test_after_kill_9_the_run_goes_on_with_the_same_bits(tmp_path):
    path, argv = tmp_path / "run.npz", [ranks_of_workers.__file__, str(tmp_path / "run.npz")]
    with pytest.raises(CommError):
        launch.run_ranks(2, [*argv, "12", "8"], timeout=60)
    with np.load(path) as whole:
        assert len(whole.files) > 10, "the last checkpoint can be read"
    resumed = launch.run_ranks(2, [*argv, "12"], timeout=60).results
    spared = ranks_of_workers.train(Counted(OneRank()), tmp_path / "spared.npz", 12)
    assert [r.pop("start") for r in resumed] == [6, 6] and spared.pop("start") == 0
    assert resumed == [spared, spared], "on two ranks, killed and resumed, as on one"
