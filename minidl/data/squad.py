"""Questions about paragraphs, whose answers are pieces of the paragraph: SQuAD 1.1's format (Rajpurkar et al. 2016).

    {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
        "answers": [{"text": ..., "answer_start": characters before it}, ...]}]}]}]}

An answer is judged as SQuAD's own script does: both texts in lower case, without punctuation, without the words a, an
and the, blanks joined; then

    EM  whether they are equal      F1 = 2 P R / (P + R) over their words (P, R: part of the given, of the true words)

against each of the true answers; the best one counts.
"""

from __future__ import annotations

import bisect
import gzip
import json
import re
import string
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from minidl.data.fetch import Remote, digest, find, places, read, say
from minidl.errors import DataError, InputError

PAD, UNK = "<pad>", "<unk>"
SQUAD = [
    Remote("squad", f"{part}-v1.1.json", sha256, ("https://rajpurkar.github.io/SQuAD-explorer/dataset/",))
    for part, sha256 in (
        ("train", "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
        ("dev", "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
    )
]
_TOKEN = re.compile(r"[^\W_]+|[^\s]")  # letters and digits together, every mark alone


def spans(text: str) -> list[tuple[int, int]]:
    """(first character, behind the last one) of every word and mark."""
    return [match.span() for match in _TOKEN.finditer(text)]


@dataclass(frozen=True)
class Question:
    """A question, its context, and the true answers as (text, place of its first character)."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]

    @cached_property
    def context_spans(self) -> list[tuple[int, int]]:
        return spans(self.context)

    @property
    def words(self) -> list[str]:
        return [self.context[a:b] for a, b in self.context_spans]

    @property
    def question_words(self) -> list[str]:
        return [self.question[a:b] for a, b in spans(self.question)]

    def places(self, answer: int = 0) -> tuple[int, int]:
        """First and last word of a true answer; an answer that begins or ends inside a word takes the whole word."""
        text, start = self.answers[answer]
        stripped = start + len(text.rstrip())
        first = bisect.bisect_right([b for _, b in self.context_spans], start)
        last = bisect.bisect_left([a for a, _ in self.context_spans], stripped) - 1
        return first, max(first, last)

    def said(self, first: int, last: int) -> str:
        """The piece of the context from word `first` to word `last`."""
        return self.context[self.context_spans[first][0] : self.context_spans[last][1]]

    def sentence(self) -> Question:
        """The same question with the sentence that holds the first answer as its context: a much easier task.

        Other answers stay only if they lie in it. Sentences end at . ! ? before a blank.
        """
        text, start = self.answers[0]
        ends = [0, *(m.end() for m in re.finditer(r"[.!?]['\")\]]*\s+", self.context)), len(self.context)]
        low = max(e for e in ends if e <= start)
        high = min((e for e in ends if e >= start + len(text)), default=len(self.context))
        inside = tuple((t, s - low) for t, s in self.answers if low <= s and s + len(t) <= high)
        return Question(self.id, self.title, self.context[low:high], self.question, inside)


@dataclass(frozen=True, repr=False)
class QuestionSet:
    """Questions; name says what they really are, sha256 identifies the file's content."""

    name: str
    sha256: str
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    def __repr__(self) -> str:
        titles = len({q.title for q in self.questions})
        return f"QuestionSet({self.name}: {len(self)} questions on {titles} titles, {self.sha256[:12]})"


def question_set(path: str | Path) -> QuestionSet:
    """The questions of one file (.json or .json.gz). Raises DataError if it is not in SQuAD 1.1's format."""
    path = Path(path)
    return _parsed(path.name.removesuffix(".gz").removesuffix(".json"), read(path), str(path))


def squad(data_dir: str | Path | None = None, allow_download: bool = True) -> tuple[QuestionSet, QuestionSet]:
    """The official SQuAD 1.1, train and dev, checked by sha256. Raises DataError where it is not to be had."""
    found = _official(data_dir, allow_download)
    if found is None:
        raise DataError("SQuAD 1.1 is not here: put train-v1.1.json and dev-v1.1.json into DIR/squad, and give DIR")
    return found[0], found[1]


def _official(data_dir, allow_download: bool) -> list[QuestionSet] | None:
    contents = find(SQUAD, data_dir, allow_download)
    if contents is None:
        return None
    return [
        _parsed(f"SQuAD 1.1 {part}", content, file.name)
        for part, content, file in zip(("train", "dev"), contents, SQUAD, strict=True)
    ]


def question_sets(data_dir: str | Path | None = None) -> list[QuestionSet]:
    """Every file in SQuAD 1.1's format in DIR/squad, the largest set first; an empty list if there is none."""
    for root in places(data_dir):
        files = sorted({*(root / "squad").glob("*.json"), *(root / "squad").glob("*.json.gz")})
        if files:
            found = sorted((question_set(file) for file in files), key=len, reverse=True)
            say(f"{', '.join(s.name for s in found)} from {root / 'squad'}")
            return found
    return []


def questions(data_dir: str | Path | None = None, allow_download: bool = True) -> QuestionSet:
    """The largest of `question_sets`; else SQuAD 1.1's train; else `gaps()`, which the name then says."""
    found = question_sets(data_dir) or _official(data_dir, allow_download)
    return found[0] if found else gaps(np.random.default_rng(0))


def gap(question: Question, rng: np.random.Generator) -> Question:
    """Another question on the same context, at least 5 words long, that nobody asked.

    One to four words of it, chosen at random, are the answer; the question is what stands around them, up to seven
    words on each side, with "what" in their stead.
    """
    text, where = question.context, question.context_spans
    if len(where) < 5:
        raise InputError(f"a context of {len(where)} words leaves nothing around a gap: give one of 5 at least")
    first = int(rng.integers(len(where) - 4))
    behind = first + int(rng.integers(1, 5))
    low, high = max(0, first - int(rng.integers(1, 8))), behind + int(rng.integers(1, 8))
    words = [text[a:b] for a, b in where]
    start, end = where[first][0], where[behind - 1][1]
    asked = " ".join([*words[low:first], "what", *words[behind:high]])
    return Question(question.id, question.title, text, asked, ((text[start:end], start),))


def gaps(rng: np.random.Generator, each: int = 4) -> QuestionSet:
    """Gaps to fill, `each` of every sentence of 8 to 40 words in the English of Python's own help topics.

    It differs from one Python version to the next.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("no questions are here, nor this Python's pydoc_data.topics: give --data DIR") from error
    made: list[Question] = []
    for title in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[title]):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                whole = Question(f"{title}-{len(made)}", title, sentence, "", ())
                prose = sentence[:1].isupper() and sentence.endswith(".")  # no heading, no list, no code
                if prose and 8 <= len(whole.words) <= 40:
                    made += [gap(whole, rng) for _ in range(each)]
    name = f"gaps in English (pydoc_data.topics, Python {sys.version_info.major}.{sys.version_info.minor})"
    say(f"{name}, from Python's own help text (SQuAD was not found)")
    return QuestionSet(name, digest(repr(made).encode()), tuple(made))


def _parsed(name: str, content: bytes, where: str) -> QuestionSet:
    try:
        questions = tuple(_questions(json.loads(content)))
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{where} is not in SQuAD 1.1's format ({what}): replace it") from error
    for q in questions:
        for text, start in q.answers:
            if q.context[start : start + len(text)] != text or not text.strip():
                there = q.context[start : start + len(text)]
                raise DataError(f"{where}: the answer {text!r} of {q.id} is not at {start}: there is {there!r}")
    if not questions:
        raise DataError(f"{where} holds no question that has an answer: replace it")
    return QuestionSet(name, digest(content), questions)


def _questions(tree) -> Iterator[Question]:
    for article in tree["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = tuple((a["text"], a["answer_start"]) for a in qa["answers"])
                if answers:
                    yield Question(qa["id"], article.get("title", ""), paragraph["context"], qa["question"], answers)


# -- numbers for a network ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Vocabulary:
    """Words (lower case) and characters by number: 0 is padding, 1 whatever is not there."""

    words: tuple[str, ...]
    characters: tuple[str, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], words: int, characters: int = 100) -> Vocabulary:
        """The most frequent ones of these questions and their contexts (each context once; ties: alphabetically)."""
        texts = [q.question for q in questions] + sorted({q.context for q in questions})
        tokens = Counter(text[a:b].lower() for text in texts for a, b in spans(text))
        letters = Counter(c for text in texts for c in text if not c.isspace())
        first = lambda counts, n: tuple(sorted(counts, key=lambda key: (-counts[key], key))[: n - 2])
        return cls((PAD, UNK, *first(tokens, words)), (PAD, UNK, *first(letters, characters)))

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[str, int]]:
        return tuple({w: k for k, w in enumerate(part)} for part in (self.words, self.characters))  # type: ignore

    def arrays(self, texts: Sequence[Sequence[str]], longest: int = 16) -> tuple[np.ndarray, np.ndarray]:
        """Word numbers (T, B) and the numbers of each word's first `longest` letters (T, B, C), padded with 0.

        texts: the words of each of B texts; T is the length of the longest, C at least 5, a filter's length.
        """
        if not all(len(t) for t in texts) or not texts:
            raise InputError(f"{len(texts)} texts, some without a word: leave empty ones out")
        word, letter = self._numbers
        steps, size = max(map(len, texts)), max(5, min(longest, max(len(w) for t in texts for w in t)))
        ids = np.zeros((steps, len(texts)), np.int32)
        letters = np.zeros((steps, len(texts), size), np.int32)
        for b, text in enumerate(texts):
            for t, w in enumerate(text):
                ids[t, b] = word.get(w.lower(), 1)
                letters[t, b, : len(w)] = [letter.get(c, 1) for c in w[:size]]
        return ids, letters

    def batch(self, questions: Sequence[Question]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(context, its letters, question, its letters) as BiDAF takes them."""
        return *self.arrays([q.words for q in questions]), *self.arrays([q.question_words for q in questions])


def targets(questions: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """First and last word of the first true answer of each question: (B,), (B,)."""
    start, end = np.array([q.places() for q in questions], np.int64).T
    return start, end


def glove(path: str | Path, vocabulary: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """(vectors (V, E), how many words have one) from GloVe's text format: a word and its E numbers in every line.

    The file (.txt or .txt.gz) is read line by line, for it may be larger than memory. Words without a vector get
    N(0, .1), padding 0. Raises DataError if a line is shorter than the first one; a longer one holds a word with a
    blank in it, as a few do in the largest file, and is passed over.
    """
    path, number, found, table = Path(path), {word.encode(): k for k, word in enumerate(vocabulary)}, 0, None
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line, text in enumerate(lines, 1):
                word, _, values = text.rstrip().partition(b" ")
                size = values.count(b" ") + bool(values)
                if table is None:
                    table = rng.normal(0, 0.1, (len(vocabulary), size)).astype(np.float32)
                    table[:1] = 0
                if size < table.shape[1] or not size:
                    raise DataError(f"{path}, line {line}: {size} numbers, the first line has {table.shape[1]}")
                if word in number and size == table.shape[1]:
                    try:
                        table[number[word]] = [float(v) for v in values.split(b" ")]
                    except ValueError as error:
                        raise DataError(f"{path}, line {line}: {error}") from error
                    found += 1
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table is None:
        raise DataError(f"{path} holds no vector: it is empty")
    return table, found


def glove_file(data_dir: str | Path | None = None) -> Path | None:
    """The first file of vectors in DIR/glove (.txt or .txt.gz, by name), or None."""
    for root in places(data_dir):
        files = sorted(p for p in (root / "glove").glob("*") if p.name.endswith((".txt", ".txt.gz")))
        if files:
            say(f"{files[0].name} from {root / 'glove'}")
            return files[0]
    return None


# -- how answers are judged --------------------------------------------------------------------------------------------
_NO_MARKS = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, no ASCII punctuation, no a, an, the, single blanks: in this order."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_MARKS)).split())


def exact_match(given: str, true: str) -> bool:
    return normalised(given) == normalised(true)


def f1(given: str, true: str) -> float:
    """2 P R / (P + R) over the words of both texts; 0 where none is common, so also where both are empty."""
    a, b = normalised(given).split(), normalised(true).split()
    common = (Counter(a) & Counter(b)).total()
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


def scores(given: Sequence[str], questions: Sequence[Question]) -> np.ndarray:
    """(B, 2): EM and F1 of each answer, in percent, against the true answer that fits best. Their means are the score.

    Raises InputError if there is not one answer for each question.
    """
    if len(given) != len(questions):
        raise InputError(f"{len(given)} answers to {len(questions)} questions: give one for each")
    return np.array(
        [
            [100.0 * max(judge(text, true) for true, _ in q.answers) for judge in (exact_match, f1)]
            for text, q in zip(given, questions, strict=True)
        ]
    ).reshape(-1, 2)
