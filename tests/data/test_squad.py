"""Questions in SQuAD 1.1's format: reading, places of answers, EM and F1 as its script counts them, GloVe."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from minidl.data import fetch, squad
from minidl.errors import DataError, InputError

CONTEXT = "Mr. Ray's dog, an old (1,000-day-old) hound, barked. The cat slept! Nobody cared."


def tree(*answers, context=CONTEXT):
    """A file's content with one question a group of answers."""
    qas = [
        {"id": str(k), "question": "Who barked?", "answers": [{"text": t, "answer_start": context.index(t)} for t in a]}
        for k, a in enumerate(answers)
    ]
    return {"version": "1.1", "data": [{"title": "pets", "paragraphs": [{"context": context, "qas": qas}]}]}


def written(folder, content, name="some.json.gz"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress(json.dumps(content).encode()))
    return folder / name


def test_reads_questions_and_leaves_out_those_without_an_answer(tmp_path):
    path = written(tmp_path, tree(["old (1,000", "hound"], [], ["cat"]))
    found = squad.question_set(path)
    assert len(found) == 2 and found.name == "some" and "on 1 titles" in repr(found)
    first = found.questions[0]
    assert first.said(*first.places()) == "old (1,000" and first.said(*first.places(1)) == "hound"
    assert first.words[:6] == ["Mr", ".", "Ray", "'", "s", "dog"]


def test_an_answer_inside_a_word_takes_the_word():
    q = squad.Question("1", "", "Unbelievable things", "?", (("believ", 2), ("able things", 8)))
    assert q.said(*q.places(0)) == "Unbelievable" and q.said(*q.places(1)) == "Unbelievable things"


def test_the_sentence_of_an_answer():
    q = squad.Question("1", "", CONTEXT, "?", (("cat", CONTEXT.index("cat")), ("dog", CONTEXT.index("dog"))))
    assert q.sentence().context.strip() == "The cat slept!"
    assert q.sentence().answers == (("cat", 4),) and q.sentence().said(*q.sentence().places()) == "cat"


@pytest.mark.parametrize(
    "given, true, em, f1",
    [
        ("The Eiffel Tower!", "eiffel tower", True, 1.0),
        ("a  cat", "an CAT.", True, 1.0),
        ("in 1,000 days", "1000", False, 0.5),
        ("theatre", "atre", False, 0.0),  # "the" goes only where it is a word
        ("the", "a", True, 0.0),  # nothing is left of both: equal, but the script's F1 is 0
        ("dog dog cat", "dog", False, 0.5),  # a word counts as often as both have it
        ("dog-cat", "dogcat", True, 1.0),
        ("“dog”", "dog", False, 0.0),  # marks outside ASCII stay
    ],
)
def test_answers_are_judged_as_by_the_official_script(given, true, em, f1):
    assert squad.exact_match(given, true) is em
    assert squad.f1(given, true) == pytest.approx(f1)


def test_the_best_true_answer_counts():
    q = squad.Question("1", "", "a b c d", "?", (("b c", 2), ("d", 6)))
    np.testing.assert_allclose(squad.scores(["d", "b"], [q, q]), [[100, 100], [0, 200 / 3]])
    with pytest.raises(InputError, match="1 answers to 2 questions"):
        squad.scores(["d"], [q, q])


def test_numbers_for_a_network(tmp_path):
    q = squad.question_set(written(tmp_path, tree(["hound"]))).questions
    vocabulary = squad.Vocabulary.of(q, words=8, characters=20)
    assert vocabulary.words[:2] == ("<pad>", "<unk>") and len(vocabulary.words) == 8
    context, letters, question, _ = vocabulary.batch([*q, squad.Question("2", "", "old hound", "Who?", (("old", 0),))])
    assert context.shape == (len(q[0].words), 2) and letters.shape[:2] == context.shape and question.shape == (3, 2)
    assert (context[2:, 1] == 0).all() and (context[:2, 1] > 0).all() and (letters[2:, 1] == 0).all()
    assert vocabulary.arrays([["Old"]])[0] == vocabulary.arrays([["OLD"]])[0]
    start, end = squad.targets(q)
    assert q[0].words[start[0]] == "hound" and start[0] == end[0]


