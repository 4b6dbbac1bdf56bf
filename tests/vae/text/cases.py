"""Small text models whose sentences can be enumerated."""

import itertools
from typing import Any

import torch

from infimum.data.text import END, PAD, SPECIAL, UNKNOWN
from infimum.vae.text import TextVAE, TextVAEConfig


def small(length: int = 5, seed: int = 0, **changes: Any) -> TextVAE:
    """A model of seven words with weights of order one, in eval mode."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"latent": 3, "embedding": 4, "hidden": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    model = TextVAE(TextVAEConfig(words=(*SPECIAL, "a", "b", "c"), length=length, **sizes | changes))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.7)
    return model.eval()


def all_sentences(length: int, words: int = 7) -> torch.Tensor:
    """Every row of up to length - 1 words, the end and padding."""
    rows = []
    for n in range(length):
        for sentence in itertools.product(range(UNKNOWN, words), repeat=n):
            rows.append([*sentence, END] + [PAD] * (length - n - 1))
    return torch.tensor(rows, dtype=torch.float32)
