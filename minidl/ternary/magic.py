"""A notebook's cell on several ranks of this machine:

    %load_ext minidl.ternary.magic

    %%mpirun -n 4
    from minidl.ternary.comm import world
    print("rank", world().Get_rank())

The cell is a script of its own, in new processes: it sees none of the notebook's variables. What the ranks hand to
`report_result` comes back as the cell's value: a list of dicts, by rank. Options are those of `minidl mpirun`.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from minidl.errors import CommError
from minidl.ternary.launch import arguments, rank_environment, run_ranks


def mpirun(line: str, cell: str) -> list[dict] | None:
    """Run the cell as `minidl mpirun` runs a script; print what the ranks print, once they have ended."""
    options = vars(arguments("%%mpirun").parse_args(shlex.split(line)))
    path = os.pathsep.join([os.getcwd(), rank_environment()["PYTHONPATH"]])  # the cell may import what lies beside it
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "cell.py"
        script.write_text("\n" + cell, "utf-8")  # a traceback counts %%mpirun as line 1, as the notebook does
        run = run_ranks(options.pop("n"), [str(script)], **options, env={"PYTHONPATH": path}, check=False)
    print(run.stdout, end="")
    print(run.stderr, end="", file=sys.stderr)
    if run.failure or run.returncode:
        raise CommError(run.failure or f"the ranks ended with exit status {run.returncode}")
    return run.results if any(run.results) else None


def load_ipython_extension(ipython) -> None:
    ipython.register_magic_function(mpirun, "cell")
