"""The command line from outside: exit statuses, one sentence for an error, and what is not loaded."""

import importlib.util
import os
import subprocess
import sys

import pytest

import minidl
from minidl import cli
from minidl.errors import DataError


def run(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "minidl", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


def test_without_arguments_it_shows_the_tape_and_a_ternary_gradient_with_numpy_alone():
    ran = run(PYTHONPATH=os.pathsep.join(sys.path))
    assert ran.returncode == 0, ran.stderr
    assert "tanh: dL/dy = -2.49 arrives" in ran.stdout
    assert "g    = [ 0.30, -1.20, ...,  0.90]" in ran.stdout
    assert "P    = [ 0.25,  1.00, ...,  0.75]" in ran.stdout


def test_with_arguments_it_is_the_command():
    ran = run("--version")
    assert (ran.returncode, ran.stdout.strip()) == (0, f"minidl {minidl.__version__}")


def test_an_unknown_command_is_bad_input():
    ran = run("reprodce")
    assert ran.returncode == 2 and "reproduce" in ran.stderr


def test_mpirun_without_a_script_is_bad_input():
    assert run("mpirun", "-n", "2").returncode == 2
    ran = run("mpirun", "-n", "2", "nowhere.py")
    assert ran.returncode == 2 and "nowhere.py" in ran.stderr and "Traceback" not in ran.stderr


def test_an_unknown_claim_is_named_with_those_there_are(tmp_path):
    pytest.importorskip("minidl.claims")
    ran = run("reproduce", "nonsense", "--out", str(tmp_path))
    assert ran.returncode == 2
    assert "nonsense" in ran.stderr and "ssl-lenet" in ran.stderr and ran.stderr.count("\n") == 1


def test_without_the_claims_reproduce_says_so(monkeypatch, capsys):
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "claims" in name else whole(name))
    assert cli.main(["reproduce"]) == 2
    assert "minidl/claims is not here" in capsys.readouterr().err


@pytest.mark.parametrize("error, status", [(DataError("x is damaged"), 2), (KeyboardInterrupt(), 130)])
def test_errors_become_exit_statuses(monkeypatch, capsys, error, status):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(cli, "_reproduce", fails)
    assert cli.main(["reproduce"]) == status
    assert capsys.readouterr().err == ("minidl: x is damaged\n" if status == 2 else "")


def test_threads_are_in_the_environment_before_numpy_is_loaded(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    for name in cli._THREADS:
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    cli._start_with_threads(3)
    assert started == []
    if os.name == "posix":
        cli._start_with_threads(2)
        ((program, command, env),) = started
        assert program == sys.executable and command[1:] == sys.orig_argv[1:]
        assert all(env[name] == "2" for name in cli._THREADS) and env["OPENBLAS_THREAD_TIMEOUT"] == "20"
        monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT")
        cli._start_with_threads(3)
        assert started[1][2]["OPENBLAS_THREAD_TIMEOUT"] == "16"


def test_the_command_starts_without_the_optional_packages():
    code = "import sys, minidl.cli; minidl.cli.parser(); print(*[m for m in sys.argv[1:] if m in sys.modules])"
    optional = ["numba", "matplotlib", "mpi4py", "pooch", "tqdm", "scipy", "sklearn", "minidl.claims"]
    ran = subprocess.run([sys.executable, "-c", code, *optional], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
