"""Masked diffusion and its autoregressive twin as something that the training loop can train."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from infimum.data import batches
from infimum.discrete.autoregressive import Autoregressive
from infimum.discrete.masked import MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Plan, event_sum
from infimum.training import Fit

__all__ = ["Normalise", "SequenceLearner"]

Normalise = Literal["token", "sequence", "masked"]


class SequenceLearner:
    """Minimises minus the ELBO of sequences (or minus log p, autoregressive).

    The levels of a batch tile (0, 1), each uniform on its own: the loss of a batch varies less than with random ones (2406.07524).

    Args:
        model: trained in place.
        x: tokens (N, L), or a dict of "tokens", "target" and "present", see `MaskedDiffusion`.
        batch: sequences a step, over all processes.
        lr: learning rate of AdamW (MDLM: 3e-4).
        decay: its weight decay, not on norms (MDLM: 0; LLaDA: 0.1).
        betas: of AdamW (MDLM: 0.9, 0.999).
        clip: largest gradient norm; None: no clipping (MDLM: 1).
        levels: of masks, for every sequence of a step.
        normalise: "token": nats a target token, by the mean length of all sequences, so that no division of a batch changes a
            gradient; "sequence": nats a sequence; "masked": mean log-probability of masked tokens,
            without weights, which is no bound.
        lead: how levels are spread over the batch: "stratified", "lattice" (one shift for all, as MDLM has it) or "random".
        seed: of the order of the sequences.

    Raises:
        UserError: an unknown normalisation or lead, no sequences, or sequences that are none.
    """

    def __init__(
        self,
        model: MaskedDiffusion | Autoregressive,
        x: Any,
        *,
        batch: int = 64,
        lr: float = 3e-4,
        decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float | None = 1.0,
        levels: int = 1,
        normalise: Normalise = "token",
        lead: Literal["stratified", "lattice", "random"] = "stratified",
        seed: int = 0,
    ) -> None:
        if normalise not in get_args(Normalise) or lead not in ("stratified", "lattice", "random"):
            raise UserError(
                f"normalise is {normalise!r} and lead {lead!r}: choose {', '.join(get_args(Normalise))}, and "
                "stratified, lattice or random"
            )
        if normalise == "masked" and isinstance(model, Autoregressive):
            raise UserError("an autoregressive model masks nothing: normalise by token or sequence")
        self.x: dict[str, Tensor] = dict(x) if isinstance(x, dict) else {"tokens": x}
        first = {name: each[:1] for name, each in self.x.items()}
        if not len(self.x.get("tokens", ())):
            raise UserError("there are no sequences to train on, expected at least 1")
        model.encode(first)  # refuses what is no batch
        if len({len(each) for each in self.x.values()}) > 1:
            raise UserError(
                f"parts of unlike numbers of rows: {', '.join(f'{name} {len(each)}' for name, each in self.x.items())}"
            )
        target = self.x.get("target", self.x.get("present"))
        self.unit = float(self.x["tokens"].shape[1] if target is None else target.sum() / len(target))
        self.model, self.batch, self.clip, self.normalise, self.seed = model, batch, clip, normalise, seed
        self.plan = Plan(levels=levels, lead=lead, spread=1 if lead == "random" else batch)
        self.modules: Mapping[str, nn.Module] = {"model": model}
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
        }

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches, pure in their number."""
        index = torch.arange(len(self.x["tokens"]))
        for _, i in batches(index, self.batch, seed=self.seed, start=start):
            yield {name: each[i.to(each.device)] for name, each in self.x.items()}

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One step of AdamW."""
        if not self.model.training:
            self.model.train()
        s = self.model.encode(batch)
        if isinstance(self.model, Autoregressive):
            with fit.autocast():
                value = self.model.log_prob(batch)[None]
        else:
            masks = self.model.masks(s, fit.draws(self.plan, len(s.tokens)))
            with fit.autocast():
                each = self.model.token_scores(s, masks)
            if self.normalise == "masked":
                value = event_sum(each, 1) / masks.scored.sum(-1).clamp_min(1)
            else:
                value = masks.weight.to(each.dtype) * event_sum(each, 1)
        unit = self.unit if self.normalise == "token" else 1.0
        loss = -value.mean() / unit
        fit.watch(nats=value)
        fit.backward(loss)
        fit.update(clip=self.clip)
        return {"loss": loss.detach()}
