"""The doctor: what it finds, what it advises, and its exit status."""

import os
import sys

import pytest

from minidl import doctor

AVX512 = {"avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    "kernel, flags, faster",
    [
        ("Haswell", AVX512, "AVX-512"),
        ("SkylakeX", AVX512, None),
        ("Cooperlake", AVX512, None),
        ("Zen", {"avx", "avx2", "fma"}, None),
        ("Sandybridge", {"avx", "avx2", "fma"}, "AVX2"),
        ("Prescott", {"avx"}, "AVX"),
        ("unknown", AVX512, None),
        ("neoversev1", set(), None),
    ],
)
def test_a_slower_kernel_than_the_processor_has(kernel, flags, faster):
    assert doctor.faster_kernel(kernel, flags) == faster


def test_a_forced_kernel_is_named_with_the_line_that_frees_it(monkeypatch):
    monkeypatch.setattr(
        doctor, "blas", lambda: {"name": "openblas", "version": "1", "kernel": "Haswell", "threads": "2"}
    )
    monkeypatch.setattr(doctor, "_cpuinfo", lambda field: " ".join(AVX512))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = list(doctor.check_blas())
    assert found[-1][0] == "note" and "OPENBLAS_CORETYPE=Haswell" in found[-1][1]
    assert "env -u OPENBLAS_CORETYPE" in found[-1][2]


def test_threads_of_blas_that_spin_are_named_with_the_variable_that_lets_them_sleep(monkeypatch):
    monkeypatch.setattr(doctor, "_cpuinfo", lambda field: "")
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)

    def spins(name, threads) -> bool:
        monkeypatch.setattr(
            doctor, "blas", lambda: {"name": name, "version": "1", "kernel": "Haswell", "threads": threads}
        )
        return any("OPENBLAS_THREAD_TIMEOUT" in remedy for _, _, remedy in doctor.check_blas())

    assert spins("openblas", "2") and not spins("openblas", "1") and not spins("mkl", "2")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "16")
    assert not spins("openblas", "2")


def test_without_threadpoolctl_the_library_is_still_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    found = doctor.blas()
    assert found["kernel"] == "unknown" and found["name"] != "unknown"
    assert "minidl[jit]" in dict((what, remedy) for _, what, remedy in doctor.check_blas()).popitem()[1]


def test_missing_extras_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None if package in ("tqdm", "numba", "mpi4py") else "1")
    found = {what: (state, remedy) for state, what, remedy in doctor.check_extras()}
    assert found["extra data: tqdm not installed"] == ("note", "pip install 'minidl[data]'")
    assert next(doctor.check_mpi())[2] == "pip install 'minidl[mpi]'"
    assert next(doctor.check_numba())[2] == "pip install 'minidl[jit]'"


def test_a_damaged_data_file_is_found(tmp_path, monkeypatch):
    (tmp_path / "ptb.train.txt").write_text("half")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "cache"))
    assert any(state == "fails" and "ptb.train.txt" in what for state, what, _ in doctor.check_data())


def _ill():
    raise RuntimeError("no pulse")
    yield


@pytest.mark.parametrize("broken, status", [("core", 1), ("MPI", 0)])
def test_the_exit_status_is_the_core_s(monkeypatch, capsys, broken, status):
    checks = {"core": doctor.check_core, "MPI": lambda: iter([("ok", "2 ranks", "")])}
    monkeypatch.setattr(doctor, "CHECKS", {**checks, broken: _ill})
    assert doctor.main() == status
    assert "no pulse" in capsys.readouterr().out


@pytest.mark.mpi
def test_two_real_ranks_see_each_other():
    pytest.importorskip("mpi4py")
    assert [state for state, _, _ in doctor.check_mpi()] == ["ok"]


@pytest.mark.mpi
def test_an_mpirun_of_another_mpi_on_the_path_is_told(monkeypatch, tmp_path):
    pytest.importorskip("mpi4py")
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho HAL 9000\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (works, _, _), (state, what, remedy) = doctor.check_mpi()
    assert (works, state) == ("ok", "note") and f"{tmp_path}/mpirun" in what and "minidl mpirun -n 2" in remedy


def test_the_environment_of_a_report_names_the_kernel():
    found = doctor.environment(2)
    assert found["threads"] == "2" and found["BLAS kernel"] == doctor.blas_kernel()
