"""Sentences as rows of word numbers: words, vocabulary, padding, and the user's own text files."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from infimum.errors import UserError

from .raw import Raw

__all__ = ["END", "LONGEST", "PAD", "SHORTEST", "SPECIAL", "UNKNOWN", "WORDS", "Corpus", "Vocabulary", "corpus_of"]
__all__ += ["read_text", "tokenize"]

SPECIAL = ("<pad>", "<end>", "<unknown>", "<number>")
"""The first words of every vocabulary: after the end there is only padding; <number> stands for digits of any kind."""

PAD, END, UNKNOWN, NUMBER = range(4)

SHORTEST, LONGEST, WORDS = 3, 20, 3000
"""Defaults: tokens of the shortest and of the longest sentence that is kept, and size of the vocabulary."""

_TOKEN = re.compile(r"<[a-z]+>|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*|[.,;:?!]")


def tokenize(text: str) -> list[str]:
    """Lower-cased words, punctuation marks, and ``<number>`` for every number; all else separates."""
    return [
        SPECIAL[NUMBER] if token[0].isdigit() else token.replace("’", "'") for token in _TOKEN.findall(text.lower())
    ]


@dataclass(frozen=True)
class Vocabulary:
    """Words and their numbers.

    Attributes:
        words: word i has number i; the first four are `SPECIAL`.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a list that does not begin with the special words, has no others, or repeats one."""
        if self.words[: len(SPECIAL)] != SPECIAL or len(self.words) == len(SPECIAL):
            raise UserError(
                f"a vocabulary begins with {', '.join(SPECIAL)} and has further words, got {self.words[:5]}"
            )
        if len(set(self.words)) < len(self.words):
            twice = Counter(self.words).most_common(1)[0][0]
            raise UserError(f"the word {twice!r} stands in the vocabulary more than once, expected distinct words")

    def __len__(self) -> int:
        return len(self.words)

    @staticmethod
    def fit(sentences: Iterable[Sequence[str]], size: int = WORDS) -> "Vocabulary":
        """The ``size`` - 4 most frequent words (ties in alphabetical order) after the special ones.

        Raises:
            UserError: no room for a word, or no words.
        """
        if size <= len(SPECIAL):
            raise UserError(f"the size of a vocabulary is {size}, expected at least {len(SPECIAL) + 1}: raise it")
        counts = Counter(word for sentence in sentences for word in sentence if word not in SPECIAL)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return Vocabulary((*SPECIAL, *ranked[: size - len(SPECIAL)]))

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Numbers (N, length) int64: the words, the end, padding.

        Raises:
            UserError: a sentence that does not fit with its end.
        """
        number = {word: i for i, word in enumerate(self.words)}
        rows = np.full((len(sentences), length), PAD, dtype=np.int64)
        for row, sentence in zip(rows, sentences, strict=True):
            if len(sentence) >= length:
                raise UserError(
                    f"a sentence has {len(sentence)} tokens, expected at most {length - 1} and the end: shorten it"
                )
            row[: len(sentence)] = [number.get(word, UNKNOWN) for word in sentence]
            row[len(sentence)] = END
        return rows

    def items(self, texts: Sequence[str], length: int) -> Float[Tensor, "N length"]:
        """Texts as a model takes them: what `encode` gives, as float32."""
        return torch.from_numpy(self.encode([tokenize(text) for text in texts], length)).float()

    def decode(self, rows: Shaped[Tensor, "N length"]) -> list[str]:
        """Sentences of word numbers, up to their ends."""
        answers = []
        for row in rows.long().tolist():
            stop = next((i for i, number in enumerate(row) if number in (END, PAD)), len(row))
            answers.append(" ".join(self.words[number] for number in row[:stop]))
        return answers


