"""What a model offers: a joint and a proposal (importance weights), or unbiased terms of a bound."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.sampling import draw

__all__ = ["LatentModel", "PathModel", "double_reductions", "event_sum", "need_eval", "reduction_dtype"]

_RUN = 32  # float32 values added in float32 before float64 takes over
_reduction: ContextVar[torch.dtype] = ContextVar("reduction", default=torch.float32)


@contextmanager
def double_reductions() -> Iterator[None]:
    """Sum events and keep tables in float64, as evaluation does."""
    token = _reduction.set(torch.float64)
    try:
        yield
    finally:
        _reduction.reset(token)


def event_sum(values: Tensor, events: int) -> Tensor:
    """Sum the last ``events`` axes outside autocast: in float32 at least, in float64 under `double_reductions`.

    Adding 196,608 pixels in bf16 is meaningless, and float32 resolves 6e-4 nats at a magnitude of 1e4. Runs of 32 values
    are first added in the precision that they have: their sum is rounded no worse than they are, and no copy of all
    values in float64 is made.
    """
    dtype = torch.promote_types(values.dtype, _reduction.get())
    if not events:
        return values.to(dtype)
    flat = values.flatten(-events)
    if flat.dtype != torch.float32 or dtype != torch.float64 or flat.shape[-1] < 2 * _RUN:
        return flat.sum(-1, dtype=dtype)
    whole = flat.shape[-1] // _RUN * _RUN
    total = flat[..., :whole].unflatten(-1, (-1, _RUN)).sum(-1).sum(-1, dtype=dtype)
    return total + flat[..., whole:].sum(-1, dtype=dtype)


def reduction_dtype() -> torch.dtype:
    """The least precise dtype that tables and event sums may have here."""
    return _reduction.get()


def need_eval(model: Any, *, layers: bool = False) -> None:
    """Refuse a module in train mode, where dropout and batch norm make its densities random.

    Args:
        layers: ask only that no such layer is in train mode, as a step inside training may.
    """
    parts = list(model.named_modules()) if isinstance(model, nn.Module) else []
    random = (_DropoutNd, _BatchNorm)
    training = [name or type(part).__name__ for name, part in parts
                if part.training and (not layers or isinstance(part, random))]  # fmt: skip
    if training:
        raise UserError(
            f"the model is in train mode ({training[0]}), where dropout and batch norm make its evidence random: call model.eval()"
        )


class LatentModel(nn.Module):
    """A joint p(x, z) and a proposal q(z | x): what importance weights need.

    Layout: draws first, items second, always: latents are (K, B, *event), log-densities (K, B). ``encode`` returns tensors
    (or nested tuples / dicts of them), not distributions: that lets the engine cut the graph, run the encoder once a batch
    and still work through the draws in chunks.
    """

    def encode(self, x: Any) -> Any:
        """Everything that depends on x alone; leading axis B."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(x)")

    def posterior(self, s: Any) -> td.Distribution:
        """The proposal as a distribution of batch shape (B,); supplies the next two."""
        raise NotImplementedError(
            f"{type(self).__name__} must define posterior(s), or sample(s, draws) and log_proposal(s, z)"
        )

    def sample(self, s: Any, draws: Draws) -> Any:
        """Latents (K, B, *event) from the proposal; differentiable in ``s`` where they can be. Stream: "z"."""
        return draw(self.posterior(s), draws, "z")

    def log_proposal(self, s: Any, z: Any) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats, summed over the event."""
        return self.posterior(s).log_prob(z)

    def log_joint(self, x: Any, z: Any) -> Float[Tensor, "K B"]:
        """log p(x, z) in nats, summed over all events."""
        raise NotImplementedError(f"{type(self).__name__} must define log_joint(x, z)")


class PathModel(nn.Module):
    """Unbiased terms of an evidence lower bound: E[constant + terms] <= log p(x).

    Attributes:
        surrogate: for a model whose terms are no bound: why; the estimate then has no side.
    """

    surrogate: Any = ""

    def encode(self, x: Any) -> Any:
        """Everything that depends on x alone; leading axis B."""
        return x

    def constant(self, x: Any, s: Any) -> Float[Tensor, "B"]:
        """Closed-form part of the bound in nats (prior divergence and the like)."""
        raise NotImplementedError(f"{type(self).__name__} must define constant(x, s)")

    def terms(self, x: Any, s: Any, draws: Draws) -> Float[Tensor, "K B"]:
        """One unbiased term of the bound for every draw, in nats."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(x, s, draws)")

    def lead_degree(self, x: Any) -> int | None:
        """Degree of E[term | lead] as a polynomial of the lead: lets quadrature of enough nodes count as exact."""
        return None
