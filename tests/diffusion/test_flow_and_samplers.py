"""Flow densities and samplers on data whose every marginal is known: mixtures of Gaussians (03 section 6, 11 to 13)."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from diffusion.worlds import gaussian
from infimum.diffusion import DiffusionConfig, GaussianDiffusion
from infimum.diffusion.adaptive import adaptive_flow
from infimum.diffusion.flow import FlowBound, FlowEvidence, _hutchinson, _log_determinant, log_flow, transport
from infimum.diffusion.heads import convert
from infimum.diffusion.samplers import SAMPLERS, edm_levels, sample
from infimum.diffusion.schedules import alpha_sigma
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae

MEANS = torch.tensor([[-0.6, 0.3], [0.5, -0.2], [0.1, 0.7]], dtype=torch.float64)
SD, SHARES = 0.2, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def log_marginal(z, snr):
    """log q(z_t) of data from the mixture."""
    alpha, sigma = alpha_sigma(torch.as_tensor(snr, dtype=torch.float64))
    scale = (alpha**2 * SD**2 + sigma**2).sqrt()
    normal = torch.distributions.Independent(torch.distributions.Normal(alpha * MEANS, scale.expand_as(MEANS)), 1)
    return (normal.log_prob(z[:, None]) + SHARES.log()).logsumexp(1)


class Optimal(nn.Module):
    """eps^ = -sigma grad log q(z_t), less the z that heads "eps" start at."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z, u):
        snr = (self.high - u * (self.high - self.low))[:, None]
        alpha, sigma = alpha_sigma(snr)
        v = (alpha**2 * SD**2 + sigma**2)[..., None]
        away = z[:, None] - alpha[..., None] * MEANS
        share = (SHARES.log() - 0.5 * (away**2 / v).sum(-1)).softmax(1)[..., None]
        return sigma * (share * away / v).sum(1) - z


def mixture(low=-10.0, high=8.0, **config):
    return GaussianDiffusion(DiffusionConfig((2,), low=low, high=high, **config), Optimal(low, high)).eval()


def points(n=6):
    z = 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z


def test_the_flow_has_the_density_of_the_data():
    """The flow of the exact score carries q(z_0) to q(z_1), to the solver's error, which falls sixteenfold with twice the steps."""
    model, errors = mixture(-10.0), []
    for steps in (25, 50, 100):
        end, change = transport(model, points(), steps=steps)
        errors.append(float((log_marginal(end, -10.0) + change - log_marginal(points(), 8.0)).abs().max()))
    assert errors[-1] < 1e-5
    assert all(10 < coarse / fine < 25 for coarse, fine in pairwise(errors))
    # log_flow has N(0, I) at the end instead
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(end), 1.0), 1)
    torch.testing.assert_close(log_flow(model, points(), steps=100), normal.log_prob(end) + change)


def test_probes_are_unbiased():
    """The mean over all four sign vectors of two dimensions is that of the trace, which tends to the determinant of the steps."""
    model, apart = mixture(), []
    for steps in (20, 40, 80):
        exact = log_flow(model, points(), steps=steps)
        each = [log_flow(model, points(), steps=steps, probes=torch.tensor([[a, b]], dtype=torch.float64).expand(6, 2))
                for a in (-1, 1) for b in (-1, 1)]  # fmt: skip
        apart.append(float((torch.stack(each).mean(0) - exact).abs().max()))
    assert all(8 < coarse / fine < 40 for coarse, fine in pairwise(apart)) and apart[-1] < 1e-5
    assert float((each[0] - each[1]).abs().max()) > 1e-3


def test_rows_change_nothing():
    model = mixture()
    torch.testing.assert_close(
        log_flow(model, points(), steps=5, rows=1), log_flow(model, points(), steps=5), rtol=0, atol=1e-12
    )
    one = log_flow(model, points()[:1], steps=5)
    torch.testing.assert_close(one, log_flow(model, points(), steps=5)[:1], rtol=0, atol=1e-12)


def discrete(levels=8, high=6.0):
    return mixture(-14.0, high, levels=levels)


