"""Sequential Monte Carlo for sequential latents: an unbiased evidence estimate, and the FIVO bound that it gives.

Del Moral, Doucet & Jasra (2006); Maddison et al. (2017, 1705.09279) for filtering variational objectives.
"""

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import map_tree
from infimum.evidence.bounds import elbo
from infimum.evidence.draws import Draws
from infimum.evidence.estimate import Estimate
from infimum.evidence.model import double_reductions, need_eval
from infimum.evidence.plan import Plan
from infimum.evidence.tables import LogWeights
from infimum.evidence.weights import blocks, check_rows, need_whole

__all__ = ["SequentialModel", "fivo", "smc", "systematic"]


@runtime_checkable
class SequentialModel(Protocol):
    """A joint over steps t = 0 .. T-1 and a proposal for each step.

    A state is what a step needs of the past: z_t for a Markov model, a summary of z_0..z_t otherwise; a tensor (K, B, *event) or a
    nested tuple / dict of them. The ``draws`` of every step are a fork of their own, so stream names may repeat over t.
    """

    def encode(self, x: Any) -> Any:
        """What the steps need of the items, leading axis B."""

    def steps(self, s: Any) -> int:
        """T, the same for all items of the batch."""

    def initial(self, s: Any, draws: Draws) -> Any:
        """The first state, from its proposal."""

    def transition(self, s: Any, t: int, before: Any, draws: Draws) -> Any:
        """The state of step t from its proposal, given the one before."""

    def log_increment(self, s: Any, t: int, before: Any, state: Any) -> Float[Tensor, "K B"]:
        """log p(x_t, z_t | z_<t, x_<t) - log q(z_t | z_<t, x) in nats; ``before`` is None at t = 0."""


