"""A VAE trained by reconstruction, a divergence of choice and a patch discriminator (2309.13160; VAE-GAN: 1512.09300)."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.data import batches
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.training import Fit
from infimum.vae.analytic import closed_divergence
from infimum.vae.model import VAE
from infimum.vae.posteriors import Diagonal
from infimum.vae.regularisers.adversary import discriminator_loss, generator_loss
from infimum.vae.regularisers.aggregate import aggregate_divergence
from infimum.vae.regularisers.mixture_moment import moment_divergence, moment_floor, variance_penalty

__all__ = ["Adversary", "MixtureObjective", "MixtureVAELearner", "discriminator_loss", "generator_loss"]

Divergence = Literal["kl", "means", "total", "joint", "marginal"]

SATURATED = (0.01, 100)
"""A discriminator's loss in nats below which, and steps in a row for which, it has nothing left to say to the generator."""


@dataclass(frozen=True)
class MixtureObjective:
    """Reconstruction and divergence of the generator's loss, in nats an item. A bound for "kl" alone.

    Attributes:
        divergence: "kl": the ordinary one, mean_i KL(q_i to p); "means": `moment_divergence`, the paper's;
            "total": the same with the mixture's own variance; "joint" and "marginal": `aggregate_divergence` of the batch's mixture
            itself, of all dimensions at once or of each alone.
        var_weight: of `variance_penalty` (paper: 0.1), for all but "kl".
    """

    divergence: Divergence = "means"
    var_weight: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no divergence."""
        if self.divergence not in get_args(Divergence):
            raise UserError(f"the divergence is one of {', '.join(get_args(Divergence))}, got {self.divergence!r}")
        if not 0 <= self.var_weight < float("inf"):
            raise UserError(f"var_weight must not be negative, got {self.var_weight}")

    @property
    def is_bound(self) -> bool:
        """Whether the loss without the adversary is minus an ELBO."""
        return self.divergence == "kl"

    def terms(self, model: VAE, s: tuple[Tensor, Tensor], z: Float[Tensor, "1 B D"]) -> dict[str, Tensor]:
        """The divergence and the penalty of a batch's posteriors, of which z are draws, in nats."""
        if self.divergence == "kl":
            return {"kl": closed_divergence(model, s).sum(-1).mean()}
        if self.divergence in ("means", "total"):
            name, value = "moment kl", moment_divergence(*s, self.divergence)
        else:
            name, value = "mixture kl", aggregate_divergence(*s, z, marginal=self.divergence == "marginal")
        return {
            f"{name} ({self.divergence}, not a bound)": value,
            "variance penalty": self.var_weight * variance_penalty(s[1]),
        }


@dataclass(frozen=True)
class Adversary:
    """When and how much the discriminator counts.

    Attributes:
        weight: of both adversarial losses (paper: 100).
        start: steps before the generator sees it (paper: 0); the discriminator learns from the beginning.
    """

    weight: float = 100.0
    start: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not 0 <= self.weight < float("inf") or self.start < 0:
            raise UserError(
                f"weight and start of the adversary must not be negative, got {self.weight} and {self.start}"
            )


