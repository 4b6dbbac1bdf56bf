"""Evidence lower bounds that sub-sample modalities: tables of path terms, lower in expectation."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from infimum.evidence import Draws, PathModel, event_sum
from infimum.vae.multimodal.items import Items
from infimum.vae.multimodal.model import Experts, Mixture, MultimodalVAE
from infimum.vae.multimodal.subsets import random_members

__all__ = ["RandomSubsetELBO", "SubsampledELBO", "subset_elbo_members", "subset_elbos"]


class SubsampledELBO(PathModel):
    """sum_A w_A ( E_{q(z|x_A)}[ sum_m log p(x_m|z) ] - KL(q(z|x_A) to p(z)) ), every A reconstructs everything observed.

    The multimodal ELBO (Daunhawer et al. 2022, 2110.04121, eq. 4; Sutter et al. 2021, 2105.02470, eq. 9), a lower bound on
    log p(x) by the convexity of KL. The lead chooses the subset: ``Plan.stratified(S)`` uses each one once for equal weights.

    Args:
        model: the joint and the posteriors.
        given: names of one subset A: the bound L_A of q(z | x_A) alone; where only single modalities are components, the weighted
            mean of the bounds of those in A.
    """

    def __init__(self, model: MultimodalVAE, given: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.model, self.given = model, given
        self.train(model.training)

    def encode(self, x: Items) -> Mixture:
        """Components of q(z | x), or of q(z | x_A)."""
        return self.model.encode(x) if self.given is None else self.model.given(x, self.given)

    def constant(self, x: Items, s: Mixture) -> Float[Tensor, "B"]:
        """-sum_A w_A KL(q(z|x_A) to p(z)) in nats."""
        return -mean_divergence(self.model, s)

    def terms(self, x: Items, s: Mixture, draws: Draws) -> Float[Tensor, "K B"]:
        """sum_m log p(x_m | z) in nats."""
        return self.model.log_likelihoods(x, self.model.sample(s, draws)).sum(-1)


def mean_divergence(model: MultimodalVAE, s: Mixture) -> Float[Tensor, "B"]:
    """sum_A w_A KL(q(z|x_A) to p(z)) in nats."""
    return (s[2].exp() * model.divergences(s)).sum(-1)


class RandomSubsetELBO(PathModel):
    """The same bound over all 2^M - 1 subsets, one of them drawn at random for every draw of every item: for many modalities.

    Streams: the lead and "subset" (which), "z".
    """

    def __init__(self, model: MultimodalVAE) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def encode(self, x: Items) -> Experts:
        """The unimodal posteriors."""
        return self.model.experts(x)

    def constant(self, x: Items, s: Experts) -> Float[Tensor, "B"]:
        """0: the divergence is that of the drawn subset."""
        return s[0].new_zeros(s[0].shape[0])

    def split_terms(self, x: Items, s: Experts, draws: Draws) -> tuple[Float[Tensor, "K B M"], Float[Tensor, "K B"]]:
        """log p(x_m | z) for every modality, and the divergence of the drawn subset, in nats."""
        z, divergence = sample_subsets(self.model, s, random_members(draws, s[2]), draws)
        return self.model.log_likelihoods(x, z), divergence

    def terms(self, x: Items, s: Experts, draws: Draws) -> Float[Tensor, "K B"]:
        """sum_m log p(x_m | z) - KL(q(z|x_A) to p(z)) in nats."""
        log_likelihoods, divergence = self.split_terms(x, s, draws)
        return log_likelihoods.sum(-1) - divergence


def sample_subsets(
    model: MultimodalVAE, experts: Experts, members: Bool[Tensor, "K B M"], draws: Draws
) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B"]]:
    """Draw k from the product of its own subset, and KL(q(z|x_A) to p(z)) in nats."""
    mean, log_scale = model.products(experts, members.transpose(0, 1))  # (B, K, D)
    noise = model.family.noise(draws, "z", mean.shape[-1]).to(mean.dtype)
    divergence = event_sum(model.family.divergence(mean, log_scale, model.prior_log_scale().to(mean.dtype)), 1)
    return mean.transpose(0, 1) + log_scale.transpose(0, 1).exp() * noise, divergence.T


def subset_elbo_members(draws: Draws, observed: Bool[Tensor, "B M"]) -> Bool[Tensor, "K B M"]:
    """What item b has of each subset of Wu & Goodman's objective: all, each single one, and K - M - 1 random ones of 2 .. M-1."""
    b, m = observed.shape
    fixed = torch.cat((torch.ones(1, m), torch.eye(m))).bool().to(observed.device)[:, None]
    rows = (fixed & observed).expand(m + 1, b, m)[: draws.shape[0]]
    if draws.shape[0] <= m + 1:
        return rows
    return torch.cat((rows, random_members(draws[m + 1 :], observed, 2, m - 1)))


def subset_elbos(
    model: MultimodalVAE,
    x: Items,
    draws: Draws,
    members: Bool[Tensor, "K B M"],
    *,
    beta: float = 1.0,
    weights: Tensor | None = None,
) -> Float[Tensor, "K B"]:
    """The ELBO of log p(x_A) for the subset A of each draw: it reconstructs x_A only, in nats; 0 for empty A.

    Their sum over all modalities, single ones and random subsets is the objective of MVAE (Wu & Goodman 2018, 1802.05335,
    eq. 7): a sum of bounds on different targets, and no bound on log p(x).
    """  # fmt: skip
    experts = model.experts(x)
    seen = members & experts[2]
    z, divergence = sample_subsets(model, experts, seen, draws)
    each = torch.where(seen, model.log_likelihoods(x, z), 0.0)
    each = each if weights is None else each * weights
    return torch.where(seen.any(-1), each.sum(-1) - beta * divergence, 0.0)
