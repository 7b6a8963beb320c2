"""The claim iss-bidaf on made-up questions: units go by training and leave exactly, and the controls see it."""

import json
from dataclasses import replace

import numpy as np
import pytest

claim = pytest.importorskip("minidl.claims.claim")
iss_bidaf = pytest.importorskip("minidl.claims.iss_bidaf")
reading = pytest.importorskip("minidl.claims.reading")

from minidl.data.squad import question_set  # noqa: E402
from minidl.errors import MinidlError  # noqa: E402

TINY = dict(hidden=4, units=6, batch=8, words=60, dense=20, lasso=60, after=6, lam=0.3, rate=0.02, draws=3)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(iss_bidaf, "STEPS", 2)
    monkeypatch.setattr(reading, "LOOK", 4)
    monkeypatch.setattr(iss_bidaf, "QUICK", replace(iss_bidaf.QUICK, **TINY))
    found = question_set(made_up(tmp_path))
    monkeypatch.setattr(claim, "load", lambda kind, folder: found)
    return found


def made_up(folder):
    """Who was where: the answer is the name before "was in" and the town that is asked for."""
    rng = np.random.default_rng(0)
    names, towns, data = ("Ann", "Bob", "Cid", "Dee"), ("Rome", "Oslo", "Bonn"), []
    for title in range(12):
        paragraphs = []
        for _ in range(6):
            who, where = rng.choice(names), rng.choice(towns)
            context = f"It rained. Last year {who} was in {where}."
            answers = [{"text": str(who), "answer_start": 21}]
            qas = [{"id": "1", "question": f"Who was in {where}?", "answers": answers}]
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": f"{title:02}", "paragraphs": paragraphs})
    (folder / "made-up.json").write_text(json.dumps({"data": data}))
    return folder / "made-up.json"


def ran(parts=None):
    ctx = claim.Context(iss_bidaf.CLAIM, parts=parts)
    iss_bidaf.run(ctx)
    return {row["quantity"]: row for row in ctx.finish()}, ctx


def test_units_go_by_training_and_the_proof_can_fail(tiny, tmp_path, monkeypatch):
    rows, ctx = ran(tmp_path / "parts")
    gone = rows[iss_bidaf.REMOVED]
    assert 0 < gone["measured"] < 1 and gone["control"]["measured"] == 0 and gone["data"] == "made-up"
    assert gone["measured"] == pytest.approx(
        1 - sum(rows[f"units kept in {n}"]["measured"] for n in iss_bidaf.LSTMS) / 36
    )
    exact = rows[iss_bidaf.EXACT]
    assert exact["outcome"] == "supported" and exact["control"]["outcome"] == "not shown"
    assert rows["multiply-adds, dense over small"]["measured"] > 1
    worse, cost = rows[iss_bidaf.WORSE], rows[iss_bidaf.COST]
    assert worse["interval"][0] <= worse["measured"] <= worse["interval"][1] and "anew" in worse["control"]["what"]
    assert cost["measured"] > 0 and "random" in cost["control"]["what"]
    for name in ("dense", "small"):
        em, f1 = (rows[f"{score} of the {name} network on questions"]["measured"] for score in ("EM", "F1"))
        assert 0 <= em <= f1 <= 100

    def no_more(*args):
        raise AssertionError("a part was trained again")

    monkeypatch.setattr(reading, "loss", no_more)  # a second run finds every part where the first one left it
    again, _ = ran(tmp_path / "parts")
    trained = [name for name in rows if not name.startswith("speed-up")]
    assert [again[name]["measured"] for name in trained] == [rows[name]["measured"] for name in trained]


def test_no_title_is_in_two_parts_and_words_are_those_of_training(tiny):
    data = iss_bidaf.prepared(tiny, iss_bidaf.QUICK)
    train, held_back, test = ({q.title for q in part} for part in (data.train, data.held_back, data.test))
    assert test == {"00", "06"} and held_back == {"03", "09"} and len(train) == 8 and not train & (test | held_back)
    assert all(q.context == q.context.strip() and q.context.startswith("Last year") for q in data.train)
    words = {w.lower() for q in data.train for w in (*q.words, *q.question_words)}
    assert set(data.vocabulary.words[2:]) == words


