"""Markov kernels that leave a given density invariant: what moves the chains of annealed importance sampling.

A kernel's settings are fixed before the weighted run: adapting them to the run's own accept decisions makes the kernel depend
on its history and breaks unbiasedness (00-bounds 3.5). `infimum.evidence.tune` sets them in a pilot run and freezes them.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws

__all__ = ["Kernel", "LogDensity", "MetropolisHastings", "gibbs", "hmc", "mala", "metropolis"]

LogDensity = Callable[[Tensor], Float[Tensor, "K B"]]
Kernel = Callable[[Tensor, LogDensity, Draws, str], Tensor]
"""(z, log pi, draws, prefix of its streams) -> z, leaving pi invariant for every draw and item by itself."""
Proposal = Callable[[Tensor, LogDensity, float, Draws, str], tuple[Tensor, Tensor]]
"""(z, log pi, step, draws, prefix) -> (proposal, log of the Metropolis-Hastings ratio in float64, (K, B))."""


@dataclass(frozen=True)
class MetropolisHastings:
    """A proposal, accepted or rejected in float64. Streams: "prefix/accept", and those of the proposal.

    Attributes:
        name: for messages.
        step: size of the proposal's steps.
        propose: makes the proposal; for a kernel of your own, any function of this form.
        target: acceptance rate that `infimum.evidence.tune` aims at.
    """

    name: str
    step: float
    propose: Proposal
    target: float

    def __post_init__(self) -> None:
        """Refuse steps that go nowhere."""
        if not 0 < self.step < float("inf"):
            raise UserError(f"{self.name} needs a positive step, got {self.step}")

    def __call__(self, z: Tensor, log_pi: LogDensity, draws: Draws, stream: str) -> Tensor:
        """The next state."""
        return self.attempt(z, log_pi, draws, stream)[0]

    def attempt(self, z: Tensor, log_pi: LogDensity, draws: Draws, stream: str) -> tuple[Tensor, Float[Tensor, "K B"]]:
        """The next state, and the probability with which each proposal was accepted.

        A ratio that is not a number rejects: a trajectory that left the range of floating-point numbers has no density.
        """
        proposal, log_ratio = self.propose(z, log_pi, self.step, draws, stream)
        u = dataclasses.replace(draws, dtype=torch.float64).uniform(f"{stream}/accept")
        accept = (u.log() < log_ratio).reshape(*u.shape, *[1] * (z.ndim - 2))
        return torch.where(accept, proposal, z), log_ratio.exp().clamp_max(1.0).nan_to_num(0.0)


def metropolis(step: float = 1.0) -> MetropolisHastings:
    """Random-walk Metropolis with normal steps of standard deviation ``step``; no gradients. Stream: "prefix/step".

    Tuned to 0.3 acceptances, between the optima of one (0.44) and of many dimensions (0.234; Roberts & Rosenthal 2001).
    """

    def propose(z: Tensor, log_pi: LogDensity, step: float, draws: Draws, stream: str) -> tuple[Tensor, Tensor]:
        proposal = z + step * draws.normal(f"{stream}/step", *z.shape[2:]).to(z.dtype)
        return proposal, log_pi(proposal).double() - log_pi(z).double()

    return MetropolisHastings("metropolis", step, propose, 0.3)


def hmc(step: float = 0.2, leapfrog: int = 10, jitter: float = 0.2) -> MetropolisHastings:
    """Hamiltonian Monte Carlo with unit masses (Neal 2011, 1206.1901); tuned to 0.65 acceptances.

    Args:
        step: of the leapfrog integrator.
        leapfrog: steps a move, each with one gradient of log pi over all (K, B) at once.
        jitter: every move of every chain has its own step, uniform within this fraction around ``step`` (stream
            "prefix/jitter"): trajectories of one length come back to where they began in near-normal densities.
    """
    if leapfrog < 1:
        raise UserError(f"hmc needs at least 1 leapfrog step, got {leapfrog}")
    if not 0 <= jitter < 1:
        raise UserError(f"jitter is a fraction of the step, in [0, 1), got {jitter}")

    def propose(z: Tensor, log_pi: LogDensity, step: float, draws: Draws, stream: str) -> tuple[Tensor, Tensor]:
        momentum = start = draws.normal(f"{stream}/step", *z.shape[2:]).to(z.dtype)
        factor = 1 + jitter * (2 * draws.uniform(f"{stream}/jitter") - 1) if jitter else torch.ones(draws.shape)
        h = (step * factor).reshape(*draws.shape, *[1] * (z.ndim - 2)).to(z)
        before, gradient = _value_and_gradient(z, log_pi)
        proposal, value = z, before
        momentum = momentum + h / 2 * gradient
        for i in range(leapfrog):
            proposal = proposal + h * momentum
            value, gradient = _value_and_gradient(proposal, log_pi)
            momentum = momentum + (h if i < leapfrog - 1 else h / 2) * gradient
        return proposal, value - before + _kinetic(start) - _kinetic(momentum)

    return MetropolisHastings("hmc", step, propose, 0.65)


def mala(step: float = 0.2) -> MetropolisHastings:
    """Metropolis-adjusted Langevin: a normal step of standard deviation ``step`` after step^2 / 2 of the gradient.

    It is Hamiltonian Monte Carlo with one leapfrog step; tuned to 0.574 acceptances (Roberts & Rosenthal 1998).
    """
    return dataclasses.replace(hmc(step, 1, jitter=0.0), name="mala", target=0.574)


def gibbs(categories: int = 2) -> Kernel:
    """Gibbs sweep over discrete latents with values 0 .. categories - 1: bits for a belief net. Stream: "prefix/step".

    Each coordinate in turn is drawn from its exact conditional, which takes categories - 1 evaluations of log pi over all (K, B).
    """
    if categories < 2:
        raise UserError(f"gibbs needs at least 2 categories, got {categories}")

    def kernel(z: Tensor, log_pi: LogDensity, draws: Draws, stream: str) -> Tensor:
        if bool(((z < 0) | (z >= categories) | (z != z.round())).any()):
            raise UserError(
                f"gibbs({categories}) moves latents with values 0 to {categories - 1}, and this model's are not: "
                "use hmc for continuous latents, or gibbs with their number of categories"
            )
        flat, here = z.flatten(2), log_pi(z).double()
        u = dataclasses.replace(draws, dtype=torch.float64).uniform(f"{stream}/step", flat.shape[-1])
        for d in range(flat.shape[-1]):
            options = [here]  # log pi with coordinate d moved on by 0, 1, ...
            for shift in range(1, categories):
                options.append(log_pi(_moved(flat, d, shift, categories).view_as(z)).double())
            table = torch.stack(options)
            drawn = (u[..., d] >= table.softmax(0).cumsum(0)[:-1]).sum(0)
            flat, here = _moved(flat, d, drawn, categories), table.gather(0, drawn[None])[0]
        return flat.view_as(z)

    return kernel


def _moved(flat: Tensor, d: int, shift: Tensor | int, categories: int) -> Tensor:
    moved = flat.clone()
    moved[..., d] = (flat[..., d] + shift) % categories
    return moved


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().flatten(2).sum(-1) / 2 if momentum.ndim > 2 else momentum.double().square() / 2


def _value_and_gradient(z: Tensor, log_pi: LogDensity) -> tuple[Tensor, Tensor]:
    """log pi in float64 and its gradient for every draw and item."""
    if not z.is_floating_point():
        raise UserError(
            f"the kernel needs gradients, and latents of {z.dtype} have none: use gibbs for discrete latents"
        )
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_pi(z)
        if not value.requires_grad:
            raise UserError("the kernel needs gradients, and log p(x, z) has none with respect to z: use metropolis")
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach().double(), gradient
