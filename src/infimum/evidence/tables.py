"""The two tables, (K, B): importance log-weights, and unbiased terms of a lower bound.

`LogWeights` hold E[exp(log_w)] = p(x), so multi-sample bounds, upper bounds and certificates are valid. `PathTerms` hold
only E[term] <= log p(x). A paper is a way of filling one of the two, or of using it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws

__all__ = ["LogWeights", "PathTerms", "difference", "exhaustive"]


@dataclass(frozen=True, eq=False)
class LogWeights:
    """A (K, B) table of importance log-weights in nats.

    Attributes:
        log_w: log p(x, z) - log q(z | x); -inf is legal (no mass), NaN and +inf are not.
        log_share: log of each draw's share; sums to one over K. None: 1/K.
        source: where the draws come from: the proposal; the exact posterior; mixed (the first draw of every replicate from
            the posterior, the others from the proposal); exhaustive (all of the support, shares q(z)); a subset of it.
        unbiased: whether E exp(log_w) = p(x). False for surrogate ratios and noisy log-densities.
        target: what is bounded.
        log_joint: its first part, where kept.
        log_proposal: its second part, where kept.
        draws: what the table was computed from.
        block: draws in a replicate; None: from ``draws``, else 1 (the whole column for mixed draws).
        calls: network evaluations, in (draw, item) pairs.
    """

    log_w: Float[Tensor, "K B"]
    log_share: Float[Tensor, "#K #B"] | None = None
    source: Literal["proposal", "posterior", "mixed", "exhaustive", "subset"] = "proposal"
    unbiased: bool = True
    target: str = "log p(x)"
    log_joint: Tensor | None = None
    log_proposal: Tensor | None = None
    draws: Draws | None = None
    block: int | None = None
    calls: int = 0

    def __post_init__(self) -> None:
        """Refuse tables that are not (K, B), hold NaN or +inf, or whose shares do not sum to one."""
        _check_table(self.log_w, "log_w")
        _check_shares(self.log_share, self.log_w)
        _check_block(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(K, B)."""
        return self.log_w.shape[0], self.log_w.shape[1]

    @property
    def keys(self) -> Tensor | None:
        """Item keys, where known."""
        return None if self.draws is None else self.draws.keys


