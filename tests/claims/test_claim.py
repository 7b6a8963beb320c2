"""What a claim records: rows that keep the rules, controls that must fail, randomness by purpose."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("minidl.claims")

from minidl.claims.claim import ROW, Claim, Context, plain, why_broken
from minidl.errors import InputError

CLAIM = Claim("demo", "1", "a demonstration", {"quick": 1, "full": 2}, run=lambda ctx: None)
CONTROL = {"what": "lambda = 0", "measured": 20}


@pytest.fixture
def ctx():
    return Context(CLAIM, seed=3, threads=2, blas="openblas 1 Test")


def test_a_row_has_exactly_the_fields_of_the_report(ctx):
    ctx.row(
        "filters",
        measured=np.int64(5),
        criterion="at most 15",
        holds=np.bool_(True),
        control=CONTROL,
        control_holds=False,
    )
    (row,) = ctx.finish()
    assert tuple(row) == ROW
    assert row["outcome"] == "supported" and row["control"] == {**CONTROL, "outcome": "not shown"}
    assert (row["claim"], row["chapter"], row["seeds"], row["threads"], row["data"]) == ("demo", "1", 3, 2, "none")
    assert row["seconds"] >= 0
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    "given, outcome",
    [
        ({"holds": True, "criterion": "c"}, "supported"),
        ({"holds": False, "criterion": "c"}, "not shown"),
        ({"holds": False, "criterion": "c", "contradicted": True}, "contradicted"),
        ({}, "not shown"),
    ],
)
def test_outcomes(ctx, given, outcome):
    assert ctx.row("q", measured=1.0, **given)["outcome"] == outcome


@pytest.mark.parametrize(
    "given, says",
    [
        ({"holds": True}, "without the criterion"),
        ({"scale": "huge"}, "published"),
        ({"control": CONTROL}, "together"),
        ({"control_holds": False}, "together"),
        ({"control": {"what": "x"}, "control_holds": False, "holds": True, "criterion": "c"}, "measured"),
        ({"control": CONTROL, "control_holds": False}, "criterion to fail"),
    ],
)
def test_a_row_that_breaks_the_rules_is_refused(ctx, given, says):
    with pytest.raises(InputError, match=says):
        ctx.row("q", measured=1.0, **given)
    assert ctx.rows == []


def test_a_claim_without_a_control_is_broken(ctx):
    ctx.row("q", measured=1, criterion="c", holds=True)
    assert "no row has a control" in why_broken(ctx.rows)


def test_a_claim_whose_control_holds_is_broken(ctx):
    ctx.row("q", measured=1, criterion="at most 15", holds=True, control=CONTROL, control_holds=True)
    assert "lambda = 0" in why_broken(ctx.rows) and "20" in why_broken(ctx.rows)


def test_a_claim_that_failed_honestly_is_not_broken(ctx):
    ctx.row("q", measured=1, criterion="c", holds=False, control=CONTROL, control_holds=False)
    assert why_broken(ctx.rows) is None


def test_a_claim_that_was_not_run_is_not_broken(ctx):
    ctx.not_run("everything", "no MPI: pip install it")
    (row,) = ctx.finish()
    assert why_broken([row]) is None
    assert row["outcome"] == "not run" and "pip install it" in row["criterion"]


def test_randomness_depends_on_seed_claim_and_keys_alone(ctx):
    first = ctx.rng("dense", 1).random(4)
    ctx.rng("other").random(100)
    assert np.array_equal(first, ctx.rng("dense", 1).random(4))
    others = [ctx.rng("dense", 2), Context(CLAIM, seed=4).rng("dense", 1)]
    others.append(Context(Claim("two", "1", "", {}, CLAIM.run), seed=3).rng("dense", 1))
    assert all(not np.array_equal(first, rng.random(4)) for rng in others)


def test_data_sets_are_named_in_every_row(ctx, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    (tmp_path / "data").mkdir()
    from minidl.claims import claim
    from minidl.data import text

    monkeypatch.setattr(claim, "_loaded", {})
    monkeypatch.setattr(text, "find", lambda *_: None)
    words = ctx.dataset("text")
    ctx.row("q", measured=1)
    (row,) = ctx.finish()
    assert row["data"] == words.name and row["data_sha256"] == words.sha256
    with pytest.raises(InputError, match="mnist, fashion-mnist, .*text"):
        ctx.dataset("imagenet")


def test_a_figure_becomes_png(ctx):
    pytest.importorskip("matplotlib")
    ctx.figure(lambda fig: fig.subplots().plot([1, 2]), alt="a line that rises", caption="It rises.")
    assert ctx.figures[0]["png"].startswith(b"\x89PNG") and ctx.figures[0]["alt"] == "a line that rises"


def test_without_matplotlib_a_note_stands_for_the_figure(ctx, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ctx.figure(lambda fig: 1 / 0, alt="a line")
    assert ctx.figures == [] and "minidl[plot]" in ctx.notes[0]


def test_plain_values():
    values = {"a": np.float32(0.5), "b": np.arange(2), "c": (float("nan"), np.inf), 1: np.bool_(True), "e": None}
    assert plain(values) == {"a": 0.5, "b": [0, 1], "c": ["nan", "inf"], "1": True, "e": None}


def test_progress_prints_quarters_where_there_is_no_terminal(ctx, capsys):
    with ctx.progress(8, "dense") as bar:
        for i in range(8):
            bar.set(f"loss {i}")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 4 and lines[0].startswith("demo: dense 25 %") and lines[-1].startswith("demo: dense 100 %, 0 s")
    )
    assert lines[-1].endswith("loss 7")


def test_a_part_is_done_once_and_is_found_by_another_run(tmp_path):
    done = []

    def part():
        done.append(1)
        return {"losses": [0.5, 1.0], "weight": np.arange(3, dtype=np.float32)}

    def run(key, name="seed 1"):
        return Context(CLAIM, parts=tmp_path / "parts", key=key).kept(name, part)

    first, again = run({"seed": 1}), run({"seed": 1})
    assert len(done) == 1 and again["losses"] == first["losses"] and again["weight"].dtype == np.float32
    run({"seed": 2})
    run({"seed": 1}, "seed 2")
    assert len(done) == 3  # another key, another name
    next((tmp_path / "parts").glob("seed-2-*")).write_bytes(b"half a file")
    run({"seed": 1}, "seed 2")
    assert len(done) == 4


def test_a_part_may_be_none(tmp_path):
    done = []
    for _ in range(2):
        assert Context(CLAIM, parts=tmp_path).kept("a", lambda: done.append(1)) is None
    assert done == [1]


def test_without_a_folder_a_part_is_kept_within_the_run_alone(ctx):
    done = []
    assert [ctx.kept("a", lambda: done.append(1) or 7) for _ in range(2)] == [7, 7] and done == [1]
    assert ctx.part("a") is None


def test_parts_of_other_data_are_not_taken(tmp_path):
    one, two = (Context(CLAIM, parts=tmp_path, datasets={"mnist": ("mnist", sha)}) for sha in ("aa", "bb"))
    assert one.part("a") != two.part("a") and one.part("a") == one.part("a")
