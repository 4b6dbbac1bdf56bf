"""Sentences: words, vocabulary, the user's files, and the Wikipedia corpus."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infimum.data import load, reload
from infimum.data.registry import DATASETS
from infimum.data.sentences import load_sentences
from infimum.data.text import END, PAD, SPECIAL, UNKNOWN, Vocabulary, corpus_of, read_text, tokenize
from infimum.data.wikipedia import wikipedia_corpus
from infimum.errors import UserError


def test_words_punctuation_and_numbers() -> None:
    text = "Don’t panic: 1,234.5 Ünder-dogs  (in 1999) <number> won; e.g. “so”!"
    assert tokenize(text) == [
        "don't", "panic", ":", "<number>", "ünder", "dogs", "in", "<number>", "<number>", "won", ";", "e", ".", "g", ".", "so", "!",
    ]  # fmt: skip


def test_the_vocabulary_holds_the_most_frequent_words_first() -> None:
    words = Vocabulary.fit([["b", "a", "b"], ["c", "a", "<number>"]], size=6).words
    assert words == (*SPECIAL, "a", "b")  # a tie goes by the alphabet; c has no room


def test_encoding_ends_and_pads_and_is_undone() -> None:
    vocabulary = Vocabulary((*SPECIAL, "the", "cat"))
    rows = vocabulary.encode([["the", "cat", "sat"], []], 5)
    np.testing.assert_array_equal(rows, [[4, 5, UNKNOWN, END, PAD], [END, PAD, PAD, PAD, PAD]])
    assert vocabulary.decode(torch.from_numpy(rows)) == ["the cat <unknown>", ""]
    items = vocabulary.items(["The cat, the cat"], 7)
    assert items.dtype == torch.float32 and items.tolist() == [[4, 5, UNKNOWN, 4, 5, END, PAD]]


def test_a_text_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("A red house.\ntoo short\nA blue house.\n\na RED house.\nA green 7 house.\n", encoding="utf-8")
    corpus = read_text(file, shortest=3, longest=5)
    assert corpus.raw.ids.tolist() == [0, 2, 5] and corpus.left_out == 3  # too short, empty, repeated
    assert corpus.raw.values.shape == (3, 6)
    assert corpus.vocabulary.decode(torch.from_numpy(corpus.raw.values)) == [
        "a red house .", "a blue house .", "a green <number> house .",
    ]  # fmt: skip
    # a, house and the full stop, three times each; red, blue, green are unknown to the smaller vocabulary
    known = read_text(file, shortest=3, longest=5, words=7)
    assert known.unknown == pytest.approx(3 / 13)
    again = read_text(file, shortest=3, longest=5, words=known.vocabulary)
    np.testing.assert_array_equal(again.raw.values, known.raw.values)


def test_a_column_of_a_table_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text('stars,review\n5,"good food, good wine"\n1,"bad\nbad service"\n', encoding="utf-8")
    corpus = read_text(f"{file}:review")
    words = corpus.vocabulary.decode(torch.from_numpy(corpus.raw.values))
    assert words == ["good food , good wine", "bad bad service"]


def _file(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_refusals(tmp_path: Path) -> None:
    table = _file(tmp_path, "a.csv", b"review\ngood food here\n")
    for path, says in (
        (table, "name the column that holds the sentences"),
        (f"{table}:text", "there is no column 'text', expected one of review"),
        (f"{table}:review", "1 of 1 sentences have 3 to 20 tokens"),
        (_file(tmp_path, "b.txt", b"caf\xe9 au lait\n"), "byte 3 is not UTF-8"),
        (_file(tmp_path, "c.doc", b"x"), "expected sentences in a .txt file"),
        (str(tmp_path / "none.txt"), "No such file"),
    ):
        with pytest.raises(UserError, match=says):
            read_text(path)
    with pytest.raises(UserError, match="1 <= shortest <= longest"):
        corpus_of([["a"]], name="x", shortest=3, longest=2)
    with pytest.raises(UserError, match="size of a vocabulary is 4"):
        Vocabulary.fit([["a"]], size=4)
    with pytest.raises(UserError, match="'a' stands in the vocabulary more than once"):
        Vocabulary((*SPECIAL, "a", "a"))
    with pytest.raises(UserError, match="begins with <pad>"):
        Vocabulary(("a", "b"))
    with pytest.raises(UserError, match="3 tokens, expected at most 2"):
        Vocabulary((*SPECIAL, "a")).encode([["a", "a", "a"]], 3)


def test_wikipedia_is_what_the_registry_says() -> None:
    corpus, entry = wikipedia_corpus(), DATASETS["wikipedia"]
    values = corpus.raw.values
    assert (len(values), values.shape[1:], len(corpus.vocabulary)) == (entry.items, entry.shape, entry.levels)
    assert len(values) >= 5000
    lengths = (values > END).sum(1)
    assert lengths.min() == 3 and lengths.max() == 20
    for row, length in zip(values, lengths, strict=True):
        assert row[length] == END and (row[length + 1 :] == PAD).all() and (row[:length] > END).all()
    assert len(np.unique(values, axis=0)) > 0.99 * len(values)  # distinct, but for words that the vocabulary lacks
    assert 0.1 < corpus.unknown < 0.2


def test_articles_are_not_divided_and_the_data_set_is_found_again() -> None:
    dataset, corpus = load_sentences()
    article = dict(zip(corpus.raw.ids.tolist(), corpus.raw.groups.tolist(), strict=True))
    parts = [{article[i] for i in ids.tolist()} for ids in (dataset.train_ids, dataset.valid_ids, dataset.test_ids)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    for other in (load("wikipedia"), reload(dataset.spec)):
        assert other.spec == dataset.spec
        assert torch.equal(other.train, dataset.train) and torch.equal(other.test_ids, dataset.test_ids)


def test_the_users_sentences_are_divided(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(f"this is sentence {'abcdefghij'[i]}" for i in range(10)), encoding="utf-8")
    dataset, corpus = load_sentences(str(file), words=8, longest=6)
    assert len(dataset.train) == 7 and dataset.spec.shape == (7,) and dataset.spec.levels == len(corpus.vocabulary) == 8
