"""A VAE, its data and its objective as something that the training loop can train."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infimum.data import batches
from infimum.evidence import LatentModel
from infimum.training import Fit
from infimum.vae.objectives import Objective

__all__ = ["VAELearner"]


class VAELearner:
    """Maximises a bound (or minimises a regularised loss) over minibatches.

    Args:
        model: any `LatentModel`.
        x: training items (N, *shape).
        objective: what is optimised, and by which gradient.
        batch: items a step, over all processes.
        lr: learning rate of Adam.
        eps: of Adam (Burda et al. use 1e-4).
        clip: largest gradient norm; None: no clipping.
        seed: of the order of the items.
        condition: labels or vectors (N, ...) of a conditional model.
    """

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        objective: Objective,
        *,
        batch: int = 64,
        lr: float = 1e-3,
        eps: float = 1e-8,
        clip: float | None = None,
        seed: int = 0,
        condition: Tensor | None = None,
    ) -> None:
        self.model, self.x, self.objective, self.condition = model, x, objective, condition
        self.batch, self.clip, self.seed = batch, clip, seed
        self.modules: Mapping[str, nn.Module] = {"model": model}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.Adam(model.parameters(), lr=lr, eps=eps, fused=True)
        }

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches, pure in their number."""
        for x, index in batches(self.x, self.batch, seed=self.seed, start=start):
            yield x if self.condition is None else (x, self.condition[index])

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One optimizer step."""
        if not self.model.training:
            self.model.train()
        items = batch[0] if isinstance(batch, tuple) else batch
        draws = fit.draws(self.objective.plan, items.shape[0])
        with fit.autocast():
            report = self.objective.backward(self.model, batch, draws, backward=fit.backward)
        fit.update(clip=self.clip)
        return report
