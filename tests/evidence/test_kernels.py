"""Kernels: each leaves its target invariant, equals its textbook formula, and a kernel that does not is caught."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from evidence.support import LocalBits, close, draws, z_score
from infimum.errors import UserError
from infimum.evidence import gibbs, hmc, mala, metropolis

N = 20_000
TARGET = MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1.0, 0.8], [0.8, 2.0]]).double())
CONTINUOUS = {"metropolis": metropolis(1.0), "mala": mala(0.7), "hmc": hmc(0.4, 5)}


def bimodal(z: torch.Tensor) -> torch.Tensor:
    """log of a normalised density on the line with modes at -1 and 2: equal parts N(-1, .5^2) and N(2, 1)."""
    parts = torch.stack((Normal(-1.0, 0.5).log_prob(z[..., 0]), Normal(2.0, 1.0).log_prob(z[..., 0])))
    return parts.logsumexp(0) - math.log(2)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_correlated_normal_is_left_invariant(name):
    """Started in the target, after 4 moves: second moments, a fourth moment and the cross moment stay (|z| < 5)."""
    part = draws(1, N)
    z = start = part.normal("start", 2) @ TARGET.scale_tril.T
    for t in range(4):
        z = CONTINUOUS[name](z, TARGET.log_prob, part, f"m/{t}")
    moments = torch.stack((z[0, :, 0], z[0, :, 0] ** 2, z[0, :, 1] ** 2, z[0].prod(-1), z[0, :, 0] ** 4), -1)
    assert z_score(moments, torch.tensor([0.0, 1.0, 2.0, 0.8, 3.0])) < 5
    assert float((z != start).any(-1).double().mean()) > 0.5


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_bimodal_density_is_left_invariant(name):
    """Moments of the mixture: mean .5, second moment (1.25 + 5)/2, and P(z < 0)."""
    part = draws(1, N, 3)
    left = part.uniform("side") < 0.5
    noise = part.normal("start")
    z = torch.where(left, -1 + 0.5 * noise, 2 + noise)[..., None]
    for t in range(4):
        z = CONTINUOUS[name](z, bimodal, part, f"m/{t}")
    below = 0.5 * float(Normal(-1.0, 0.5).cdf(torch.tensor(0.0)) + Normal(2.0, 1.0).cdf(torch.tensor(0.0)))
    moments = torch.stack((z[0, :, 0], z[0, :, 0] ** 2, (z[0, :, 0] < 0).double()), -1)
    assert z_score(moments, torch.tensor([0.5, 3.125, below])) < 5


def test_a_kernel_that_always_accepts_is_caught():
    """The same demand has power: Langevin steps without accept or reject miss the second moments by far."""
    part = draws(1, N)
    z = part.normal("start", 2) @ TARGET.scale_tril.T
    for t in range(4):
        z = CONTINUOUS["mala"].propose(z, TARGET.log_prob, 0.7, part, f"m/{t}")[0]
    assert z_score(z[0, :, 0] ** 2, 1.0) > 10


def test_mala_is_the_langevin_proposal_with_its_ratio():
    """z' = z + h^2/2 grad + h xi, and log pi(z') q(z|z') / (pi(z) q(z'|z)) with the two normal densities written out."""
    part, h = draws(3, 5), 0.6
    z = part.normal("start", 1)
    proposal, ratio = mala(h).propose(z, bimodal, h, part, "m")

    def drift(at: torch.Tensor) -> torch.Tensor:
        at = at.detach().requires_grad_()
        return at.detach() + h**2 / 2 * torch.autograd.grad(bimodal(at).sum(), at)[0]

    close(proposal, drift(z) + h * part.normal("m/step", 1))
    back = Normal(drift(proposal), h).log_prob(z) - Normal(drift(z), h).log_prob(proposal)
    close(ratio, bimodal(proposal) - bimodal(z) + back[..., 0])


def test_the_energy_error_of_the_leapfrog_is_of_second_order():
    """Half the step, twice the steps: the error falls fourfold (between 3.5 and 4.5 at these steps)."""
    part = draws(4, 50)
    z = part.normal("start", 2) @ TARGET.scale_tril.T
    errors = [hmc(h, n).propose(z, TARGET.log_prob, h, part, "m")[1].abs().mean() for h, n in ((0.1, 10), (0.05, 20))]
    assert 3.5 < float(errors[0] / errors[1]) < 4.5


def test_gibbs_leaves_a_table_invariant():
    """Three bits, exact start: all eight probabilities stay after two sweeps, and are reached from all zeros after 30."""
    m = LocalBits(N)
    log_p = (m.f + 0.5 * m.g).detach()
    exact = log_p.softmax(0)
    part = draws(1, N)
    place = 2 ** torch.arange(3)

    def density(z: torch.Tensor) -> torch.Tensor:
        return log_p[(z.long() * place).sum(-1)]

    u = part.uniform("start")
    start = m.states[torch.searchsorted(exact.cumsum(0), u).clamp_max(7)]
    for z, sweeps in ((start, 2), (torch.zeros_like(start), 30)):
        for t in range(sweeps):
            z = gibbs()(z, density, part, f"g/{sweeps}/{t}")
        hit = (z.long() * place).sum(-1)[0][:, None] == torch.arange(8)
        assert z_score(hit.double(), exact) < 5


@pytest.mark.parametrize("categories", [2, 3, 5])
def test_gibbs_draws_one_coordinate_exactly(categories):
    """With a single coordinate one sweep is an exact draw, whatever the start."""
    log_p = torch.tensor([0.3, -1.0, 0.9, 0.1, -0.4]).double()[:categories]
    part = draws(1, N)
    z = torch.full((1, N, 1), 1, dtype=torch.int64)
    calls = 0

    def density(z: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return log_p[z[..., 0]]

    z = gibbs(categories)(z, density, part, "g")
    assert z_score((z[0] == torch.arange(categories)).double(), log_p.softmax(0)) < 5
    assert calls == categories and z.dtype == torch.int64


def test_kernels_are_pure_in_their_items_and_draws():
    part = draws(4, 6)
    z = part.normal("start", 2)
    order = torch.tensor([5, 0, 2])
    for kernel in CONTINUOUS.values():
        whole = kernel(z, TARGET.log_prob, part, "m")
        close(kernel(z[:, order], TARGET.log_prob, part.take(order), "m"), whole[:, order])
        close(kernel(z[1:3], TARGET.log_prob, part[1:3], "m"), whole[1:3])


def test_accepting_is_decided_in_float64():
    """Latents and log pi of float32: the next state is float32, the probability float64."""
    part = dataclasses.replace(draws(2, 3), dtype=torch.float32)
    z = part.normal("start", 2)
    moved, accepted = hmc(0.3, 3).attempt(z, lambda v: -0.5 * v.square().sum(-1), part, "m")
    assert moved.dtype == torch.float32 and accepted.dtype == torch.float64


def test_a_trajectory_out_of_range_is_rejected():
    part = draws(2, 3)
    z = part.normal("start", 2)
    moved, accepted = hmc(1e200, 4).attempt(z, lambda v: -v.square().square().sum(-1), part, "m")
    assert torch.equal(moved, z) and float(accepted.max()) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hmc(0.0), "hmc needs a positive step, got 0.0"),
        (lambda: mala(-1.0), "needs a positive step, got -1.0"),
        (lambda: metropolis(math.nan), "needs a positive step, got nan"),
        (lambda: hmc(0.1, 0), "at least 1 leapfrog step, got 0"),
        (lambda: gibbs(1), "at least 2 categories, got 1"),
        (
            lambda: gibbs()(torch.full((1, 2, 3), 0.5), lambda z: z.sum(-1), draws(1, 2), "g"),
            "values 0 to 1, and this model's are not",
        ),
        (
            lambda: hmc()(torch.zeros(1, 2, 3, dtype=torch.int64), lambda z: z.double().sum(-1), draws(1, 2), "g"),
            "latents of torch.int64 have none: use gibbs",
        ),
        (
            lambda: hmc()(torch.zeros(1, 2, 3).double(), lambda z: z.detach().sum(-1), draws(1, 2), "g"),
            "none with respect to z: use metropolis",
        ),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call()