def smc(
    model: SequentialModel,
    x: Any,
    draws: Draws,
    *,
    resample: float = 0.5,
    rows: int = 2**11,
    progress: Callable[[int], None] | None = None,
) -> LogWeights:
    """Log evidence estimates of R independent particle systems an item: E exp = p(x) for each, so a table (R, B).

    The product over steps of mean incremental weights; a system resamples systematically when its effective sample size falls
    below ``resample`` times its particles. The P particles of a system are one replicate: the table has one row a
    system, `fivo` and `iwae` take their standard errors and certificates from the rows.

    Without gradients, events are summed in float64. Where gradients are on, that of the resampling step is dropped: a biased
    gradient of low variance (1705.09279, section 3.1).

    Args:
        model: a `SequentialModel`.
        x: batch of B items.
        draws: of ``Plan(replicates=R, levels=P)``. Streams: the model's, in a fork of each step.
        resample: fraction of P below which a system resamples; 0: never (sequential importance sampling).
        rows: particles at a time; at least those of one system.
        progress: called with the number of (particle, step) pairs done.

    Raises:
        UserError: a plan whose particles depend on each other, a model that is not sequential, NaN increments.
    """
    need_whole(draws)
    if not isinstance(model, SequentialModel):
        raise UserError(
            f"smc needs sequential latents, and a {type(model).__name__} has no steps, initial, transition and log_increment: "
            "use importance sampling or ais"
        )
    if not torch.is_grad_enabled():
        need_eval(model, layers=True)
    plan = draws.plan
    if not plan.independent:
        raise UserError("smc needs independent particles: use Plan(replicates=R, levels=P)")
    if not 0 <= resample <= 1:
        raise UserError(f"resample is a fraction of the particles, in [0, 1], got {resample}")
    particles, calls = plan.block, 0
    columns = []
    with nullcontext() if torch.is_grad_enabled() else double_reductions():
        for part_x, part, _ in blocks(x, draws, max(1, rows // particles)):
            s = model.encode(part_x)
            steps = model.steps(s)
            size = max(1, rows // (particles * part.shape[1])) * particles  # whole systems: their particles interact
            lines = []
            for r in range(0, part.shape[0], size):
                chunk = part[r : r + size]
                lines.append(_filter(model, s, chunk, steps, resample))
                calls += chunk.shape[0] * chunk.shape[1] * steps
                if progress is not None:
                    progress(calls)
            columns.append(torch.cat(lines))
    log_w = torch.cat(columns, dim=1)
    whole = dataclasses.replace(draws, plan=Plan.iid(plan.replicates), start=draws.start // particles,
                                stop=draws.stop // particles)  # fmt: skip
    return LogWeights(log_w, target=getattr(model, "target", "log p(x)"), draws=whole, calls=calls)


def fivo(w: LogWeights) -> Estimate:
    """The FIVO bound E log p^ (1705.09279, eq. 3), averaged over particle systems. Lower, certified (AM-GM).

    With R systems its certificate has slack log(1/delta) / (R N). `iwae` of the same table averages p^ itself: tighter.
    """
    return dataclasses.replace(elbo(w), name="FIVO", unbiased_for=None)


def _filter(model: SequentialModel, s: Any, draws: Draws, steps: int, resample: float) -> Float[Tensor, "R B"]:
    """One estimate of log p(x) for every system, float64."""
    particles, b = draws.plan.block, draws.shape[1]
    systems = draws.shape[0] // particles
    equal = torch.full((systems, particles, b), -math.log(particles), dtype=torch.float64, device=draws.device)
    log_share, total = equal, equal.new_zeros(systems, b)
    state = None
    for t in range(steps):
        here = draws.fork(str(t))
        before = state
        if before is not None:
            poor = (-(2 * log_share).logsumexp(1)).exp() < resample * particles  # (R, B), effective sample size
            if bool(poor.any()):
                u = (
                    dataclasses.replace(here, dtype=torch.float64)
                    .uniform("\x00resample")
                    .unflatten(0, (systems, particles))
                )
                parents = systematic(log_share.detach(), u[:, 0])
                own = torch.arange(particles, device=parents.device)[:, None]
                before = _gather(before, torch.where(poor[:, None], parents, own))
                log_share = torch.where(poor[:, None], equal, log_share)
        state = model.initial(s, here) if before is None else model.transition(s, t, before, here)
        step = check_rows(model.log_increment(s, t, before, state), draws.shape, "log_increment(s, t, before, state)")
        if not bool((step < math.inf).all()):
            raise UserError(f"log_increment is NaN or +inf at step {t}: the proposal or the model is not finite there")
        log_share = log_share + step.double().unflatten(0, (systems, particles))
        mean = log_share.logsumexp(1)
        total = total + mean
        # A system without mass stays without: its estimate is 0, whatever follows.
        log_share = torch.where((mean > -math.inf)[:, None], log_share - mean[:, None], equal)
    return total


def systematic(log_share: Float[Tensor, "R P B"], u: Float[Tensor, "R B"]) -> Int[Tensor, "R P B"]:
    """Parents by systematic resampling: particle i takes the place of (i + u) / P in the distribution function.

    Each parent has P w expected offspring, and the floor or the ceiling of that in fact (Kitagawa 1996).
    """
    particles = log_share.shape[1]
    upper = log_share.exp().cumsum(1)
    upper = (upper / upper[:, -1:]).movedim(1, -1).contiguous()  # (R, B, P)
    place = (torch.arange(particles, device=u.device) + u[..., None]) / particles
    return torch.searchsorted(upper, place, right=True).clamp_max(particles - 1).movedim(-1, 1)


def _gather(state: Any, parents: Int[Tensor, "R P B"]) -> Any:
    """The states of the parents, system by system and item by item."""
    systems, particles, b = parents.shape
    first = torch.arange(systems, device=parents.device)[:, None, None] * particles
    row = (parents + first).flatten(0, 1)
    item = torch.arange(b, device=parents.device)
    return map_tree(lambda leaf: leaf[row, item], state)