def cell_mass(x, model):
    """Flow mass of the cell of x, by Gauss-Legendre on the exact density (low is far out)."""
    at, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    alpha = float(alpha_sigma(model.schedule.high)[0])
    half = alpha / model.config.levels
    f = model.encode(x)
    answers = []
    for row in f:
        grid = torch.cartesian_prod(alpha * row[0] + half * at, alpha * row[1] + half * at)
        w = torch.outer(weight, weight).flatten() * half**2
        answers.append((w * log_marginal(grid, float(model.schedule.high)).exp()).sum().log())
    return torch.stack(answers)


@pytest.mark.parametrize("dequantisation", ["truncated-normal", "uniform"])
def test_weights_over_dequantisation_noise_estimate_the_mass_of_a_cell(dequantisation):
    """mean of exp against quadrature (|z| < 5); ELBO <= IWAE <= log P(x), and a certificate."""
    model = discrete()
    x = torch.tensor([[1.0, 5.0], [6.0, 3.0], [4.0, 6.0], [0.0, 0.0]])
    x = x.double()
    flow = FlowEvidence(model, dequantisation=dequantisation, steps=40)
    exact = cell_mass(x, model)
    bounds = evaluate(flow, x, Plan.iid(400), [elbo, iwae])
    assert bounds[0].side == bounds[1].side == "lower" and bounds[1].mean().certificate is not None
    assert bool((bounds[0].value <= bounds[1].value + 1e-12).all())
    assert bool(((bounds[1].value - exact).abs() < 5 * bounds[1].stderr + 1e-4).all())
    assert bool((bounds[0].value < exact + 5 * bounds[0].stderr + 1e-4).all())
    noisy = evaluate(FlowBound(model, dequantisation=dequantisation, steps=40), x, Plan.iid(400), elbo)
    assert noisy.side == "lower" and not noisy.certified
    gap = noisy.value - bounds[0].value
    assert bool((gap.abs() < 5 * (noisy.stderr**2 + bounds[0].stderr ** 2).sqrt() + 1e-4).all())


def test_the_constant_of_the_truncated_normal():
    """E log q against the published formula (03 section 3.9) by numerical integration of our density: Z = .997461, .015221 nats."""
    model = mixture(-5.0, 13.3, levels=256)
    flow = FlowEvidence(model)
    _, sigma, half = flow._cell()
    tau = half / sigma
    assert tau == pytest.approx(3.0187, abs=1e-4)
    z_mass = math.erf(tau / math.sqrt(2))
    phi = math.exp(-tau * tau / 2) / math.sqrt(2 * math.pi)
    assert z_mass == pytest.approx(0.997461, abs=1e-6)
    assert -(math.log(z_mass) - tau * phi / z_mass) == pytest.approx(0.015221, abs=1e-6)
    at, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    f = torch.zeros(1, 1, dtype=torch.float64)
    q = flow._log_q(f, (half * at)[:, None, None])[:, 0]
    assert float((weight * half * q.exp()).sum()) == pytest.approx(1, abs=1e-12)
    wanted = -(0.5 * math.log(2 * math.pi * math.e * sigma**2) + math.log(z_mass) - tau * phi / z_mass)
    assert float((weight * half * q.exp() * q).sum()) == pytest.approx(wanted, abs=1e-10)


