"""The training step and the likelihood of dllm's MDLM trainer, restated from its published algorithm, in a plain loop."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EPSILON = 1e-3


def loss_of(network: nn.Module, tokens: Tensor, mask_id: int) -> Tensor:
    """A time for each sequence, uniform on [1e-3, 1]; tokens masked independently; cross entropy of all places over t: (B, L)."""
    t = EPSILON + (1 - EPSILON) * torch.rand(len(tokens))
    masked = torch.rand(tokens.shape) < t[:, None]
    logits = network(torch.where(masked, mask_id, tokens))
    each = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return each * masked / t[:, None]


def training_loop(network: nn.Module, x: Tensor, mask_id: int, steps: int, *, batch: int, lr: float) -> None:
    """AdamW (fused, as transformers' trainer has it), clipping at 1, a linear schedule, normalised by tokens."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)
    rates: Any = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    loader = DataLoader(TensorDataset(x), batch_size=batch, shuffle=True, drop_last=True)
    network.train()
    done = 0
    while done < steps:
        for (tokens,) in loader:
            loss = loss_of(network, tokens, mask_id).sum() / tokens.numel()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            loss.detach().item()  # the trainer logs it
            done += 1
            if done == steps:
                return


@torch.no_grad()
def likelihood(network: nn.Module, x: Tensor, mask_id: int, *, k: int, batch: int) -> Tensor:
    """Mean over k draws of minus the loss of every sequence, in nats."""
    network.eval()
    parts = []
    for tokens in x.split(batch):
        parts.append(torch.stack([-loss_of(network, tokens, mask_id).sum(1) for _ in range(k)]).mean(0))
    return torch.cat(parts)
