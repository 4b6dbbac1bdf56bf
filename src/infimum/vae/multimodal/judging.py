"""A trained model before its judges: coherence given every subset and jointly, Frechet distances, probes of its codes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.vae.multimodal.classifiers import PictureClassifier
from infimum.vae.multimodal.items import part_of, take
from infimum.vae.multimodal.metrics import Coherence, frechet_distance, joint_coherence, linear_probe
from infimum.vae.multimodal.model import MultimodalVAE

__all__ = ["Judgement", "codes", "judge"]

Names = tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """What classifiers say of what a model generates (2110.04121, section 5).

    Attributes:
        conditional: coherence by the size of the subset A that was given, the mean over all A and all modalities outside.
        joint: of draws from the prior, with the entropy of their labels.
        frechet: distance of means of prior draws to real items, in the classifier's features, by modality.
        probe: accuracy of a linear classifier of labels on the codes of single modalities and of all; empty without training items.
        samples: what was drawn from the prior, means of each modality, (N, *shape).
    """

    conditional: dict[int, Coherence]
    joint: Coherence
    frechet: dict[str, float]
    probe: dict[Names, Coherence]
    samples: dict[str, Tensor]


def judge(
    model: MultimodalVAE,
    test: Mapping[str, Float[Tensor, "N C H W"]],
    labels: Int[Tensor, "N"],
    judges: Mapping[str, PictureClassifier],
    *,
    train: tuple[Mapping[str, Float[Tensor, "L C H W"]], Int[Tensor, "L"]] | None = None,
    samples: int = 1000,
    codes_of: int = 500,
    seed: int = 0,
) -> Judgement:
    """Generate what is missing from every subset and everything from nothing, and let the classifiers look at it.

    Args:
        model: in eval mode.
        test: complete real items.
        labels: of them.
        judges: a classifier of every modality, see `train_classifiers`.
        train: items and labels for the linear probes.
        samples: tuples drawn from the prior.
        codes_of: training items of a probe (the papers take 500).
        seed: of the draws.

    Raises:
        UserError: a modality without a judge.
    """
    names = model.names
    if missing := [name for name in names if name not in judges]:
        raise UserError(f"modality {missing[0]!r} has no classifier: coherence needs one of every modality")
    device = labels.device
    with torch.no_grad():
        draws = Plan.iid(1).draws(torch.arange(len(labels), device=device), seed=seed, salt="translate")
        conditional = {}
        for size in range(1, len(names)):
            hits = [
                judges[to].predict(part[0]) == labels
                for given in itertools.combinations(names, size)
                for to, part in model.translate(dict(test), given, draws=draws).items()
            ]
            conditional[size] = _mean_share(torch.stack(hits))
        prior = Plan.iid(1).draws(torch.arange(samples, device=device), seed=seed, salt="sample")
        drawn = {name: part[0] for name, part in model.generate(prior, means=True).items()}
        features = {name: (judges[name].features(drawn[name]), judges[name].features(test[name])) for name in names}
    seen = {name: judges[name].predict(part) for name, part in drawn.items()}
    return Judgement(
        conditional=conditional,
        joint=joint_coherence(seen, judges[names[0]].head.out_features),
        frechet={name: frechet_distance(*pair) for name, pair in features.items()},
        probe={} if train is None else _probes(model, (train[0], train[1]), (test, labels), codes_of),
        samples=drawn,
    )


def codes(model: MultimodalVAE, x: Mapping[str, Tensor], given: Names) -> Float[Tensor, "N D"]:
    """The mean of q(z | x_A)."""
    with torch.no_grad():
        mean, _, log_weights = model.given(part_of(dict(x), given), given)
        return (log_weights.exp()[..., None] * mean).sum(1)


def _probes(
    model: MultimodalVAE,
    train: tuple[Mapping[str, Tensor], Tensor],
    test: tuple[Mapping[str, Tensor], Tensor],
    count: int,
) -> dict[Names, Coherence]:
    first = torch.arange(min(count, len(train[1])), device=train[1].device)
    known = take(dict(train[0]), first)
    return {
        given: linear_probe(codes(model, known, given), train[1][first], codes(model, test[0], given), test[1])
        for given in dict.fromkeys([*((name,) for name in model.names), model.names])
    }


def _mean_share(hits: Tensor) -> Coherence:
    """Mean over the rows of (pairs, N); the error is that between items, which all pairs share."""
    each = hits.double().mean(0)
    return Coherence(float(each.mean()), float(each.std()) / len(each) ** 0.5, float("nan"), len(each))
