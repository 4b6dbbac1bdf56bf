"""Sentences of English Wikipedia articles: a dump of 2016 that lies inside gensim's wheel (CC BY-SA 3.0)."""

import bz2
import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from infimum.errors import UserError, require

from .raw import Raw
from .text import Corpus, corpus_of, tokenize

__all__ = ["articles", "wikipedia", "wikipedia_corpus"]

FILE = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

_TABLE = re.compile(r"\{\|.*?\|\}", re.DOTALL)
_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_SENTENCE = re.compile(r"[A-Z].*[.!?][\"']?")
_MARKUP = tuple("=*#|:;{}!<")  # headings, lists, cells of tables


def articles(drop: re.Pattern[str]) -> Iterator[str]:
    """The text of every article without its markup; what ``drop`` matches goes first.

    Raises:
        UserError: gensim is not installed, or comes without the dump.
    """
    wiki = require("gensim.corpora.wikicorpus", "text")
    spec = find_spec("gensim")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "test" / "test_data" / FILE
    if not path.exists():
        raise UserError("this gensim comes without its Wikipedia dump: pip install --upgrade 'infimum[text]'")
    with bz2.open(path) as dump:
        for _, markup, _ in wiki.extract_pages(dump, ("0",)):
            yield wiki.filter_wiki(drop.sub("", markup))


@functools.lru_cache(maxsize=1)
def wikipedia_corpus() -> Corpus:
    """About 7,500 sentences of 3 to 20 tokens from some 100 articles, in 3,000 words; the article is the group.

    Raises:
        UserError: gensim is not installed, or comes without the dump.
    """
    sentences, numbers = [], []
    for article, text in enumerate(articles(_TABLE)):
        for line in text.split("\n"):
            if not line.strip().startswith(_MARKUP):
                found = [part for part in _BREAK.split(line.strip()) if _SENTENCE.fullmatch(part)]
                sentences += [tokenize(part) for part in found]
                numbers += [article] * len(found)
    corpus = corpus_of(sentences, name="wikipedia", groups=numbers)
    return replace(corpus, raw=replace(corpus.raw, ids=np.arange(len(corpus.raw.ids))))


def wikipedia() -> Raw:
    """The sentences as word numbers (21,): words, end, padding."""
    return wikipedia_corpus().raw
