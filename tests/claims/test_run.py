"""The command that runs claims: what is kept, what breaks, and every exit status."""

import errno
import json
from signal import SIGINT, getsignal, raise_signal
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl import claims
from minidl.claims import report, run
from minidl.claims.claim import ROW, Claim
from minidl.cli import main
from minidl.errors import DataError, InputError, MissingExtra

SECONDS = {"quick": 1, "full": 2}


def good(ctx):
    ctx.row("answer", said=42, measured=ctx.seed + 42.0, unit="units", criterion="at least 40", holds=True, trials=2,
            interval=(41, 43), control={"what": "no question", "measured": 0}, control_holds=False)  # fmt: skip
    ctx.note("Less is <more> & more.")


def _raise(error):
    def body(ctx):
        ctx.row("first", measured=1, criterion="c", holds=True)
        raise error

    return body


def broken_control(ctx):
    ctx.row("answer", measured=1, criterion="at least 1", holds=True,
            control={"what": "the method switched off", "measured": 1}, control_holds=True)  # fmt: skip


BODIES = {
    "good": good,
    "fails": _raise(ZeroDivisionError("division by zero")),
    "unsound": broken_control,
    "extra": _raise(MissingExtra("mpi4py is not installed: pip install 'minidl[mpi]'")),
    "module": _raise(ModuleNotFoundError("No module named 'torch'", name="torch")),
    "damaged": _raise(DataError("x.gz is damaged: aa, published bb")),
    "stopped": _raise(KeyboardInterrupt()),
}


@pytest.fixture
def started(monkeypatch, tmp_path):
    """started("good", "fails", ...) runs these claims in an empty folder and counts how often each body ran."""
    ran = []

    def counted(name, body):
        def run_it(ctx):
            ran.append(name)
            body(ctx)

        return Claim(name, "9", f"the claim {name}", SECONDS, run_it)

    found = {name: counted(name, body) for name, body in BODIES.items()}
    monkeypatch.setattr(
        claims, "discover", lambda: (found, {"unreadable": ModuleNotFoundError("no fancy", name="fancy")})
    )
    monkeypatch.setattr(run, "blas_kernel", lambda: "openblas 1 Test")

    def start(*arguments):
        return main(["reproduce", *arguments, "--threads", "1", "--out", str(tmp_path / "out")])

    return SimpleNamespace(start=start, ran=ran, out=tmp_path / "out", found=found)


def test_the_report_and_its_rows(started, capsys):
    assert started.start("good") == 0
    (row,) = json.loads((started.out / "report.json").read_text())
    assert tuple(row) == ROW and row["outcome"] == "supported" and row["blas"] == "openblas 1 Test"
    page = (started.out / "report.html").read_text()
    assert "✓ supported" in page and "Less is &lt;more&gt; &amp; more." in page and "prefers-color-scheme: dark" in page
    assert 'src="http' not in page and "<script" not in page
    assert "supported" in capsys.readouterr().out


def test_a_finished_claim_is_kept_until_something_that_decides_it_changes(started, monkeypatch):
    assert started.start("good") == 0 and started.start("good") == 0
    assert started.ran == ["good"]
    started.start("good", "--seed", "1")
    assert started.ran == ["good"] * 2
    started.start("good", "--seed", "1", "--full")
    assert started.ran == ["good"] * 3
    started.start("good", "--seed", "1", "--full", "--fresh")
    assert started.ran == ["good"] * 4
    monkeypatch.setattr(run, "source_version", lambda: "another")
    started.start("good", "--seed", "1", "--full")
    assert started.ran == ["good"] * 5


def test_a_kept_result_is_the_same_report(started):
    started.start("good")
    before = (started.out / "report.json").read_text()
    started.start("good")
    assert (started.out / "report.json").read_text() == before
    assert "kept from an earlier run" in (started.out / "report.html").read_text()


def test_other_data_are_measured_again(started, monkeypatch):
    digits = SimpleNamespace(name="digits", sha256="aa")
    monkeypatch.setattr(run, "load", lambda kind, data_dir: digits)

    def body(ctx):
        ctx.datasets["mnist"] = (digits.name, digits.sha256)
        good(ctx)
        started.ran.append("data")

    started.found["data"] = Claim("data", "9", "", SECONDS, body)
    started.start("data")
    started.start("data")
    assert started.ran == ["data"]
    digits.sha256 = "bb"
    started.start("data")
    assert started.ran == ["data"] * 2


def test_a_file_that_another_version_kept_is_no_obstacle(started):
    (started.out / "claims").mkdir(parents=True)
    (started.out / "claims" / "good.json").write_text('{"old": 1}')
    assert started.start("good") == 0 and started.ran == ["good"]


def test_one_broken_claim_leaves_the_others_alone(started, capsys):
    assert started.start("fails", "good") == 1
    rows = json.loads((started.out / "report.json").read_text())
    assert [(row["claim"], row["outcome"]) for row in rows] == [
        ("fails", "not shown"), ("fails", "not run"), ("good", "supported"),
    ]  # fmt: skip
    assert "division by zero" in (started.out / "claims" / "fails.error.txt").read_text()
    assert "This claim is broken" in (started.out / "report.html").read_text()
    started.start("fails")
    assert started.ran.count("fails") == 2  # a broken claim is not kept


def test_a_control_that_holds_breaks_the_claim_and_no_row_reads_supported(started):
    assert started.start("unsound") == 1
    (row,) = json.loads((started.out / "report.json").read_text())
    assert row["outcome"] == "not shown" and row["control"]["outcome"] == "supported"


