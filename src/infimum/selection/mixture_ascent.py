"""Tempered coordinate ascent for mixtures with conjugate components, batched over restarts (1805.05054; Bishop, PRML 10.2)."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Ascent",
    "Components",
    "Step",
    "ascend",
    "dirichlet_divergence",
    "expected_log",
    "indicators",
    "leap",
    "step",
]

_CELLS = 2**25  # responsibilities held at once


@runtime_checkable
class Components(Protocol):
    """A conjugate family: how q of the components' parameters follows from weighted rows, and what it says of rows.

    A factor holds q of R restarts and K components; its type is the family's own, and so is that of the rows.
    """

    def update(self, rows: Any, weights: Float[Tensor, "R K n"]) -> Any:
        """The factor that maximises the bound, given what each row weighs in each component."""
        ...

    def log_likelihood(self, rows: Any, factor: Any) -> Float[Tensor, "R K n"]:
        """E log p(x_i | component k) under the factor, in nats, all constants included."""
        ...

    def divergence(self, factor: Any) -> Float[Tensor, "R"]:
        """KL of the factor from the prior, summed over components."""
        ...

    def log_predictive(self, rows: Any, factor: Any) -> Float[Tensor, "R K n"]:
        """log E p(x_i | component k) under the factor."""
        ...


def expected_log(concentration: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
    """E log p_k under Dirichlet(concentration)."""
    return torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))


def dirichlet_divergence(concentration: Float[Tensor, "*b K"], prior: float) -> Float[Tensor, "*b"]:
    """KL(Dirichlet(concentration) || Dirichlet(prior, .., prior)) in nats."""
    base = torch.full_like(concentration[..., :1], prior)
    size = concentration.shape[-1]
    value = torch.lgamma(concentration.sum(-1)) - torch.lgamma(concentration).sum(-1)
    value = value - (torch.lgamma(size * base) - size * torch.lgamma(base))[..., 0]
    return value + ((concentration - prior) * expected_log(concentration)).sum(-1)


@dataclass(frozen=True)
class Step:
    """One sweep: q of weights and components at its best given the old responsibilities, then new responsibilities.

    Attributes:
        concentration: of the weights' Dirichlet.
        factor: of the components.
        responsibilities: at their best given both.
        elbo: of all three.
    """

    concentration: Float[Tensor, "R K"]
    factor: Any
    responsibilities: Float[Tensor, "R K n"]
    elbo: Float[Tensor, "R"]


def step(
    components: Components, rows: Any, responsibilities: Float[Tensor, "R K n"], *, alpha: float, prior: float
) -> Step:
    """Tempered statistics, un-tempered responsibilities, and the bound of the result in nats.

    The local bound comes from the likelihood, so that alpha multiplies it with its entropy and leaves the best responsibilities
    as they are: alpha sum_i log sum_k exp(E log p_k + E log p(x_i | k)) - KL(q(p)) - sum_k KL(q_k).
    """
    weights = alpha * responsibilities
    concentration = prior + weights.sum(-1)
    factor = components.update(rows, weights)
    joint = components.log_likelihood(rows, factor) + expected_log(concentration)[..., None]
    total = joint.logsumexp(1)
    divergence = dirichlet_divergence(concentration, prior) + components.divergence(factor)
    return Step(concentration, factor, (joint - total[:, None]).exp(), alpha * total.sum(-1) - divergence)


@dataclass(frozen=True)
class Ascent:
    """The best of several restarts.

    Attributes:
        best: its last sweep; R = 1.
        converged: whether its bound had settled.
        sweeps: it took.
        elbo: of every restart at its end.
        history: bounds of the restarts after every sweep; those that have settled stay where they are.
    """

    best: Step
    converged: bool
    sweeps: int
    elbo: Float[Tensor, "R"]
    history: list[Float[Tensor, "R"]] = field(repr=False)


def indicators(labels: Int[Tensor, "R n"], components: int) -> Float[Tensor, "R K n"]:
    """Responsibilities of rows that belong to one component each."""
    return torch.nn.functional.one_hot(labels, components).transpose(1, 2).double()


def ascend(
    components: Components, rows: Any, labels: Int[Tensor, "R n"], count: int, *, alpha: float, prior: float, sweeps: int,
    tolerance: float,
) -> Ascent:  # fmt: skip
    """Sweep every restart until the change of its bound is below ``tolerance`` of it; keep the highest.

    Args:
        components: the family, with its prior.
        rows: the data, in the family's form.
        labels: component of every row at the start.
        count: K.
        alpha: temper of the likelihood.
        prior: Dirichlet parameter of the weights.
        sweeps: at most so many.
        tolerance: relative change of the bound.
    """
    group = max(1, _CELLS // (count * labels.shape[1]))
    runs = [
        _run(components, rows, indicators(part, count), alpha, prior, sweeps, tolerance) for part in labels.split(group)
    ]
    elbo, settled = torch.cat([run.elbo for run in runs]), torch.cat([run.settled for run in runs])
    winner = int(elbo.argmax())  # settled or not: a poor optimum that is reached soon must not hide a better one
    run, row = runs[winner // group], winner % group
    best = step(components, rows, run.responsibilities[row : row + 1], alpha=alpha, prior=prior)
    length = max(len(run.history) for run in runs)
    history = [torch.cat([run.history[min(i, len(run.history) - 1)] for run in runs]) for i in range(length)]
    return Ascent(best, bool(settled[winner]), int(run.sweeps[row]), elbo, history)


@dataclass(frozen=True)
class _Run:
    elbo: Float[Tensor, "R"]
    settled: Bool[Tensor, "R"]
    sweeps: Int[Tensor, "R"]
    responsibilities: Float[Tensor, "R K n"]
    history: list[Float[Tensor, "R"]]


def _run(
    components: Components, rows: Any, responsibilities: Float[Tensor, "R K n"], alpha: float, prior: float, sweeps: int,
    tolerance: float,
) -> _Run:  # fmt: skip
    """Two sweeps, a leap along them, two sweeps, ..; a leap that lowers the bound is not taken. The settled leave the batch."""
    restarts, device = len(responsibilities), responsibilities.device
    elbo = torch.full((restarts,), -torch.inf, dtype=torch.float64, device=device)
    settled = torch.zeros(restarts, dtype=torch.bool, device=device)
    last = torch.zeros(restarts, dtype=torch.long, device=device)
    active = torch.arange(restarts, device=device)
    current, history = responsibilities, []
    trail: list[Tensor] = []  # responsibilities before the last sweeps without a leap
    for sweep in range(1, sweeps + 1):
        leaping = len(trail) == 2
        new = step(
            components, rows, leap(trail[0], trail[1], current) if leaping else current, alpha=alpha, prior=prior
        )
        old = elbo[active]
        rose = (new.elbo >= old) | (not leaping)
        elbo[active], last[active] = torch.where(rose, new.elbo, old), sweep
        history.append(elbo.clone())
        trail = [] if leaping else [*trail, current]
        current = torch.where(rose[:, None, None], new.responsibilities, current)
        done = ((new.elbo - old).abs() <= tolerance * new.elbo.abs().clamp_min(1)) & (not leaping)
        if bool(done.any()):
            settled[active] = done
            responsibilities[active] = current
            active, current, trail = active[~done], current[~done], [r[~done] for r in trail]
            if not len(active):
                break
    responsibilities[active] = current
    return _Run(elbo, settled, last, responsibilities, history)


def leap(
    first: Float[Tensor, "R K n"], second: Float[Tensor, "R K n"], third: Float[Tensor, "R K n"]
) -> Float[Tensor, "R K n"]:
    """Extrapolation of three successive responsibilities, put back onto the simplex (SQUAREM, Varadhan & Roland 2008, scheme 3)."""
    step = second - first
    turn = third - second - step
    ratio = step.square().sum((1, 2)) / turn.square().sum((1, 2)).clamp_min(1e-300)
    length = ratio.sqrt().clamp(1, 1e6)[:, None, None]
    moved = (first + 2 * length * step + length**2 * turn).clamp_min(0)
    return moved / moved.sum(1, keepdim=True).clamp_min(1e-300)
