"""The learning rate that is halved where the validation has stopped improving (2211.00321, official code)."""

import copy

import torch
from torch import nn

from infimum.errors import UserError

__all__ = ["Plateau"]


class Plateau(nn.Module):
    """After ``wait`` epochs without improvement, and not before epoch ``first``: back to the best weights at ``factor`` the rate.

    The best is that of the *validation* loss: the official code overwrites it with a training loss when it halves. All state is in
    buffers, the best weights among them, so that it is saved and resumed with the learner.

    Args:
        module: that is trained; a copy is kept.
        wait: epochs without improvement (official: 5).
        first: epoch, counted from 1, in which the rate is first lowered (official: 16).
        factor: on the rate (official: .5).
        reductions: of the rate, after which training is over (official: 5).

    Raises:
        UserError: no epochs, no reductions, or a factor that does not lower the rate.
    """

    value: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self, module: nn.Module, *, wait: int = 5, first: int = 16, factor: float = 0.5, reductions: int = 5
    ) -> None:
        super().__init__()
        if min(wait, first, reductions) < 1 or not 0 < factor < 1:
            raise UserError(
                f"a plateau of {wait} epochs, from epoch {first} on, {reductions} times by {factor:g}: expected at least 1 of "
                "each, and a factor between 0 and 1"
            )
        self.wait, self.first, self.factor, self.reductions = wait, first, factor, reductions
        self.best = copy.deepcopy(module).requires_grad_(False)
        self.register_buffer("value", torch.tensor(torch.inf))
        self.register_buffer(
            "counts", torch.zeros(4, dtype=torch.long)
        )  # epochs, waited, reductions, whether one is due

    @property
    def finished(self) -> bool:
        """Whether the last reduction is due: the best weights are in `best`."""
        return int(self.counts[2]) >= self.reductions

    @torch.no_grad()
    def see(self, loss: float, module: nn.Module) -> None:
        """Take note of the validation loss of an epoch; nothing is changed in ``module`` until `settle`. NaN never is the best."""
        epochs, waited, reductions, _ = self.counts.tolist()
        value = torch.as_tensor(loss, dtype=self.value.dtype, device=self.value.device)
        due = 0
        if bool(value < self.value):
            self.value.copy_(value)
            self.best.load_state_dict(module.state_dict())
            waited = 0
        else:
            waited += 1
            due = int(waited >= self.wait and epochs + 1 >= self.first)
        if due:
            waited, reductions = 0, reductions + 1
        self.counts.copy_(torch.tensor([epochs + 1, waited, reductions, due]))

    @torch.no_grad()
    def settle(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Where a reduction is due: the best weights, a fresh optimizer, a lower rate. Whether that was so."""
        if not bool(self.counts[3]):
            return False
        self.counts[3] = 0
        module.load_state_dict(self.best.state_dict())
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] *= self.factor
        return True
