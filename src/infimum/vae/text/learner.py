"""A `TextVAE`, its sentences and its objective as something that the training loop can train; and the collapse alarm."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import active_units
from infimum.training import Fit
from infimum.vae.text.buckets import Bucketing, buckets, sentence_batches
from infimum.vae.text.model import TextVAE
from infimum.vae.text.objective import TextObjective

__all__ = ["TextLearner", "collapse_alarm"]

COLLAPSED = 0.05
"""Nats of mean divergence below which the decoder has nothing to read."""


class TextLearner:
    """Reconstruction and a regulariser over batches of sentences.

    The metrics of a step: "reconstruction" (log p(x | z)) and "divergence" (closed form) in nats a sentence, whose
    difference is an ELBO up to dropout; "regulariser" and its "weight"; "active", latent dimensions whose means differ
    over the batch. At the end of an epoch of full weight a `UserWarning` says when the posteriors have collapsed.

    Args:
        model: trained in place.
        x: sentences (N, T).
        objective: what is minimised.
        batch: sentences a step, over all processes.
        optimizer: "sgd" without momentum (official, rate 0.5) or "adam" (official option, rate 1e-3).
        lr: learning rate.
        clip: largest gradient norm (official: 5).
        bucketing: "random", padded and masked, or "length", as the official code does; see `buckets`.
        seed: of the order of the sentences.

    Raises:
        UserError: a batch that the objective cannot use.
    """

    def __init__(
        self,
        model: TextVAE,
        x: Float[Tensor, "N T"],
        objective: TextObjective,
        *,
        batch: int = 32,
        optimizer: Literal["sgd", "adam"] = "adam",
        lr: float = 1e-3,
        clip: float | None = 5.0,
        bucketing: Bucketing = "random",
        seed: int = 0,
    ) -> None:
        objective.check(model.config, batch)
        self.model, self.x, self.objective = model, x, objective
        self.batch, self.clip, self.bucketing, self.seed = batch, clip, bucketing, seed
        self.epoch = max(1, len(buckets(x, batch)) if bucketing == "length" else len(x) // batch)
        self.modules: Mapping[str, nn.Module] = {"model": model}
        trained = [p for p in model.parameters() if p.requires_grad]
        kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        if optimizer not in kinds:
            raise UserError(f"no optimizer {optimizer!r}: choose sgd or adam")
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"main": kinds[optimizer](trained, lr=lr, fused=True)}
        self._divergence: list[float] = []

    def batches(self, start: int) -> Iterator[Tensor]:
        """Batches, pure in their number."""
        return sentence_batches(self.x, self.batch, self.bucketing, seed=self.seed, start=start)

    def step(self, batch: Tensor, fit: Fit) -> Mapping[str, float | Tensor]:
        """One optimizer step."""
        if not self.model.training:
            self.model.train()
        draws = fit.draws(self.objective.plan, batch.shape[0])
        weight = self.objective.weight(fit.step, self.epoch)
        with fit.autocast():
            loss, report = self.objective.loss(self.model, batch, draws, weight)
        fit.backward(loss)
        fit.update(clip=self.clip)
        self._watch(float(report["divergence"]), weight, fit.step)
        return report

    def _watch(self, divergence: float, weight: float, step: int) -> None:
        """Warn once, after an epoch at full weight in which the decoder was told nothing."""
        self._divergence = [*self._divergence, divergence] if weight >= 1 else []
        if len(self._divergence) == self.epoch:
            mean = sum(self._divergence) / self.epoch
            if mean < COLLAPSED:
                warnings.warn(
                    f"the posteriors have collapsed to the prior ({mean:.3f} nats over the epoch up to step {step + 1}) and the "
                    f"decoder ignores z: {REMEDY}",
                    stacklevel=2,
                )
            else:
                self._divergence = []


REMEDY = "use a density gap, free bits, a smaller beta, or a posterior that cannot collapse"


@torch.no_grad()
def collapse_alarm(model: TextVAE, x: Float[Tensor, "N T"]) -> str | None:
    """One sentence if z tells nothing of these sentences (no active unit, or hardly any divergence), else None."""
    s = model.encode(x)
    divergence = float(model.family.divergence(s).mean())
    active = int(active_units(model.family.centre(s)).sum())
    if active and divergence >= COLLAPSED:
        return None
    return f"posterior collapse, {active} active units and {divergence:.3f} nats of divergence: {REMEDY}"