def test_random_units_are_as_many_in_each_layer_as_training_took(tiny):
    data = iss_bidaf.prepared(tiny, iss_bidaf.QUICK)
    trainer = reading.Trainer(claim.Context(iss_bidaf.CLAIM), data, iss_bidaf.QUICK, None)
    dense, widths = trainer.new("model"), (6, 3, 2, 1, 4, 3)
    silent = reading.at_random(dense, widths, trainer.x, np.random.default_rng(1))
    found = [u for u in reading.units(silent, trainer.x) if u.layer in iss_bidaf.LSTMS]
    weights = dict(silent.named_parameters())
    read = lambda u: any(np.take(weights[m.parameter].data, m.indices, m.axis).any() for m in u.members if m.reads)
    assert tuple(sum(read(u) for u in found if u.layer == name) for name in iss_bidaf.LSTMS) == widths
    assert (reading.lengths(dense, trainer.x) > 0).all()


def test_weights_are_the_published_ones_and_the_controls_are_not():
    ctx = claim.Context(iss_bidaf.CLAIM)
    iss_bidaf.for_counts(ctx)
    counts = ctx.finish()
    assert [row["measured"] for row in counts] == pytest.approx([2.2904, 1.1766, 0.9545, 0.8795])
    assert all(row["outcome"] == "supported" and row["control"]["outcome"] == "not shown" for row in counts)


def test_words_start_with_glove_s_vectors_where_they_are_given(tiny, tmp_path):
    (tmp_path / "vectors.txt").write_text("rome 1 2 3\nnever 4 5 6\nann -1 0 1\n")
    data = iss_bidaf.prepared(tiny, iss_bidaf.QUICK, tmp_path / "vectors.txt")
    model = reading.Trainer(claim.Context(iss_bidaf.CLAIM), data, iss_bidaf.QUICK, None).new("model")
    assert data.known == 2 and model.word.weight.shape == (len(data.vocabulary.words), 3)
    assert model.word.weight.data[data.vocabulary.words.index("rome")].tolist() == [1, 2, 3]
    assert len(model(*reading.one(data))) == 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_is_not_finite_ends_with_the_step_the_layer_and_what_is_kept(tiny, tmp_path):
    data, s = iss_bidaf.prepared(tiny, iss_bidaf.QUICK), iss_bidaf.QUICK
    trainer = reading.Trainer(claim.Context(iss_bidaf.CLAIM, parts=tmp_path / "kept"), data, s, None)
    model = trainer.new("model")
    model.g1.forwards.weight_hh.data = np.full_like(model.g1.forwards.weight_hh.data, np.nan)
    with pytest.raises(MinidlError, match="shared: .* is nan at step 0: the weight g1.forwards.weight_hh .*kept"):
        trainer._steps("shared", model, range(2), None)


def test_the_weakest_units_go_from_each_lstm(tiny):
    data = iss_bidaf.prepared(tiny, iss_bidaf.QUICK)
    trainer = reading.Trainer(claim.Context(iss_bidaf.CLAIM), data, iss_bidaf.QUICK, None)
    whole, widths = trainer.new("model"), (6, 3, 2, 1, 4, 3)
    norms = reading.lengths(whole, trainer.x).reshape(6, 6)
    less = reading.weakest(whole, widths, trainer.x)
    small, _ = reading.compact(less, trainer.x)
    assert small.widths == widths
    strongest = np.sort(norms[2].argsort()[-2:])  # of g1, forwards
    own = np.concatenate([strongest + 6 * gate for gate in range(4)])
    np.testing.assert_array_equal(small.g1.forwards.bias.data, whole.g1.forwards.bias.data[own])


def test_half_of_a_batch_are_gaps_in_the_same_sentences(tiny):
    data = iss_bidaf.prepared(tiny, iss_bidaf.QUICK)
    (_, _, asked, _), _, _ = data.batch(np.random.default_rng(0), 8)
    question_mark, what = (data.vocabulary.words.index(w) if w in data.vocabulary.words else 1 for w in ("?", "what"))
    assert (asked == question_mark).any(0).tolist() == [False] * 4 + [True] * 4
    assert (asked[:, :4] == what).any(0).all()
