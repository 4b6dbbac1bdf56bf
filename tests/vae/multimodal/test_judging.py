"""Coherence, Frechet distance and probes against models and samples whose scores are known."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from infimum.errors import UserError
from infimum.vae.multimodal import (
    Modality,
    MultimodalVAE,
    agreement,
    frechet_distance,
    joint_coherence,
    judge,
    linear_probe,
    mmvae,
    train_classifiers,
)
from vae.multimodal.cases import LIMIT

SHAPE = (1, 4, 4)


def pictures(labels: torch.Tensor, noise: float = 0.02, seed: int = 0) -> torch.Tensor:
    """Bright (label 1) or dark (label 0)."""
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * labels - 1
    return signs[:, None, None, None] + noise * torch.randn(len(labels), *SHAPE, generator=generator)


@pytest.fixture(scope="module")
def world():
    labels = torch.arange(400) % 2
    x = {name: pictures(labels, seed=seed) for seed, name in enumerate("abc")}
    judges, accuracy = train_classifiers(x, labels, x, labels, steps=40)
    assert [one.value for one in accuracy.values()] == [1.0] * 3
    return x, labels, judges


def copier(gain: float) -> MultimodalVAE:
    """z is the brightness that an encoder sees times ``gain``, decoders paint it; the posterior's deviation is e^-4 or 1."""
    model = MultimodalVAE(mmvae({name: Modality(SHAPE, hidden=()) for name in "abc"}, latent=1)).eval()
    with torch.no_grad():
        for net in model.nets.values():
            net.encoder[0].weight.zero_()
            net.encoder[0].weight[0] = gain / 16
            net.encoder[0].bias.copy_(torch.tensor([0.0, -4.0 if gain else 0.0]))
            net.decoder[0].weight.fill_(1.0)
            net.decoder[0].bias.zero_()
    return model


def test_a_perfect_copier_and_a_blind_model(world):
    """1 exactly; and 1/C within the binomial error of its items, pair by pair (|z| < 5.5)."""
    x, labels, judges = world
    perfect = judge(copier(1.0), x, labels, judges, train=(x, labels), samples=500)
    assert {size: one.value for size, one in perfect.conditional.items()} == {1: 1.0, 2: 1.0}
    assert perfect.joint.value > 0.9  # one z paints all three; near 0 brightness the judges may differ
    assert perfect.joint.label_entropy == pytest.approx(math.log(2), abs=0.02)
    assert all(one.value == 1.0 for one in perfect.probe.values())
    assert list(perfect.probe) == [("a",), ("b",), ("c",), ("a", "b", "c")]
    blind = judge(copier(0.0), x, labels, judges, samples=500)
    for one in blind.conditional.values():
        assert abs(one.value - 0.5) / one.stderr < LIMIT
        assert one.stderr <= math.sqrt(0.25 / 400) * 1.01 and one.items == 400
    assert blind.probe == {}


def test_quality_sees_what_coherence_does_not(world):
    """A model that always paints the same: coherent, but its labels have no entropy, and its distance is large."""
    x, labels, judges = world
    model = copier(1.0)
    with torch.no_grad():
        for net in model.nets.values():
            net.decoder[0].weight.zero_()
            net.decoder[0].bias.fill_(1.0)
    stuck, fine = (judge(m, x, labels, judges, samples=500) for m in (model, copier(1.0)))
    assert (stuck.joint.value, stuck.joint.label_entropy) == (1.0, 0.0)
    assert all(stuck.frechet[name] > 2 * fine.frechet[name] for name in "abc")


def test_frechet_distance_is_that_of_gaussians():
    """scipy's matrix root as a second formula; 0 of a set with itself; symmetric."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(200, 5)) @ generator.normal(size=(5, 5)), generator.normal(1, 2, size=(150, 5))
    one, two = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * linalg.sqrtm(one @ two).real)
    first, second = torch.from_numpy(a), torch.from_numpy(b)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)
    constant = torch.cat((first, torch.ones(200, 2)), 1)  # features that never fire
    assert frechet_distance(constant, constant + 3) == pytest.approx(9 * 7)


def test_shares_and_their_errors():
    labels = torch.arange(10) % 5
    assert agreement(labels, labels).value == 1.0
    share = agreement(torch.where(torch.arange(10) < 3, labels, -1), labels)
    assert (share.value, share.stderr, share.items) == (0.3, pytest.approx(math.sqrt(0.021)), 10)
    guess = torch.randint(0, 5, (3, 20000), generator=torch.Generator().manual_seed(0))
    found = joint_coherence(dict(zip("abc", guess, strict=True)), 5)
    assert abs(found.value - 1 / 25) / found.stderr < LIMIT
    assert found.label_entropy == pytest.approx(math.log(5), abs=1e-3)


def test_probes_find_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (900,), generator=generator)
    codes = torch.randn(900, 4, generator=generator)
    told = codes + 8 * torch.nn.functional.one_hot(labels, 4)
    assert linear_probe(told[:500], labels[:500], told[500:], labels[500:]).value > 0.99
    blind = linear_probe(codes[:500], labels[:500], codes[500:], labels[500:])
    assert abs(blind.value - 1 / 3) / blind.stderr < LIMIT


def test_refusals(world):
    x, labels, judges = world
    with pytest.raises(UserError, match="modality 'c' has no classifier"):
        judge(copier(1.0), x, labels, {name: judges[name] for name in "ab"})
    noise = {"a": torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(1))}
    with pytest.raises(UserError, match=r"the classifier of 'a' is right on .* and at least 90% is asked of a judge"):
        train_classifiers(noise, labels, {"a": noise["a"].flip(0)}, labels, steps=20)
    with pytest.raises(UserError, match="joint coherence needs a classifier"):
        joint_coherence({}, 10)
    with pytest.raises(UserError, match="coherence of no items"):
        agreement(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    with pytest.raises(UserError, match="at least 2 items a side, got 1 and 2"):
        frechet_distance(torch.ones(1, 2), torch.ones(2, 2))
