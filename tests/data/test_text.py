"""Text: words, numbers of words, and the minibatches as published."""

import os
import zipfile

import numpy as np
import pytest

from minidl.data import fetch, text
from minidl.data.text import batch_stream, english, plain_text, ptb, tokens, wikitext2
from minidl.errors import DataError, InputError


def test_tokens():
    assert tokens("It's 42...\n---\n\n__debug__ ::= x1, y\n") == [
        "it's", "N", ".", "<eos>", "__debug__", ":", "=", "x", "N", ",", "y", "<eos>",
    ]  # fmt: skip


def test_english_is_python_s_own_and_its_name_says_so():
    words = english()
    assert words.name.startswith("english (pydoc_data.topics, Python 3.")
    assert len(words.vocabulary) == 2000 and len(words.sha256) == 64
    assert words.train.dtype == np.int32 and len(words.train) > 50_000
    unknown = words.vocabulary.index("<unk>")
    assert 0 < np.mean(words.train == unknown) < 0.1  # <unk> is learnt, for the other parts need it
    for part in (words.train, words.valid, words.test):
        assert part.min() >= 0 and part.max() < 2000
    assert english().sha256 == words.sha256


def test_plain_text_cuts_8_1_1_and_keeps_the_most_frequent_words(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("a rose is a rose\n" * 40 + "thorns\n" * 3)
    poem = plain_text(path, vocabulary=5)
    n = len(tokens(path.read_text()))
    assert (len(poem.train), len(poem.valid)) == (n * 8 // 10, n * 9 // 10 - n * 8 // 10)
    assert len(poem.train) + len(poem.valid) + len(poem.test) == n
    assert poem.vocabulary == (
        "<unk>",
        "a",
        "rose",
        "is",
        "<eos>",
    )  # a rose: twice a line; is: once, and in the cut line
    assert poem.words(poem.train[:6]) == "a rose is a rose <eos>"
    assert poem.words(poem.test[-2:]) == "<unk> <eos>"  # thorns


def test_plain_text_says_what_is_wrong(tmp_path):
    short, binary, empty = (tmp_path / name for name in ("short.txt", "binary.txt", "empty.txt"))
    short.write_text("too short")
    empty.write_text("")
    binary.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="3 words"):
        plain_text(short)
    with pytest.raises(InputError, match="empty.txt holds no words and marks"):
        plain_text(empty)
    with pytest.raises(DataError, match="byte 3 is 0xff"):
        plain_text(binary)
    with pytest.raises(DataError, match="missing.txt"):
        plain_text(tmp_path / "missing.txt")


def test_ptb_falls_back_on_english(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "SYSTEM", tmp_path)
    assert ptb(allow_download=False).name.startswith("english (pydoc_data.topics")


def test_the_whole_of_ptb_has_the_published_sizes():
    if not os.environ.get("MINIDL_DATA") or fetch.find(text.PTB, allow_download=False) is None:
        pytest.skip("MINIDL_DATA has no ptb")
    bank = ptb(allow_download=False)
    assert bank.name == "ptb" and len(bank.vocabulary) == 10_000
    assert (len(bank.train), len(bank.valid), len(bank.test)) == (929_589, 73_760, 82_430)
    assert min(bank.valid.min(), bank.test.min()) == 0  # every word stands in the training part too
    assert len(list(batch_stream(bank.train, 20, 35))) == 1327


def test_batch_stream_goes_on_where_it_ended():
    ids = np.arange(31, dtype=np.int32)
    pairs = list(batch_stream(ids, batch=3, steps=4))
    assert len(pairs) == ((31 // 3) - 1) // 4 == 2
    x = np.concatenate([x for x, _ in pairs])
    assert x.shape == (8, 3) and np.array_equal(x[:, 1], np.arange(10, 18))
    for x, y in pairs:
        assert np.array_equal(y, x + 1) and x.dtype == np.int32


def test_batch_stream_refuses_a_stream_that_is_too_short():
    with pytest.raises(InputError, match=r"12 words is too short for batch 3 and steps 4, .* = 15 at least"):
        batch_stream(np.arange(12), batch=3, steps=4)
    with pytest.raises(InputError, match="too short"):
        batch_stream(np.arange(5), batch=3, steps=4, rest=True)
    with pytest.raises(InputError, match="the text holds no words"):
        batch_stream(np.array([], int), 1, 1)
    with pytest.raises(InputError, match="batch 0 and steps 4"):
        batch_stream(np.arange(12), batch=0, steps=4)


@pytest.mark.parametrize("n, lengths", [(31, [4, 4, 1]), (27, [4, 4]), (12, [3]), (15, [4])])
def test_the_rest_of_a_stream_is_a_shorter_minibatch(n, lengths):
    pairs = list(batch_stream(np.arange(n), batch=3, steps=4, rest=True))
    assert [len(x) for x, _ in pairs] == lengths
    x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    assert np.array_equal(x[:, 0], np.arange(n // 3 - 1)) and np.array_equal(y, x + 1)


# -- WikiText-2 --------------------------------------------------------------------------------------------------------
WIKI = {"train": " = A = \n\n b <unk> b \n", "valid": " b A \n", "test": " A new \n"}


def wiki_files(folder, skip=()):
    folder.mkdir(parents=True, exist_ok=True)
    for part in WIKI.keys() - set(skip):
        (folder / f"wiki.{part}.tokens").write_text(WIKI[part])


def check_wiki(text):
    assert text.vocabulary == ("<eos>", "=", "b", "<unk>", "A")
    assert text.words(text.train) == "= A = <eos> <eos> b <unk> b <eos>"  # an empty line is an <eos> too
    assert text.words(text.valid) == "b A <eos>" and text.words(text.test) == "A <unk> <eos>"


def test_wikitext_from_its_files(tmp_path):
    wiki_files(tmp_path / "wikitext-2")
    text = wikitext2(tmp_path, allow_download=False)
    check_wiki(text)
    assert text.name == "wikitext-2 (not the published files: 9 words)"


def test_wikitext_from_its_archive(tmp_path, monkeypatch):
    packed = tmp_path / "wikitext-2-v1.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for part, content in WIKI.items():
            archive.writestr(f"wikitext-2/wiki.{part}.tokens", content)
    with pytest.raises(DataError, match="wikitext-2-v1.zip is damaged"):
        wikitext2(tmp_path, allow_download=False)
    own = fetch.digest(packed.read_bytes())
    monkeypatch.setattr(text, "WIKITEXT2", [fetch.Remote("wikitext-2", packed.name, own, (), packed=True)])
    check_wiki(wikitext2(tmp_path, allow_download=False))


def test_wikitext_with_a_file_missing_or_empty(tmp_path):
    wiki_files(tmp_path / "wikitext-2", skip=["test"])
    with pytest.raises(DataError, match="but not wiki.test.tokens: add them"):
        wikitext2(tmp_path, allow_download=False)
    (tmp_path / "wikitext-2" / "wiki.test.tokens").write_text("")
    with pytest.raises(DataError, match="wiki.test.tokens of wikitext-2 is empty"):
        wikitext2(tmp_path, allow_download=False)


# -- words and numbers -------------------------------------------------------------------------------------------------
def test_words_and_their_numbers(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("a rose is a rose\n" * 40)
    poem = plain_text(path, vocabulary=5)
    assert poem.words(poem.numbers("rose is <unk> <eos>")) == "rose is <unk> <eos>"
    with pytest.raises(InputError, match="'thorn' is not one of the 5 words of poem.txt: write <unk> in its place"):
        poem.numbers("rose thorn")


def test_a_text_can_be_numbered_with_the_words_of_a_model(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("a rose is a rose\n" * 40)
    words = ("is", "rose", "<unk>", "<eos>")
    poem = plain_text(path, words)
    assert poem.vocabulary == words and poem.words(poem.train[:6]) == "<unk> rose is <unk> rose <eos>"
    with pytest.raises(InputError, match="'a' is not one of the 3 words of poem.txt: and there is no <unk>"):
        plain_text(path, ("is", "rose", "<eos>"))