def test_ddim_of_eta_one_is_ancestral():
    model, draws = mixture(), Plan.iid(3).draws(torch.arange(5), dtype=torch.float64)
    a = sample(model, draws, sampler="ancestral", steps=17, decode=False)
    torch.testing.assert_close(
        sample(model, draws, sampler="ddim", eta=1.0, steps=17, decode=False), a, rtol=0, atol=1e-12
    )
    # one ancestral step by the published mean and variance
    z = points()
    now, then = torch.tensor(-1.0).double(), torch.tensor(0.5).double()
    (a_t, s_t), (a_s, s_s) = alpha_sigma(now), alpha_sigma(then)
    eps = model.denoise(z, now.expand(6), to="eps")
    c = -torch.expm1(now - then)
    noise = torch.ones_like(z)
    wanted = a_s / a_t * (z - s_t * c * eps) + s_s * c.sqrt() * noise
    from infimum.diffusion.samplers import _ddim

    f = convert(eps, z, now, source="eps", to="x")
    torch.testing.assert_close(_ddim(z, f, eps, now, then, 1.0, noise), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "low", "high"), [("ddim", 1.7, 2.6), ("dpmpp-2m", 3.2, 6.0), ("heun", 3.2, 6.0), ("ode", 11, 25)]
)
def test_orders_of_convergence(sampler, low, high):
    """Error against the flow's end point with twice the steps: halves, quarters, a sixteenth."""
    model, draws = mixture(-6.0, 5.0), Plan.iid(1).draws(torch.arange(40), dtype=torch.float64)
    exact = sample(model, draws, sampler="ode", steps=600, decode=False)
    steps = {"ode": (40, 80), "ddim": (200, 400)}.get(sampler, (150, 300))
    coarse, fine = (
        float((sample(model, draws, sampler=sampler, steps=n, decode=False) - exact).square().mean().sqrt())
        for n in steps
    )
    assert low < coarse / fine < high


@pytest.mark.parametrize("network", ["mlp", "unet", "adm", "dit"])
def test_derivatives_of_every_network_are_those_of_its_jacobian(network):
    """Determinants and probed traces by forward derivatives, against reverse ones, row by row."""
    torch.manual_seed(0)
    config = DiffusionConfig((1, 4, 4), levels=8, network=network, width=64 if network == "adm" else 8, blocks=1)
    model = GaussianDiffusion(config).double().eval()
    with torch.no_grad():
        for p in model.network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    z, s, probes = torch.randn(3, 16).double(), torch.full((3,), 0.7).double(), torch.randn(3, 16).double()

    def function(z):
        return z + 0.01 * model.denoise(z, s[: len(z)], to="eps")

    jacobians = [torch.autograd.functional.jacobian(lambda row: function(row[None])[0], one) for one in z]
    out, log = _log_determinant(function, z, rows=20)
    torch.testing.assert_close(log, torch.stack([j.slogdet().logabsdet for j in jacobians]))
    torch.testing.assert_close(out, function(z))
    out, trace = _hutchinson(function, z, probes)
    torch.testing.assert_close(trace, torch.stack([e @ (j @ e) for j, e in zip(jacobians, probes, strict=True)]))
    torch.testing.assert_close(out, function(z))
    assert float(log.detach().abs().min()) > 1e-4


@pytest.mark.parametrize("steps", [4, 6])
def test_the_density_of_few_steps_is_one(steps):
    """The flow in so few steps, though far from solved, has total mass one on a grid, where a trace's integral has not."""
    model, n = mixture(-6.0, 5.0), 240
    side = torch.linspace(-2.5, 2.5, n, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)
    cell = (5 / (n - 1)) ** 2
    assert float(log_flow(model, z, steps=steps).exp().sum()) * cell == pytest.approx(1, abs=1e-3)
    every = [torch.tensor([[a, b]]).double().expand(len(z), 2) for a in (-1, 1) for b in (-1, 1)]
    traced = torch.stack([log_flow(model, z, steps=steps, probes=e) for e in every]).mean(0)
    assert abs(float(traced.exp().sum()) * cell - 1) > 0.003


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_moments_of_the_data(sampler):
    """First and second moments of the mixture (|z| < 5 on 4,000 items; 200 steps)."""
    model, draws = mixture(-12.0, 8.0), Plan.iid(1).draws(torch.arange(4000), dtype=torch.float64)
    made = sample(model, draws, sampler=sampler, steps=200, decode=False, churn=0.1 if sampler == "heun" else 0.0)[0]
    mean = SHARES @ MEANS
    second = torch.einsum("k,ki,kj->ij", SHARES, MEANS, MEANS) + (SD**2 + math.exp(-8.0)) * torch.eye(2).double()
    products = made[:, :, None] * made[:, None, :]
    assert bool(((made.mean(0) - mean).abs() < 5 * made.std(0) / 4000**0.5).all())
    assert bool(((products.mean(0) - second).abs() < 5 * products.std(0) / 4000**0.5).all())


