"""A `TextVAE`, its sentences and its objective as something that the training loop can train; and the collapse alarm."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import active_units
from infimum.training import Fit
from infimum.vae.regularisers.adversary import latent_discriminator
from infimum.vae.text.buckets import Bucketing, buckets, sentence_batches
from infimum.vae.text.model import TextVAE
from infimum.vae.text.objective import TextObjective
from infimum.vae.text.plateau import Plateau

__all__ = ["TextLearner", "collapse_alarm"]

COLLAPSED = 0.05
"""Nats of mean divergence below which the decoder has nothing to read."""


class TextLearner:
    """Reconstruction and a regulariser over batches of sentences.

    The metrics of a step: "reconstruction" (log p(x | z)) and "divergence" (closed form) in nats a sentence, whose
    difference is an ELBO up to dropout; "regulariser" and its "weight"; "active", latent dimensions whose means differ
    over the batch; "discriminator", of "aae", its loss in nats. At the end of an epoch of full weight a `UserWarning` says
    when the posteriors have collapsed.

    Args:
        model: trained in place.
        x: sentences (N, T).
        objective: what is minimised.
        batch: sentences a step, over all processes.
        optimizer: "sgd" without momentum (official, rate 0.5) or "adam" (official option, rate 1e-3).
        lr: learning rate.
        clip: largest gradient norm (official: 5).
        bucketing: "random", padded and masked, or "length", as the official code does; see `buckets`.
        seed: of the order of the sentences, the draws of `validate` and the first weights of the discriminator of "aae".
        valid: sentences (V, T) for `validate`.
        plateau: lowers the rate and ends the training; it needs a `validate` at the end of every epoch.

    Raises:
        UserError: a batch that the objective cannot use, or a plateau without enough sentences to validate on.
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
        valid: Float[Tensor, "V T"] | None = None,
        plateau: Plateau | None = None,
    ) -> None:
        objective.check(model.config, batch)
        if plateau is not None and valid is None:
            raise UserError("a plateau is one of the validation loss: give sentences to validate on, or no plateau")
        self.model, self.x, self.objective = model, x, objective
        self.batch, self.clip, self.bucketing, self.seed = batch, clip, bucketing, seed
        self.epoch = max(1, len(buckets(x, batch)) if bucketing == "length" else len(x) // batch)
        self.valid, self.plateau = valid, plateau
        self._checks = None if valid is None else self._rows(valid)
        self.discriminator = None
        if objective.regulariser == "aae":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.discriminator = latent_discriminator(model.config.latent)
        parts = {"model": model, "discriminator": self.discriminator, "plateau": plateau}
        self.modules: Mapping[str, nn.Module] = {name: part for name, part in parts.items() if part is not None}
        kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        if optimizer not in kinds:
            raise UserError(f"no optimizer {optimizer!r}: choose sgd or adam")
        trained = {"main": [p for p in model.parameters() if p.requires_grad]}
        if self.discriminator is not None:
            trained["discriminator"] = list(self.discriminator.parameters())
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: kinds[optimizer](some, lr=lr, fused=True) for name, some in trained.items()
        }
        self._divergence: list[float] = []
        self._ended = False  # an epoch that the plateau has not seen

    @property
    def finished(self) -> bool:
        """Whether the plateau has ended the training."""
        return self.plateau is not None and self.plateau.finished

    def _rows(self, valid: Tensor) -> Tensor:
        """Batches of the validation, always the same, as a mixture depends on its members; what does not fill one is left out."""
        if self.bucketing == "length":
            return buckets(valid, self.batch)
        count = len(valid) // self.batch
        if not count:
            raise UserError(
                f"{len(valid)} sentences to validate on do not fill a batch of {self.batch}: use more of them, or a smaller batch"
            )
        return torch.arange(count * self.batch).view(count, self.batch)

    @torch.no_grad()
    def validate(self) -> float:
        """Minus the loss at full weight in nats a sentence, over whole batches of ``valid`` by always the same draws.

        For `train`, which puts the model in eval mode. The plateau takes note of it where an epoch has just ended.

        Raises:
            UserError: the learner has no sentences to validate on.
        """
        if self.valid is None or self._checks is None:
            raise UserError("the learner has no sentences to validate on: build it with valid=")
        total, device = 0.0, next(self.model.parameters()).device
        whole = dataclasses.replace(self.objective, word_dropout=0.0)
        for rows in self._checks:
            draws = whole.plan.draws(rows.to(device), seed=self.seed, salt="validation", device=device)
            x = self.valid[rows.to(self.valid.device)].to(device)
            total += float(whole.loss(self.model, x, draws, discriminator=self.discriminator)[0])
        loss = total / len(self._checks)
        if self.plateau is not None and self._ended:
            self.plateau.see(loss, self.model)
            self._ended = False
        return -loss

    def batches(self, start: int) -> Iterator[Tensor]:
        """Batches, pure in their number."""
        return sentence_batches(self.x, self.batch, self.bucketing, seed=self.seed, start=start)

    def step(self, batch: Tensor, fit: Fit) -> Mapping[str, float | Tensor]:
        """One step of the optimizer, and of the discriminator's where there is one."""
        if self.plateau is not None:
            self.plateau.settle(self.model, self.optimizers["main"])
        if not self.model.training:
            self.model.train()
        draws = fit.draws(self.objective.plan, batch.shape[0])
        weight = self.objective.weight(fit.step, self.epoch)
        with fit.autocast():
            loss, report = self.objective.loss(self.model, batch, draws, weight, discriminator=self.discriminator)
        if self.discriminator is None:
            fit.backward(loss)
            fit.update(clip=self.clip)
        else:
            fit.backward(loss, inputs=self._trained("main"))
            fit.backward(report["discriminator"], inputs=self._trained("discriminator"))
            report["discriminator"] = report["discriminator"].detach()
            fit.update(clip=self.clip)
            fit.update("discriminator", clip=self.clip)
        self._ended = (fit.step + 1) % self.epoch == 0
        self._watch(float(report["divergence"]), weight, fit.step)
        return report

    def _trained(self, name: str) -> list[Tensor]:
        return [p for group in self.optimizers[name].param_groups for p in group["params"]]

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