def test_glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("old 1 2 3\nnever 0 0 0\nhound -1 0.5 0\n")
    words = ("<pad>", "<unk>", "hound", "old")
    table, found = squad.glove(path, words, np.random.default_rng(0))
    assert found == 2 and (table[0] == 0).all() and table[2:].tolist() == [[-1, 0.5, 0], [1, 2, 3]] and table[1].any()
    packed = tmp_path / "glove.txt.gz"
    packed.write_bytes(gzip.compress(b"old 1 2 3\nat home 4 5 6\nhound -1 0.5 0\n"))  # a word with a blank in it
    again, found = squad.glove(packed, words, np.random.default_rng(0))
    assert found == 2 and (again == table).all()
    packed.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="glove.txt.gz cannot be read"):
        squad.glove(packed, words, np.random.default_rng(0))
    with pytest.raises(DataError, match="nothing.txt cannot be read"):
        squad.glove(tmp_path / "nothing.txt", words, np.random.default_rng(0))
    path.write_text("old 1 two 3\n")
    with pytest.raises(DataError, match="line 1: could not convert"):
        squad.glove(path, words, np.random.default_rng(0))
    path.write_text("old 1 2 3\nhound 1 2\n")
    with pytest.raises(DataError, match="line 2: 2 numbers, the first line has 3"):
        squad.glove(path, words, np.random.default_rng(0))


@pytest.mark.parametrize(
    "content, said",
    [
        ({"data": [{"title": "x"}]}, "not in SQuAD 1.1's format .KeyError: 'paragraphs'"),
        (tree([]), "no question that has an answer"),
        ([1], "not in SQuAD 1.1's format"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        squad.question_set(written(tmp_path, content))


def test_an_answer_that_is_not_there_is_refused(tmp_path):
    content = tree(["hound"])
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    with pytest.raises(DataError, match="'hound' of 0 is not at .*: there is 'ound,'"):
        squad.question_set(written(tmp_path, content))


def test_files_in_a_folder_and_none(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    assert squad.question_sets(tmp_path) == []
    written(tmp_path / "squad", tree(["cat"]), "a.json.gz")
    written(tmp_path / "squad", tree(["cat"], ["dog"]), "b.json.gz")
    assert [s.name for s in squad.question_sets(tmp_path)] == ["b", "a"]
    assert squad.questions(tmp_path).name == "b"
    with pytest.raises(DataError, match="SQuAD 1.1 is not here"):
        squad.squad(tmp_path, allow_download=False)


def test_without_a_file_there_are_gaps_to_fill_and_the_name_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setattr(fetch, "SYSTEM", tmp_path / "nowhere")
    found = squad.questions(tmp_path, allow_download=False)
    assert found.name.startswith("gaps in English (pydoc_data.topics, Python 3.") and len(found) > 4_000
    assert squad.gaps(np.random.default_rng(0)).sha256 == found.sha256 != squad.gaps(np.random.default_rng(1)).sha256
    for q in (q for q in found.questions[::50] if "what" not in q.context):
        first, last = q.places()
        before, _, after = q.question.partition("what")
        assert q.said(first, last) == q.answers[0][0] and 8 <= len(q.words) <= 40 and 0 <= last - first < 4
        assert q.words[:first][-len(before.split()) :] == before.split() or not before
        assert q.words[last + 1 :][: len(after.split())] == after.split()
    with pytest.raises(InputError, match="a context of 4 words leaves nothing around a gap"):
        squad.gap(squad.Question("1", "", "It rained . .", "", ()), np.random.default_rng(0))


def test_vectors_are_found_in_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    assert squad.glove_file(tmp_path) is None
    (tmp_path / "glove").mkdir()
    for name in ("readme.md", "glove.6B.50d.txt.gz", "glove.6B.100d.txt"):
        (tmp_path / "glove" / name).touch()
    assert squad.glove_file(tmp_path) == tmp_path / "glove" / "glove.6B.100d.txt"


HERE = Path(os.environ.get("MINIDL_DATA", "/nowhere")) / "squad"


@pytest.mark.skipif(not HERE.is_dir(), reason="no questions here")
def test_true_answers_of_real_files_are_found_again():
    for found in squad.question_sets():
        some = found.questions[::20]
        em, f1 = squad.scores([q.said(*q.places()) for q in some], some).mean(0)
        assert em > 98 and f1 > 99  # a few answers begin inside a word
