"""How coherent and how good generated modalities are: agreement of classifiers, Frechet distance, linear probes.

Coherence says nothing about what classifiers do not look at, and a model that repeats one item is coherent: `joint_coherence`
gives the entropy of its labels beside it (2110.04121, section 5).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from infimum.errors import UserError
from infimum.vae.quality import frechet_distance

__all__ = ["Coherence", "agreement", "frechet_distance", "joint_coherence", "linear_probe"]


@dataclass(frozen=True)
class Coherence:
    """A share of items with its binomial standard error.

    Attributes:
        value: the share.
        stderr: of it.
        label_entropy: of the labels, in nats; log of their number where they are spread evenly. NaN where labels were given.
        items: how many.
    """

    value: float
    stderr: float
    label_entropy: float
    items: int


def _share(hits: Tensor, label_entropy: float = math.nan) -> Coherence:
    n = hits.numel()
    if n == 0:
        raise UserError("coherence of no items: generate at least one")
    value = float(hits.double().mean())
    return Coherence(value, math.sqrt(value * (1 - value) / n), label_entropy, n)


def agreement(predicted: Int[Tensor, "*n"], labels: Int[Tensor, "*#n"]) -> Coherence:
    """Conditional coherence: share of generated items whose predicted label is that of the input."""
    return _share(predicted == labels)


def joint_coherence(predicted: Mapping[str, Int[Tensor, "N"]], classes: int) -> Coherence:
    """Share of jointly generated items on whose label all classifiers agree, and the entropy of the labels seen.

    Args:
        predicted: labels by modality.
        classes: how many there are.

    Raises:
        UserError: no classifiers.
    """
    if not predicted:
        raise UserError("joint coherence needs a classifier for each modality, got none")
    table = torch.stack(list(predicted.values()))  # (M, N)
    seen = torch.bincount(table.flatten(), minlength=classes).double()
    seen = seen / seen.sum()
    return _share((table == table[0]).all(0), float(-torch.special.xlogy(seen, seen).sum()))


def linear_probe(
    train: Float[Tensor, "N D"], labels: Shaped[Tensor, "N"], test: Float[Tensor, "L D"], truth: Shaped[Tensor, "L"]
) -> Coherence:
    """Accuracy on test codes of a logistic regression fitted to training codes (the papers take 500 of them)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train.double().cpu().numpy(), labels.cpu().numpy())
    return agreement(torch.from_numpy(probe.predict(test.double().cpu().numpy())), truth.cpu())
