"""A data set of sentences with its vocabulary, by name or from the user's file."""

from .loading import Dataset, _dataset, _deal, _fit
from .spec import Split
from .text import WORDS, Corpus, Vocabulary, read_text
from .wikipedia import wikipedia_corpus

__all__ = ["load_sentences"]


def load_sentences(
    data: str = "wikipedia", *, words: int | Vocabulary = WORDS, longest: int = 20, seed: int = 0
) -> tuple[Dataset, Corpus]:
    """Sentences as numbers, divided into train, valid and test as `load` does, and the corpus with its vocabulary.

    Args:
        data: "wikipedia" (3,000 words, up to 20 tokens), or what `read_text` takes.
        words: size of the vocabulary of the user's file, or a known vocabulary.
        longest: tokens of the longest sentence of the user's file that is kept.
        seed: of the split.

    Raises:
        UserError: as `read_text`.
    """
    corpus = wikipedia_corpus() if data == "wikipedia" else read_text(data, words=words, longest=longest)
    split = Split(seed=seed)
    parts = _deal(corpus.raw, split)
    spec = _fit(corpus.raw, parts["train"], split, "integer", None, None)
    return _dataset(corpus.raw, parts, spec), corpus
