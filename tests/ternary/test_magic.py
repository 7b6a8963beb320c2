"""%%mpirun: a cell of a notebook on several ranks."""

import pytest
from test_ranks import mpi

from minidl.errors import CommError

InteractiveShell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell


@pytest.fixture(scope="module")
def shell():
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "minidl.ternary.magic")
    return shell


CELL = """
from beside import answer
from minidl.ternary.comm import world
from minidl.ternary.launch import report_result
comm = world()
report_result({"rank": comm.Get_rank(), "size": comm.Get_size()})
print(f"é {answer} {comm.Get_rank()}\\n", end="")
"""


@mpi
def test_output_and_results_come_back(shell, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("answer = 42\n")
    assert shell.run_cell_magic("mpirun", "-n 2 --timeout 60", CELL) == [{"rank": r, "size": 2} for r in (0, 1)]
    assert sorted(capsys.readouterr().out.splitlines()) == ["é 42 0", "é 42 1"]


@mpi
def test_a_rank_that_raises_shows_its_traceback_and_line(shell, capsys):
    cell = "from minidl.ternary.comm import world\nif world().Get_rank() == 1:\n    1 / 0\n"
    with pytest.raises(CommError, match="rank 1 raised ZeroDivisionError: division by zero, before its first step"):
        shell.run_cell_magic("mpirun", "-n 2 --timeout 60", cell)
    assert 'cell.py", line 4, in <module>' in capsys.readouterr().err, "%%mpirun is line 1, as in the notebook"


def test_ranks_may_be_simulated(shell, capsys):
    pytest.importorskip("minidl.ternary.sim_comm")
    cell = CELL.replace("from beside import answer", "answer = 42")
    assert shell.run_cell_magic("mpirun", "-n 2 --simulate", cell) == [{"rank": r, "size": 2} for r in (0, 1)]
    assert sorted(capsys.readouterr().out.splitlines()) == ["é 42 0", "é 42 1"]


def test_options_are_those_of_the_command(shell, capsys):
    with pytest.raises(SystemExit):
        shell.run_cell_magic("mpirun", "--ranks 2", "pass")
    assert "%%mpirun: error: the following arguments are required: -n" in capsys.readouterr().err