def test_levels_of_edm():
    """Ends, and the formula at the middle (2206.00364, eq. 5)."""
    levels = edm_levels(3)
    assert levels.tolist() == pytest.approx([80.0, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.002])


def test_decoded_samples_are_levels():
    model, draws = discrete(), Plan.iid(2).draws(torch.arange(7), dtype=torch.float64)
    made = sample(model, draws, steps=20)
    assert made.shape == (2, 7, 2) and set(made.flatten().tolist()) <= set(range(8))
    clipped = sample(model, draws, steps=20, clip=True)
    assert clipped.shape == made.shape


def test_refusals():
    model, draws = mixture(), Plan.iid(1).draws(torch.arange(1))
    for options, words in (({"steps": 0}, "at least 1"), ({"eta": 2.0}, r"eta in \[0, 1\]")):
        with pytest.raises(UserError, match=words):
            sample(model, draws, **options)
    with pytest.raises(UserError, match="need no dequantisation"):
        FlowEvidence(model)
    with pytest.raises(UserError, match="at least 1 step"):
        FlowBound(discrete(), steps=0)
    with pytest.raises(UserError, match="at least 2 steps"):
        edm_levels(1)


def test_an_adaptive_solver_keeps_its_tolerance():
    """Gaussian data: z_0 = z_1 sqrt(v_0 / v_1), v = alpha^2 s^2 + sigma^2; errors fall with the tolerance, evaluations rise."""
    model = gaussian(0.37, low=-8.0, high=8.0)
    z = torch.randn(7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    v_0, v_1 = (a**2 * 0.37 + s**2 for a, s in (alpha_sigma(torch.tensor(e, dtype=torch.float64)) for e in (8.0, -8.0)))
    exact = z * (v_0 / v_1).sqrt()
    errors, asked = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found, count = adaptive_flow(model, z, tolerance=tolerance)
        errors.append(float((found - exact).abs().max()))
        asked.append(int(count.sum()))
    # the tolerance is a step's: over the whole path errors add up, and fall in proportion to it
    assert errors[0] > 30 * errors[1] > 900 * errors[2] and errors[2] < 1e-6
    assert asked[0] < asked[1] < asked[2] < 10 * asked[0]


def test_the_solver_has_the_published_coefficients():
    """Against scipy's, which were entered by others."""
    from scipy.integrate import RK45

    from infimum.diffusion.adaptive import ERROR, NODES, STAGES

    for i, weights in enumerate(STAGES[:-1]):
        np.testing.assert_allclose(weights, RK45.A[i, : len(weights)], rtol=1e-14)
    np.testing.assert_allclose(STAGES[-1], RK45.B, rtol=1e-14)
    np.testing.assert_allclose(NODES[:-1], RK45.C, rtol=1e-14)
    np.testing.assert_allclose(ERROR, -RK45.E, rtol=1e-14)


def test_items_of_the_adaptive_solver_are_independent():
    """Also in what they cost, and by the sampler's name."""
    model = mixture(-10.0)
    z = points()
    together, counts = adaptive_flow(model, z, tolerance=1e-6)
    for i in range(len(z)):
        alone, count = adaptive_flow(model, z[i : i + 1], tolerance=1e-6)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)
        assert int(count) == int(counts[i])
    assert len(set(counts.tolist())) > 1
    draws = Plan.iid(2).draws(torch.arange(3), dtype=torch.float64)
    found = sample(model, draws, sampler="ode-adaptive", tolerance=1e-7, decode=False)
    torch.testing.assert_close(
        found, sample(model, draws, sampler="ode", steps=400, decode=False), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UserError, match=r"tolerance is 0\.0"):
        adaptive_flow(model, z, tolerance=0.0)
    with pytest.raises(UserError, match="6 of 6 items did not arrive in 3 steps"):
        adaptive_flow(model, z, tolerance=1e-9, most=3)
