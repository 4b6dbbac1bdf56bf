"""A world in which nothing is hidden: short Markov sequences, a trained mask predictor, and all sums carried out."""

import itertools

import torch
from torch import Tensor

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, SequenceLearner
from infimum.training import Run, train

__all__ = ["LENGTH", "LETTERS", "every_sequence", "markov_log_prob", "markov_sequences", "tiny_world"]

LENGTH, LETTERS = 6, 3


def _chain() -> tuple[Tensor, Tensor]:
    """Probabilities of the first letter, and of the next one given the last."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(LETTERS, generator=g).softmax(0), (2 * torch.randn(LETTERS, LETTERS, generator=g)).softmax(1)


def markov_sequences(n: int, *, seed: int = 0) -> Tensor:
    """(n, 6) sequences over 3 letters from a random chain, the same for every seed."""
    first, step = _chain()
    g = torch.Generator().manual_seed(seed)
    x = torch.multinomial(first, n, True, generator=g)[:, None]
    for _ in range(LENGTH - 1):
        x = torch.cat((x, torch.multinomial(step[x[:, -1]], 1, generator=g)), 1)
    return x


def markov_log_prob(x: Tensor) -> Tensor:
    """log p of sequences (n, 6) under the chain, in nats."""
    first, step = (p.double().log() for p in _chain())
    return first[x[:, 0]] + step[x[:, :-1], x[:, 1:]].sum(1)


def every_sequence() -> Tensor:
    """All 729 sequences."""
    return torch.tensor(list(itertools.product(range(LETTERS), repeat=LENGTH)))


def tiny_world(run: Run, *, steps: int = 1500, seed: int = 0) -> MaskedDiffusion | None:
    """A predictor with two hidden layers of 48, trained on the ELBO by counts; None: interrupted."""
    torch.manual_seed(seed)
    config = MaskedDiffusionConfig(LETTERS, length=LENGTH, network="mlp", width=48, blocks=2)
    model = MaskedDiffusion(config)
    learner = SequenceLearner(model, markov_sequences(20_000, seed=seed), batch=256, lr=2e-3, clip=None, seed=seed)
    result = train(learner, steps=steps, run=run, every=steps)
    return None if result.interrupted else model.eval()
