"""What a `TextVAE` is trained by: -E[log p(x|z)] + weight x beta x regulariser, and which of these is a bound."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws, Plan, active_units
from infimum.vae.posteriors import gaussian_divergence
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.model import TextVAE
from infimum.vae.text.penalties import density_gap, free_bits, free_bits_batch, mean_discrepancy

__all__ = ["Annealing", "Regulariser", "TextObjective"]

Regulariser = Literal["kl", "free-bits", "free-bits-batch", "mmd", "gap", "gap-joint"]
Annealing = Literal["none", "linear", "cyclic"]

GAPS = ("gap", "gap-joint")
"""Those that need many draws of every posterior."""


@dataclass(frozen=True)
class TextObjective:
    """A training objective of a `TextVAE`; the defaults are the density gap of 2211.00321 as published.

    Attributes:
        regulariser: "kl"; "free-bits" (dimensions of an item below their share of ``target`` cost nothing and are not
            pulled) or "free-bits-batch" (each dimension's mean over the batch costs at least its share); "mmd" (WAE-MMD);
            "gap" (dimension by dimension; on the sphere joint) or "gap-joint".
        beta: weight of the regulariser.
        draws: latents a sentence in the regulariser; the first of them is decoded.
        aggregate: sentences whose posteriors are mixed, |b|; None: the batch. 1 is the ordinary divergence by Monte Carlo.
        target: of free bits, nats over all dimensions.
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
    anneal: Annealing = "linear"
    anneal_epochs: float = 10.0
    cycle_epochs: float = 20.0
    word_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by."""
        names = ("kl", "free-bits", "free-bits-batch", "mmd", "gap", "gap-joint")
        if self.regulariser not in names:
            raise UserError(f"no regulariser {self.regulariser!r}: choose one of {', '.join(names)}")
        if self.anneal not in ("none", "linear", "cyclic"):
            raise UserError(f"anneal is {self.anneal!r}, expected none, linear or cyclic")
        for name in ("beta", "target"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}, expected a finite number of at least 0")
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
        gap = self.regulariser in GAPS
        if gap and batch < 2 and self.aggregate != 1:
            raise UserError("the aggregated posterior of one item equals the VAE objective: use a batch of at least 8")
        if gap and self.aggregate is not None and batch % self.aggregate:
            raise UserError(
                f"a batch of {batch} does not divide into parts of {self.aggregate}: change the batch or aggregate"
            )
        if config.posterior == "vmf" and self.regulariser in ("free-bits", "free-bits-batch"):
            raise UserError("free bits are nats a dimension, and a von Mises-Fisher posterior has none: use kl or gap")

    @property
    def plan(self) -> Plan:
        """How the draws of a training sentence are spent."""
        return Plan.iid(self.draws if self.regulariser in GAPS else 1)

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
        self, model: TextVAE, x: Float[Tensor, "B T"], draws: Draws, weight: float = 1.0
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss in nats a sentence, and what it is made of. Stream: "drop" (word dropout).

        A head for bags of words adds its gradient and not its value.
        """
        s = model.encode(x)
        z = model.sample(s, draws)
        keep = None
        if self.word_dropout:
            keep = draws[:1].uniform("drop", x.shape[1])[0] >= self.word_dropout
        reconstruction = model.log_likelihood(x, z[:1], keep=keep).mean()
        penalty = self.penalty(model, s, z, draws)
        loss = -reconstruction + weight * self.beta * penalty
        report = {
            "loss": loss.detach(),
            "reconstruction": reconstruction.detach(),
            "divergence": model.family.divergence(s).detach().mean(),
            "regulariser": penalty.detach(),
            "weight": torch.tensor(weight),
            "active": active_units(model.family.centre(s).detach()).sum(),
        }
        if model.bag is not None:
            bag = -model.log_bag(x, z[:1]).mean()
            loss = loss + bag - bag.detach()
        return loss, report

    def penalty(self, model: TextVAE, s: Any, z: Float[Tensor, "M B D"], draws: Draws) -> Float[Tensor, ""]:
        """The regulariser alone. Stream: "prior" (draws that "mmd" compares with)."""
        family = model.family
        if self.regulariser in GAPS:
            return density_gap(family, s, z, aggregate=self.aggregate, marginal=self.regulariser == "gap")
        if self.regulariser == "mmd":
            return mean_discrepancy(z.flatten(0, 1), family.prior(draws).to(z.dtype).flatten(0, 1))
        if self.regulariser == "free-bits":
            return free_bits(gaussian_divergence(*s), self.target)
        if self.regulariser == "free-bits-batch":
            return free_bits_batch(gaussian_divergence(*s), self.target)
        return family.divergence(s).mean()
