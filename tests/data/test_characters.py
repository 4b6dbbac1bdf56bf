"""Text as characters: the rules of text8, and the embedded corpus."""

import pytest
import torch

from infimum.data import load
from infimum.data.characters import CHARACTERS, decoded, encoded
from infimum.errors import UserError


def test_the_rules_of_text8():
    row = encoded("  Café, 1905:\n a NEW   one's 7. ")
    assert decoded(row[None]) == ["cafe one nine zero five a new one s seven"]
    assert len(CHARACTERS) == 27 and encoded("").shape == (0,)
    with pytest.raises(UserError, match="from 0 to 26"):
        decoded(torch.tensor([[0, 27]]))


def test_the_corpus_is_english_and_split_by_article():
    pytest.importorskip("gensim")
    data = load("wikipedia-characters")
    assert data.spec.shape == (64,) and data.spec.levels == 27
    assert len(data.train) + len(data.valid) + len(data.test) == 51375
    lines = decoded(data.test[:2000])
    share = sum(line.split().count("the") for line in lines) / sum(len(line.split()) for line in lines)
    assert 0.03 < share < 0.1  # the most frequent word of English prose
    counts = torch.bincount(data.train.long().flatten(), minlength=27)
    assert CHARACTERS[int(counts.argmax())] == " " and CHARACTERS[int(counts[1:].argmax()) + 1] == "e"