class MixtureVAELearner:
    """Two optimizers in one step: encoder and decoder ("main"), and the discriminator, where there is one.

    One forward pass serves both: the generator's gradient goes around the discriminator's parameters, the discriminator's ends
    at the reconstruction. The moments are those of a process's share of the batch: micro-batches and processes do not enlarge them.
    A warning is given where the discriminator's loss stays near 0: its gradient then says nothing more.

    Args:
        model: with posterior "diagonal"; its likelihood is the reconstruction term.
        x: training items (N, C, H, W), or of any shape without a discriminator.
        objective: of reconstruction and divergence.
        discriminator: images in the decoder's units to logits of patches.
        adversary: its schedule.
        batch: items a step, over all processes.
        lr: learning rate of Adam (paper: 1e-4), of both.
        seed: of the order of the items.
        flip: mirror every other image, chosen at random by the items' draws.

    Raises:
        UserError: another posterior, a batch below 4 for a divergence of the batch, or pixels out of the likelihood's range.
    """

    def __init__(
        self,
        model: VAE,
        x: Tensor,
        objective: MixtureObjective,
        *,
        discriminator: nn.Module | None = None,
        adversary: Adversary | None = None,
        batch: int = 64,
        lr: float = 1e-4,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        if not isinstance(model.family, Diagonal):
            raise UserError(f"the mixture objective needs posterior 'diagonal', got {model.config.posterior!r}")
        if batch < 4 and objective.divergence != "kl":
            raise UserError(
                f"population variance of the means needs several items, got a batch of {batch}: use at least 4"
            )
        levels = model.config.levels
        low, high = (float(value) for value in x.aminmax())
        if levels is not None and not (low >= 0 and min(2, levels - 1) <= high <= levels - 1):
            raise UserError(
                f"the likelihood is of integers 0 .. {levels - 1}, and the items range from {low:g} to {high:g}: give grey levels "
                "as they are, without scaling them"
            )
        self.model, self.x, self.objective, self.discriminator = model, x, objective, discriminator
        self._silent = 0
        self.adversary = adversary or Adversary()
        self.batch, self.seed, self.flip = batch, seed, flip
        nets = {"model": model} if discriminator is None else {"model": model, "discriminator": discriminator}
        self.modules: Mapping[str, nn.Module] = nets
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main" if name == "model" else name: torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999), eps=1e-7)
            for name, net in nets.items()
        }

    def batches(self, start: int) -> Iterator[Tensor]:
        """Minibatches, pure in their number."""
        return (x for x, _ in batches(self.x, self.batch, seed=self.seed, start=start))

    def _watch(self, critic: Float[Tensor, ""]) -> None:
        limit, steps = SATURATED
        self._silent = self._silent + 1 if float(critic) < limit else 0
        if self._silent == steps:
            warnings.warn(
                f"discriminator saturated: its loss was below {limit:g} nats for {steps} steps, so that its gradient says "
                "little; lower its learning rate, raise its dropout, or let the generator see it earlier",
                UserWarning,
                stacklevel=2,
            )

    def step(self, batch: Tensor, fit: Fit) -> Mapping[str, float | Tensor]:
        """One step of both."""
        for net in self.modules.values():
            if not net.training:
                net.train()
        draws = fit.draws(Plan.iid(1), batch.shape[0])
        if self.flip:
            batch = torch.where(draws.uniform("flip")[0][:, None, None, None] < 0.5, batch.flip(-1), batch)
        model = self.model
        with fit.autocast():
            s = model.encode(batch)
            z = model.sample(s, draws)
            made = model.decode(z)[0]
        s, made = (s[0].float(), s[1].float()), made.float()
        flat = batch.flatten(1)
        terms = {
            "reconstruction": -model.likelihood.log_prob(flat, made[None]).sum(-1).mean(),
            **self.objective.terms(model, s, z.float()),
        }
        report = {name: term.detach() for name, term in terms.items()}
        if "moment kl (means, not a bound)" in report:
            floor = moment_floor(len(batch), s[0].shape[1])
            report["moment kl above its floor"] = report["moment kl (means, not a bound)"] - floor
        loss = torch.stack(list(terms.values())).sum()
        if self.discriminator is None:
            fit.backward(loss)
            fit.update()
            return report
        weight = self.adversary.weight
        size = batch.shape[1:]
        with fit.autocast():
            logits = self.discriminator(made.unflatten(1, size))
            real = self.discriminator(model.likelihood.scaled(flat).unflatten(1, size))
        generator = generator_loss(logits.float())
        critic = discriminator_loss(real.float(), logits.float())
        if fit.step >= self.adversary.start:
            loss = loss + weight * generator
        fit.backward(loss, inputs=list(model.parameters()), keep=True)
        fit.backward(weight * critic, inputs=list(self.discriminator.parameters()))
        fit.update()
        fit.update("discriminator")
        self._watch(critic.detach())
        return report | {"adversarial": weight * generator.detach(), "discriminator": weight * critic.detach()}
