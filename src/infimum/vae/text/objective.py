"""What a `TextVAE` is trained by: -E[log p(x|z)] + weight x beta x regulariser, and which of these is a bound."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, Plan, active_units
from infimum.vae.posteriors import gaussian_divergence
from infimum.vae.regularisers import (
    batch_decomposition,
    discriminator_loss,
    free_bits,
    free_bits_batch,
    generator_loss,
    mean_discrepancy,
)
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.model import TextVAE

__all__ = ["Annealing", "Regulariser", "TextObjective"]

Regulariser = Literal["kl", "free-bits", "free-bits-batch", "tc", "mmd", "aae", "gap", "gap-joint"]
Annealing = Literal["none", "linear", "cyclic"]

MIXTURES = ("gap", "gap-joint", "tc")
"""Those of the batch's mixture of posteriors."""
SAMPLED = (*MIXTURES, "aae")
"""Those that need many draws of every posterior."""
GAUSSIAN = {"free-bits": "free bits are", "free-bits-batch": "free bits are", "tc": "a total correlation is made of"}
"""Those of single dimensions, which a sphere does not have."""


@dataclass(frozen=True)
class TextObjective:
    """A training objective of a `TextVAE`; the defaults are the density gap of 2211.00321 as published.

    Attributes:
        regulariser: "kl"; "free-bits" (dimensions of an item below their share of ``target`` cost nothing and are not
            pulled) or "free-bits-batch" (each dimension's mean over the batch costs at least its share); "tc" (beta-TCVAE, by
            the batch's mixture); "mmd" (WAE-MMD); "aae" (a discriminator); "gap" (dimension by dimension; on the sphere joint)
            or "gap-joint".
        beta: weight of the regulariser.
        draws: latents a sentence in the regulariser; the first of them is decoded.
        aggregate: sentences whose posteriors are mixed, |b|; None: the batch. 1 is the ordinary divergence by Monte Carlo.
        target: of free bits, nats over all dimensions.
        parts: of "tc", weights (alpha, beta, gamma) of information, total correlation, and divergence of the dimensions
            (1802.04942: 1, 6, 1). (0, 0, 1) is "gap", (0, 1, 1) "gap-joint".
        anneal: of the weight: "none", "linear" from 0 to 1, or "cyclic", linear from 0 again at every cycle.
        anneal_epochs: epochs in which the weight rises (official: 10).
        cycle_epochs: epochs of a cycle (official: 20).
        word_dropout: share of the words that the decoder does not get to read.
    """

    regulariser: Regulariser = "gap"
    beta: float = 1.0
    draws: int = 32
    aggregate: int | None = None
    target: float = 8.0
    parts: tuple[float, float, float] = (1.0, 6.0, 1.0)
    anneal: Annealing = "linear"
    anneal_epochs: float = 10.0
    cycle_epochs: float = 20.0
    word_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by."""
        if self.regulariser not in get_args(Regulariser):
            raise UserError(f"no regulariser {self.regulariser!r}: choose one of {', '.join(get_args(Regulariser))}")
        if self.anneal not in ("none", "linear", "cyclic"):
            raise UserError(f"anneal is {self.anneal!r}, expected none, linear or cyclic")
        for name in ("beta", "target"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}, expected a finite number of at least 0")
        if len(self.parts) != 3 or not all(0 <= part < float("inf") for part in self.parts):
            raise UserError(f"parts are {self.parts}, expected three finite weights of at least 0: alpha, beta, gamma")
        if self.draws < 1:
            raise UserError(f"draws is {self.draws}, expected at least 1 latent a sentence")
        if not 0 < self.anneal_epochs <= self.cycle_epochs:
            raise UserError(
                f"the weight rises for {self.anneal_epochs} of {self.cycle_epochs} epochs, expected more than 0 and no more "
                "than the cycle: change anneal_epochs or cycle_epochs"
            )
        if not 0 <= self.word_dropout <= 1:
            raise UserError(f"word_dropout is {self.word_dropout}, expected a share from 0 to 1")
        if self.aggregate is not None and self.aggregate < 1:
            raise UserError(f"aggregate is {self.aggregate}, expected at least 1 sentence, or none for the whole batch")

    def check(self, config: TextVAEConfig, batch: int) -> None:
        """Refuse a batch or a posterior that the regulariser cannot use.

        Raises:
            UserError: one sentence.
        """
        mixed = self.regulariser in MIXTURES
        if mixed and batch < 2 and self.aggregate != 1:
            raise UserError("the aggregated posterior of one item equals the VAE objective: use a batch of at least 8")
        if mixed and self.aggregate is not None and batch % self.aggregate:
            raise UserError(
                f"a batch of {batch} does not divide into parts of {self.aggregate}: change the batch or aggregate"
            )
        if config.posterior == "vmf" and self.regulariser in GAUSSIAN:
            raise UserError(
                f"{GAUSSIAN[self.regulariser]} nats a dimension, and a von Mises-Fisher posterior has none: use kl or gap"
            )

    @property
    def plan(self) -> Plan:
        """How the draws of a training sentence are spent."""
        return Plan.iid(self.draws if self.regulariser in SAMPLED else 1)

    @property
    def is_bound(self) -> bool:
        """Whether the loss, at weight 1 and without dropout, is minus an evidence lower bound."""
        return self.regulariser == "kl" and self.beta == 1

    @property
    def warning(self) -> str:
        """What an evaluation must say of a model trained by this; empty for a bound."""
        if self.is_bound:
            return ""
        return (
            f"the training objective ({self.regulariser}, beta {self.beta:g}) is not an ELBO; the evaluation uses the unmodified "
            "joint"
        )

    def weight(self, step: int, epoch: int) -> float:
        """The annealing weight of a step, in [0, 1]; ``epoch`` is the number of steps in one."""
        if self.anneal == "none":
            return 1.0
        epochs = step / epoch
        return min(1.0, (epochs % self.cycle_epochs if self.anneal == "cyclic" else epochs) / self.anneal_epochs)

    def loss(
        self,
        model: TextVAE,
        x: Float[Tensor, "B T"],
        draws: Draws,
        weight: float = 1.0,
        *,
        discriminator: nn.Module | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss in nats a sentence, and what it is made of. Stream: "drop" (word dropout).

        A head for bags of words adds its gradient and not its value. Of "aae" the report has the loss of the discriminator as
        "discriminator", which alone keeps its graph: its gradient ends at the latents.

        Args:
            discriminator: of "aae": latents to logits of "from the prior".
        """
        s = model.encode(x)
        z = model.sample(s, draws)
        keep = None
        if self.word_dropout:
            keep = draws[:1].uniform("drop", x.shape[1])[0] >= self.word_dropout
        reconstruction = model.log_likelihood(x, z[:1], keep=keep).mean()
        penalty = self.penalty(model, s, z, draws, discriminator=discriminator)
        loss = -reconstruction + weight * self.beta * penalty
        report = {
            "loss": loss.detach(),
            "reconstruction": reconstruction.detach(),
            "divergence": model.family.divergence(s).detach().mean(),
            "regulariser": penalty.detach(),
            "weight": torch.tensor(weight),
            "active": active_units(model.family.centre(s).detach()).sum(),
        }
        if discriminator is not None:
            there = model.family.prior(draws).to(z.dtype)
            report["discriminator"] = discriminator_loss(discriminator(there), discriminator(z.detach()))
        if model.bag is not None:
            bag = -model.log_bag(x, z[:1]).mean()
            loss = loss + bag - bag.detach()
        return loss, report

    def penalty(
        self,
        model: TextVAE,
        s: Any,
        z: Float[Tensor, "M B D"],
        draws: Draws,
        *,
        discriminator: nn.Module | None = None,
    ) -> Float[Tensor, ""]:
        """The regulariser alone. Stream: "prior" (draws that "mmd" and "aae" compare with).

        Raises:
            UserError: "aae" without a discriminator.
        """
        family = model.family
        match self.regulariser:
            case "gap" | "gap-joint":
                return family.gap(s, z, aggregate=self.aggregate, marginal=self.regulariser == "gap")
            case "tc":
                return batch_decomposition(s[0], s[1], z, aggregate=self.aggregate).weighted(self.parts)
            case "mmd":
                return mean_discrepancy(z.flatten(0, 1), family.prior(draws).to(z.dtype).flatten(0, 1))
            case "aae":
                if discriminator is None:
                    raise UserError("the regulariser 'aae' has no discriminator: give one, or train by a TextLearner")
                return generator_loss(discriminator(z))
            case "free-bits":
                return free_bits(gaussian_divergence(*s), self.target)
            case "free-bits-batch":
                return free_bits_batch(gaussian_divergence(*s), self.target)
            case "kl":
                return family.divergence(s).mean()