@pytest.mark.parametrize("name, says", [("extra", "minidl[mpi]"), ("module", "torch"), ("unreadable", "fancy")])
def test_a_missing_package_is_not_run_with_the_reason_and_no_failure(started, name, says):
    assert started.start(name, "good") == 0
    rows = json.loads((started.out / "report.json").read_text())
    assert any(row["outcome"] == "not run" and says in row["criterion"] for row in rows)


def test_damaged_data_end_the_run_with_status_2_and_what_is_finished_stays(started, capsys):
    assert started.start("good", "damaged") == 2
    assert "x.gz is damaged: aa, published bb" in capsys.readouterr().err
    assert len(json.loads((started.out / "report.json").read_text())) == 1
    started.start("good")
    assert started.ran.count("good") == 1


def test_ctrl_c_keeps_what_is_finished(started, capsys):
    assert started.start("good", "stopped") == 130
    assert [row["claim"] for row in json.loads((started.out / "report.json").read_text())] == ["good"]
    assert "Interrupted. 1 finished" in capsys.readouterr().out


def test_ctrl_c_within_fit_is_not_taken_for_the_end_of_training(started):
    from minidl import layers, optim, train

    trained = []

    def body(ctx):
        model = layers.Linear(2, 2, rng=ctx.rng("weights"))
        batches = [(np.ones((1, 2), np.float32), np.array([0]))] * 3
        train.fit(model, batches, optim.SGD(model.parameters(), lr=0.1), after_step=lambda k: raise_signal(SIGINT))
        trained.append(model)

    started.found["fits"] = Claim("fits", "9", "", SECONDS, body)
    before = getsignal(SIGINT)
    assert started.start("fits") == 130 and trained == []
    assert getsignal(SIGINT) is before


def test_a_run_after_ctrl_c_goes_on_behind_the_last_part(started):
    done, stop = [], [True]

    def body(ctx):
        for seed in range(3):
            value = ctx.kept(f"seed {seed}", lambda seed=seed: done.append(seed) or {"w": np.arange(seed), "n": (1, 2)})
            assert value["w"].tolist() == list(range(seed)) and value["n"] == (1, 2)
            if stop and seed == 1:
                raise KeyboardInterrupt
        good(ctx)

    started.found["parts"] = Claim("parts", "9", "", SECONDS, body)
    folder = started.out / "claims" / "parts.parts"
    assert started.start("parts") == 130 and done == [0, 1] and len(list(folder.iterdir())) == 2
    assert started.start("parts", "--seed", "1") == 130 and done == [0, 1, 0, 1]  # parts of another seed are not taken
    stop.clear()
    assert started.start("parts") == 0 and done == [0, 1, 0, 1, 2]
    assert not folder.exists()  # the claim itself is kept now
    stop.append(True)
    assert started.start("parts", "--fresh") == 130 and started.start("parts", "--fresh") == 130
    assert done == [0, 1, 0, 1, 2, 0, 1, 0, 1]


def test_an_unknown_claim_lists_the_names(started, capsys):
    assert started.start("nonsense") == 2
    error = capsys.readouterr().err
    assert "nonsense" in error and "good, fails, unsound" in error and started.ran == []


def test_json_on_standard_output_is_all_that_stands_there(started, capsys):
    assert started.start("good", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)[0]["claim"] == "good"


def test_json_to_a_file_is_a_copy(started, tmp_path):
    assert started.start("good", "--json", str(tmp_path / "copy.json")) == 0
    assert (tmp_path / "copy.json").read_text() == (started.out / "report.json").read_text()


def test_a_folder_that_cannot_be_written_is_said_before_any_work(started, capsys):
    started.out.write_text("a file is in the way")
    assert started.start("good") == 2
    assert str(started.out) in capsys.readouterr().err and started.ran == []


def test_a_full_disk_loses_nothing(started, monkeypatch, capsys):
    started.start("good")
    whole = report.write

    def full(path, content):
        if path.name == "extra2.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, content)

    monkeypatch.setattr(report, "write", full)
    started.found["extra2"] = Claim("extra2", "9", "", SECONDS, good)
    capsys.readouterr()
    assert started.start("good", "extra2") == 2
    said = capsys.readouterr()
    assert "No space left" in said.err and '"claim": "extra2"' in said.out
    assert (started.out / "claims" / "good.json").exists()


def test_write_leaves_the_old_file_whole_when_it_fails(tmp_path):
    path = tmp_path / "a.json"
    report.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        report.write(path, "new \ud800")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_list_names_durations_and_what_cannot_be_loaded(started, capsys):
    assert main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == ["good", "9", "1", "s", "2", "s"] and "unreadable" in lines[-1]


def test_every_file_of_the_folder_is_found_or_its_error_is_known():
    found, failed = claims.discover()
    assert set(claims.HEADLINE) <= {*found, *failed}
    for name, claim in found.items():
        assert name == claim.name and set(claim.seconds) == {"quick", "full"}


def test_options_are_checked(started, capsys):
    for wrong in (["--seed", "-1"], ["--threads", "0"], ["--quick", "--full"]):
        with pytest.raises(SystemExit) as ended:
            main(["reproduce", *wrong])
        assert ended.value.code == 2
    with pytest.raises(InputError):
        run.reproduce(run.Options(names=["nonsense"]))
