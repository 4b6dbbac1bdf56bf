"""A multimodal VAE, its data and its objective as something that the training loop can train."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from infimum.data import batches
from infimum.evidence._tree import leaves
from infimum.training import Fit
from infimum.vae.multimodal.items import Items, take
from infimum.vae.multimodal.model import MultimodalVAE
from infimum.vae.multimodal.objectives import MultimodalObjective

__all__ = ["MultimodalLearner"]


class MultimodalLearner:
    """Maximises a bound (or minimises a loss) over minibatches of items that may lack modalities.

    Args:
        model: a `MultimodalVAE`.
        x: training items, see `Items`.
        objective: what is optimised, and by which gradient.
        batch: items a step, over all processes.
        lr: learning rate of Adam.
        clip: largest gradient norm; None: no clipping.
        seed: of the order of the items.
    """

    def __init__(
        self,
        model: MultimodalVAE,
        x: Items,
        objective: MultimodalObjective,
        *,
        batch: int = 64,
        lr: float = 1e-3,
        clip: float | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.x, self.objective = model, x, objective
        self.batch, self.clip, self.seed = batch, clip, seed
        self.plan = objective.plan(model)
        self.modules: Mapping[str, nn.Module] = {"model": model}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        }

    def batches(self, start: int) -> Iterator[Items]:
        """Minibatches, pure in their number."""
        first = next(leaves(self.x))
        rows = torch.arange(first.shape[0], device=first.device)
        for index, _ in batches(rows, self.batch, seed=self.seed, start=start):
            yield take(self.x, index)

    def step(self, batch: Items, fit: Fit) -> Mapping[str, float | Tensor]:
        """One optimizer step."""
        if not self.model.training:
            self.model.train()
        draws = fit.draws(self.plan, next(leaves(batch)).shape[0])
        with fit.autocast():
            report = self.objective.backward(self.model, batch, draws, backward=fit.backward)
        fit.update(clip=self.clip)
        return report