@dataclass(frozen=True)
class Corpus:
    """Sentences and the vocabulary that they are written in.

    Attributes:
        raw: word numbers (N, longest + 1) with their ids; documents are groups, where they are known.
        vocabulary: of the whole corpus.
        left_out: how many were too short, too long, or repetitions.
        unknown: share of the tokens that the vocabulary does not hold.
    """

    raw: Raw
    vocabulary: Vocabulary
    left_out: int
    unknown: float


def corpus_of(
    sentences: Sequence[Sequence[str]],
    *,
    name: str,
    groups: Sequence[int] | None = None,
    source: str | None = None,
    words: int | Vocabulary = WORDS,
    shortest: int = SHORTEST,
    longest: int = LONGEST,
) -> Corpus:
    """Keep distinct sentences of the wanted lengths, and write them in numbers.

    Args:
        sentences: lists of tokens; ids are their places in this list.
        name: of the corpus.
        groups: document of each; a document is never divided between train and test.
        source: path of the user's file.
        words: size of a new vocabulary, or a known one.
        shortest: tokens at the least.
        longest: tokens at the most.

    Raises:
        UserError: limits without room, or fewer than two sentences left.
    """
    if not 1 <= shortest <= longest:
        raise UserError(
            f"sentences of {shortest} to {longest} tokens were asked for, expected 1 <= shortest <= longest"
        )
    first: dict[tuple[str, ...], int] = {}
    for row, sentence in enumerate(sentences):
        if shortest <= len(sentence) <= longest:
            first.setdefault(tuple(sentence), row)
    if len(first) < 2:
        raise UserError(
            f"{source or name}: {len(first)} of {len(sentences)} sentences have {shortest} to {longest} tokens, expected at "
            "least 2: give more text, one sentence a line, or other limits"
        )
    kept, ids = list(first), np.fromiter(first.values(), dtype=np.int64, count=len(first))
    vocabulary = words if isinstance(words, Vocabulary) else Vocabulary.fit(kept, words)
    values = vocabulary.encode(kept, longest + 1)
    of_document = None
    if groups is not None:  # without the documents of which nothing is left
        of_document = np.unique(np.asarray(groups)[ids], return_inverse=True)[1].astype(np.int64)
    raw = Raw(values, ids, name, levels=len(vocabulary), groups=of_document, source=source)
    tokens = int((values > END).sum())
    return Corpus(raw, vocabulary, len(sentences) - len(kept), float((values == UNKNOWN).sum()) / tokens)


def read_text(
    path: str | Path,
    *,
    words: int | Vocabulary = WORDS,
    shortest: int = SHORTEST,
    longest: int = LONGEST,
) -> Corpus:
    """The user's sentences: the lines of a ``.txt`` file, or a column of a ``.csv`` file as ``file.csv:column``.

    Raises:
        UserError: no such file or column, text that is not UTF-8, or too few sentences.
    """
    title = str(path)
    file, column = title.rsplit(":", 1) if ".csv:" in title.lower() else (title, None)
    suffix = Path(file).suffix.lower()
    if suffix not in (".txt", ".csv"):
        raise UserError(
            f"{title}: expected sentences in a .txt file, one a line, or in a .csv file, as file.csv:column"
        )
    if suffix == ".csv" and column is None:
        raise UserError(f"{title}: name the column that holds the sentences, as {title}:column")
    try:
        with open(file, encoding="utf-8-sig", newline="" if column else None) as text:
            lines = text.read().splitlines() if column is None else _cells(text, column, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): check path and permissions") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8 text: save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{file}: is no table of comma-separated values ({error}): save it as CSV again") from None
    sentences = [tokenize(line) for line in lines]
    return corpus_of(
        sentences, name=Path(file).name, source=title, words=words, shortest=shortest, longest=longest
    )  # fmt: skip


def _cells(text: Iterable[str], column: str, file: str) -> list[str]:
    rows = csv.DictReader(text)
    names = rows.fieldnames or []
    if column not in names:
        raise UserError(f"{file}: there is no column {column!r}, expected one of {', '.join(map(str, names))}")
    return [row[column] or "" for row in rows]