@dataclass(frozen=True, eq=False)
class PathTerms:
    """A (K, B) table of unbiased terms of a lower bound, in nats.

    Attributes:
        value: terms; their average over draws estimates the bound less its constant.
        constant: closed-form part, shape (B,).
        log_share: log of each draw's share; None: 1/K.
        biased: whether the plan was a quadrature rule not known to be exact for these terms.
        target: what is bounded.
        draws: what the table was computed from.
        block: draws in a replicate; None: from ``draws``, else 1.
        calls: network evaluations, in (draw, item) pairs.
        signed: False for a difference of two tables, which bounds nothing.
        surrogate: why the terms bound nothing, or "".
    """

    value: Float[Tensor, "K B"]
    constant: Float[Tensor, "B"]
    log_share: Float[Tensor, "#K #B"] | None = None
    biased: bool = False
    target: str = "log p(x)"
    draws: Draws | None = None
    block: int | None = None
    calls: int = 0
    signed: bool = True
    surrogate: str = ""

    def __post_init__(self) -> None:
        """Refuse tables that are not (K, B), hold NaN or +inf, or whose shares do not sum to one."""
        _check_table(self.value, "the path term")
        _check_table(self.constant[None], "the constant of the bound")
        if self.constant.shape[0] != self.value.shape[1]:
            raise UserError(
                f"the constant needs one entry for each of {self.value.shape[1]} items, got {self.constant.shape[0]}"
            )
        _check_shares(self.log_share, self.value)
        _check_block(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(K, B)."""
        return self.value.shape[0], self.value.shape[1]

    @property
    def keys(self) -> Tensor | None:
        """Item keys, where known."""
        return None if self.draws is None else self.draws.keys


def item_list(bad: Tensor) -> str:
    index = bad.nonzero().flatten().tolist()
    return str(index[:10])[:-1] + (", ...]" if len(index) > 10 else "]")


def _check_table(table: Tensor, what: str) -> None:
    if table.ndim != 2:
        raise UserError(
            f"expected a table of shape (K, B), draws first, got {tuple(table.shape)}: "
            + ("sum the event axes: wrap the likelihood in Independent" if table.ndim > 2 else "add the axis of draws")
        )
    if not table.is_floating_point():
        raise UserError(f"expected {what} as floating-point nats, got {table.dtype}")
    if table.shape[0] == 0:
        raise UserError("a table needs at least 1 draw per item, got K=0")
    if table.shape[1] == 0:
        raise UserError("a table needs at least 1 item, got B=0: the batch is empty")
    with torch.no_grad():
        bad = ~(table < math.inf)  # NaN and +inf alike
        if bool(bad.any()):
            nan = table.isnan().any(0)
            kind = "NaN" if bool(nan.any()) else "+inf"
            raise UserError(f"{what} is {kind} for items {item_list(nan if kind == 'NaN' else bad.any(0))}")


def _check_shares(log_share: Tensor | None, table: Tensor) -> None:
    if log_share is None:
        return
    if (
        log_share.ndim != 2
        or log_share.shape[0] not in (1, table.shape[0])
        or log_share.shape[1] not in (1, table.shape[1])
    ):
        raise UserError(f"log_share must broadcast to {tuple(table.shape)}, got {tuple(log_share.shape)}")
    total = log_share.detach().double().expand(table.shape[0], -1).logsumexp(0)
    if bool((total.abs() > 1e-6).any()):
        raise UserError(
            f"shares must sum to 1 over the draws, got {float(total.exp().flatten()[0]):.6g}: use log_softmax"
        )


def _check_block(table: "LogWeights | PathTerms") -> None:
    k = table.shape[0]
    if table.draws is not None:
        if table.draws.shape != table.shape:
            raise UserError(f"the table has shape {table.shape} but its draws have {table.draws.shape}")
        if table.draws.biased and isinstance(table, LogWeights) and table.unbiased:
            object.__setattr__(table, "unbiased", False)
    if table.block is None:
        block = (
            table.draws.plan.block if table.draws is not None else k if getattr(table, "source", "") == "mixed" else 1
        )
        object.__setattr__(table, "block", block)
    if table.block is None or table.block < 1 or k % table.block:
        raise UserError(f"K={k} draws do not divide into replicates of {table.block}")


def exhaustive(
    log_joint: Float[Tensor, "C B"],
    log_q: Float[Tensor, "C B"],
    *,
    support: Literal["all", "subset"] = "all",
    target: str = "log p(x)",
) -> LogWeights:
    """A table of all latents of finite support, with shares q(z): `elbo` and `iwae` become exact sums.

    On a subset of the support (retrieved documents under their full normaliser) both stay lower bounds.

    Raises:
        UserError: q does not sum to one over the candidates.
    """
    total = log_q.detach().double().logsumexp(0)
    if bool((total.abs() > 1e-6).any()):
        raise UserError(
            f"q must sum to 1 over the candidates, got {float(total.exp().flatten()[0]):.6g}: use log_softmax over them"
        )
    dead = log_q == -math.inf
    if bool((dead & (log_joint > -math.inf)).any()):
        support = "subset"  # mass that q never visits is missing from the sum of the weights
    log_w = torch.where(dead, -math.inf, log_joint - torch.where(dead, 0.0, log_q))
    return LogWeights(
        log_w,
        log_q,
        "exhaustive" if support == "all" else "subset",
        target=target,
        log_joint=torch.where(dead, -math.inf, log_joint),
        log_proposal=log_q,
        block=log_w.shape[0],
        calls=log_w.numel(),
    )


def difference(a: PathTerms, b: PathTerms) -> PathTerms:
    """a - b draw by draw: the shared noise cancels, and the standard error is that of the pairs. Bounds nothing.

    Raises:
        UserError: the two tables were not made from the same draws, or bound different targets.
    """
    if a.draws is None or b.draws is None or not same_draws(a.draws, b.draws):
        raise UserError("difference needs two tables of the same draws: pass one Draws object to both models")
    if a.target != b.target:
        raise UserError(f"difference needs one target, got {a.target!r} and {b.target!r}")
    return dataclasses.replace(
        a,
        value=a.value - b.value,
        constant=a.constant - b.constant,
        biased=a.biased or b.biased,
        surrogate=a.surrogate or b.surrogate,
        calls=a.calls + b.calls,
        signed=False,
    )


def same_draws(a: Draws, b: Draws) -> bool:
    """Whether two sets of draws are the same numbers."""
    return (a.plan, a.seed, a.salt, a.start, a.stop, a.dtype) == (
        b.plan,
        b.seed,
        b.salt,
        b.start,
        b.stop,
        b.dtype,
    ) and torch.equal(a.keys, b.keys)
