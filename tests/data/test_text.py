"""Text: words, numbers of words, and the minibatches as published."""

import os

import numpy as np
import pytest

from minidl.data import fetch, text
from minidl.data.text import batch_stream, english, plain_text, ptb, tokens
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
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("too short")
    binary.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="3 words"):
        plain_text(short)
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
    with pytest.raises(InputError, match="12 words"):
        batch_stream(np.arange(12), batch=3, steps=4)
