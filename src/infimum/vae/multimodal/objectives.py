"""What a multimodal VAE is trained by: a bound with any of its gradients, or a loss that is not a bound and says so."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Coefficients, LogWeights, Plan, Rule, bound_backward, looser
from infimum.evidence.draws import Draws
from infimum.vae.multimodal.bounds import (
    RandomSubsetELBO,
    mean_divergence,
    subset_elbo_members,
    subset_elbos,
)
from infimum.vae.multimodal.items import Items
from infimum.vae.multimodal.model import MultimodalVAE
from infimum.vae.multimodal.subsets import observed_log_weights

__all__ = ["MultimodalObjective", "looser_rule", "stratified_dreg"]

Bound = Literal["subsampled_elbo", "mixture_elbo", "tight_iwae", "looser_iwae", "subset_elbos"]


def stratified_dreg(w: LogWeights) -> Coefficients:
    """The doubly reparameterised form of the tight bound on strata of a mixture, as published (1911.03393, appendix).

    Its derivation asks that all draws have one distribution. Draws of strata have not: with more than one component the encoder's
    gradient has a bias that vanishes as K grows.
    """
    v = w.log_w.double().softmax(0)
    return Coefficients(v, v.square())


def looser_rule(log_weights: Float[Tensor, "B S"], *, dreg: bool = False) -> Rule:
    """Gradient of the looser bound, the mean over components of the log-mean-exp of their own draws (1911.03393, eq. 3).

    Args:
        log_weights: of the components of each item, as the draws chose by.
        dreg: the doubly reparameterised form as published. A stratum's draws do not follow the mixture below, so its encoder
            gradient is biased at every K; the total derivative is not.
    """

    def rule(w: LogWeights) -> Coefficients:
        assert w.draws is not None
        groups = w.draws.choose(log_weights)
        one = torch.nn.functional.one_hot(groups, log_weights.shape[1]).bool()  # (K, B, S)
        log_w = torch.where(one, w.log_w.double()[..., None], -math.inf)
        within = torch.where(one, (log_w - log_w.logsumexp(0).nan_to_num(neginf=0.0)).exp(), 0.0).sum(-1)
        share = one.double().mean(0).gather(1, groups.T).T  # of the draw's group
        v = share * within
        return Coefficients(v, v * within) if dreg else Coefficients(v, v, -v)

    return rule


@dataclass(frozen=True)
class MultimodalObjective:
    """A training objective of a multimodal VAE.

    Attributes:
        bound: "subsampled_elbo" (2110.04121, eq. 4: every subset reconstructs everything), "mixture_elbo" (the ELBO of the
            mixture as one posterior), "tight_iwae" (log-mean-exp over all draws, the mixture's density below), "looser_iwae" (mean
            over components of their log-mean-exps; MMVAE's), "subset_elbos" (MVAE's sub-sampling: each subset reconstructs itself;
            no bound on log p(x)).
        k: draws of each component ("stratified"), or of an item ("iid").
        draws: "stratified": every item uses every component; "iid": every draw of every item chooses its component at random.
        gradient: "total" (autograd's, unbiased for every bound), "stl" (mixture_elbo), "dreg" (tight_iwae, looser_iwae: unbiased
            for the tight bound of iid draws, else as published, with a bias).
        beta: weight of the divergence of "subsampled_elbo" and "subset_elbos"; other than 1 the loss is not a bound.
        random_subsets: of "subset_elbos", an item and step, beside all modalities and each one (k in 1802.05335).
        weights: factors on the log-likelihoods of some modalities, by name; other than 1 the loss is not a bound.
    """

    bound: Bound = "subsampled_elbo"
    k: int = 1
    draws: Literal["stratified", "iid"] = "stratified"
    gradient: Literal["total", "stl", "dreg"] = "total"
    beta: float = 1.0
    random_subsets: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by."""
        allowed = {"tight_iwae": ("total", "dreg"), "looser_iwae": ("total", "dreg"), "mixture_elbo": ("total", "stl")}
        if self.bound not in ("subsampled_elbo", "subset_elbos", *allowed):
            raise UserError(
                f"no bound {self.bound!r}: choose one of subsampled_elbo, subset_elbos, {', '.join(allowed)}"
            )
        if self.gradient not in allowed.get(self.bound, ("total",)):
            offered = " or ".join(allowed.get(self.bound, ("total",)))
            raise UserError(f"gradient {self.gradient!r} is not offered for {self.bound}: use {offered}")
        if self.k < 1 or self.random_subsets < 0:
            raise UserError(f"k is at least 1 and random_subsets at least 0, got {self.k} and {self.random_subsets}")
        if not 0 <= self.beta < math.inf or not all(0 < w < math.inf for w in self.weights.values()):
            raise UserError(f"beta must not be negative and weights positive, got {self.beta} and {dict(self.weights)}")
        if self.bound in allowed and not self.plain:
            raise UserError(f"beta and weights change the ELBO: use bound 'subsampled_elbo', got {self.bound!r}")
        if self.random_subsets and self.bound != "subset_elbos":
            raise UserError(f"random_subsets is for bound 'subset_elbos', got {self.bound!r}: leave it out")

    @property
    def plain(self) -> bool:
        """Whether neither divergence nor likelihoods are rescaled."""
        return self.beta == 1 and all(w == 1 for w in self.weights.values())

    @property
    def is_bound(self) -> bool:
        """Whether the loss is the negative of a bound on the evidence."""
        return self.plain and self.bound != "subset_elbos"

    @property
    def warning(self) -> str:
        """What must be said of a model trained by this; empty for a bound with an unbiased gradient."""
        notes = []
        if not self.is_bound:
            scaled = "" if self.plain else f" with beta={self.beta:g}, weights={dict(self.weights)}"
            notes.append(
                f"the training objective was {self.bound}{scaled} and is not a bound; the evaluation uses the unmodified joint"
            )
        if self.gradient == "dreg" and (self.bound == "looser_iwae" or self.draws == "stratified"):
            notes.append(
                "the encoder's gradient was the published doubly reparameterised one, which is biased on strata"
            )
        return "; ".join(notes)

    def plan(self, model: MultimodalVAE) -> Plan:
        """How the draws of a training example are spent.

        Raises:
            UserError: a bound of the mixture's density, whose components are too many to list.
        """
        sampled = model.config.subsets == "sample"
        if self.bound == "subset_elbos":
            return Plan.iid(1 + len(model.names) + self.random_subsets if len(model.names) > 1 else 1)
        if sampled and self.bound != "subsampled_elbo":
            raise UserError(
                f"{self.bound} needs subsets that can be listed, got subsets='sample': use 'subsampled_elbo'"
            )
        components = model.members.shape[0]
        if self.draws == "iid" or sampled or components == 1:
            return Plan.iid(self.k)
        return Plan.stratified(components * self.k)

    def backward(
        self,
        model: MultimodalVAE,
        x: Items,
        draws: Draws,
        *,
        rows: int = 2**14,
        backward: Callable[[Tensor], Any] = Tensor.backward,
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of the loss; returns what it was: the name of the bound, or "loss (not a bound)"."""  # fmt: skip
        if self.bound in ("subsampled_elbo", "subset_elbos"):
            loss = self._loss(model, x, draws)
            backward(loss)
            return {self.bound: -loss.detach()} if self.is_bound else {"loss (not a bound)": loss.detach()}
        _, observed = model.read(x)
        log_weights = observed_log_weights(model.log_subset, model.members, observed)
        table = bound_backward(model, x, draws, self._rule(log_weights, draws), rows=rows, backward=backward)
        log_w = table.log_w.double()
        if self.bound == "mixture_elbo":
            return {"mixture_elbo": log_w.mean()}
        if self.bound == "looser_iwae":
            return {"looser_iwae": looser(table, draws.choose(log_weights)).value.mean()}
        return {"tight_iwae": (log_w.logsumexp(0) - math.log(log_w.shape[0])).mean()}

    def _rule(self, log_weights: Tensor, draws: Draws) -> str | Rule:
        if self.bound == "mixture_elbo":
            return "stl" if self.gradient == "stl" else "elbo"
        if self.bound == "looser_iwae":
            return looser_rule(log_weights, dreg=self.gradient == "dreg")
        if self.gradient == "total":
            return "iwae"
        return "dreg" if draws.plan.independent else stratified_dreg

    def _loss(self, model: MultimodalVAE, x: Items, draws: Draws) -> Float[Tensor, ""]:
        weights = self._factors(model)
        if self.bound == "subset_elbos":
            members = subset_elbo_members(draws, model.read(x)[1])
            return -subset_elbos(model, x, draws, members, beta=self.beta, weights=weights).sum(0).mean()
        if model.config.subsets == "sample":
            path = RandomSubsetELBO(model)
            each, divergence = path.split_terms(x, path.encode(x), draws)
            divergence = draws.average(divergence)
        else:
            s = model.encode(x)
            each = model.log_likelihoods(x, model.sample(s, draws))
            divergence = mean_divergence(model, s)
        each = each if weights is None else each * weights
        return (self.beta * divergence - draws.average(each.sum(-1))).mean()

    def _factors(self, model: MultimodalVAE) -> Float[Tensor, "M"] | None:
        if not self.weights:
            return None
        if unknown := sorted(set(self.weights) - set(model.names)):
            raise UserError(f"weights name {unknown[0]!r}, and the model has the modalities {', '.join(model.names)}")
        return torch.tensor([float(self.weights.get(name, 1.0)) for name in model.names], device=model.members.device)
