"""Objectives: the regularised loss by its formula, rules by their effect, refusals by their message."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from infimum.errors import UserError
from infimum.evidence import Plan, bound_backward, elbo, iwae, renyi, weigh
from infimum.vae import VAE, Objective, VAEConfig, regularised_loss
from vae.vae_cases import draws, linear_vae, small_net, z_score

VAE_RULES = ["elbo", "stl", "rloo", "iwae", "dreg", "stl_iwae", "vimco", "rws", "rws_dreg", "renyi", "tvo"]


def gradient(model) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def test_regularised_loss_is_its_formula():
    model, _, x = linear_vae("diagonal")
    d = draws(3, 4)
    mean, log_scale = model.encode(x)
    z = mean + log_scale.exp() * d.normal("z", 2)
    scale = model.likelihood.log_scale.exp()
    log_p = Normal(z @ model.decoder[0].weight.T + model.decoder[0].bias, scale).log_prob(x).sum(-1)
    kl = kl_divergence(Normal(mean, log_scale.exp()), Normal(torch.zeros(2).double(), 1.0)).mean(0)
    assert min(kl.tolist()) < 0.15 < max(kl.tolist())  # the clamp binds in one dimension and not in the other
    expected = float(-log_p.mean().detach()) + 2.5 * sum(max(0.15, v) for v in kl.tolist())
    loss = regularised_loss(model, x, d, beta=2.5, free_bits=0.15).detach()
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_without_regularisation_it_is_minus_the_elbo_in_expectation():
    """Paired over 2,000 seeds of one draw, |z| < 5.5."""
    model, _, x = linear_vae("diagonal")
    many = x.repeat(2000, 1)
    with torch.no_grad():
        d = draws(1, 8000)
        s = model.encode(many)
        z = model.sample(s, d)
        kl = kl_divergence(Normal(s[0], s[1].exp()), Normal(torch.zeros(2).double(), 1.0)).sum(-1)
        analytic = (model.log_likelihood(many, z)[0] - kl).unflatten(0, (2000, 4)).mean(1, keepdim=True)
        assert float(-regularised_loss(model, many, d)) == pytest.approx(float(analytic.mean()), abs=1e-9)
        sampled = elbo(weigh(model, many, d)).value.unflatten(0, (2000, 4)).mean(1, keepdim=True)
    assert z_score(analytic - sampled, 0.0) < 5.5


def test_free_bits_stop_the_gradient_of_the_divergence():
    """With a floor that no dimension reaches, the loss is the reconstruction alone."""
    model, _, x = linear_vae("diagonal")
    d = draws(2, 4)
    regularised_loss(model, x, d, free_bits=100.0).backward()
    with_floor = gradient(model)
    model.zero_grad()
    (-model.log_likelihood(x, model.sample(model.encode(x), d)).mean()).backward()
    torch.testing.assert_close(with_floor, gradient(model))


def test_beta_needs_a_closed_form():
    model, _, x = linear_vae("full")
    with pytest.raises(UserError, match="a closed-form divergence needs posterior 'diagonal', got 'full'"):
        regularised_loss(model, x, draws(1, 4), beta=2.0)


@pytest.mark.parametrize("rule", VAE_RULES)
def test_objective_takes_the_gradient_of_its_rule_and_reports_its_bounds(rule):
    torch.manual_seed(1)
    model = VAE(VAEConfig((6,), latent=2, hidden=(8,)))
    x = torch.eye(6)
    objective = Objective(rule, k=4)
    d = objective.plan.draws(torch.arange(6))
    report = objective.backward(model, x, d)
    ours = gradient(model)
    model.zero_grad()
    table = bound_backward(model, x, d, objective.gradient)
    assert torch.equal(gradient(model), ours)
    assert bool(torch.isfinite(ours).all()) and float(ours.abs().max()) > 0
    assert float(report["elbo"]) == pytest.approx(float(elbo(table).value.mean()), abs=1e-5)
    if "iwae" in report:
        assert float(report["iwae"]) == pytest.approx(float(iwae(table).value.mean()), abs=1e-5)
    if rule == "renyi":
        assert float(report["renyi"]) == pytest.approx(float(renyi(table, 0.5).value.mean()), abs=1e-5)


def test_disarm_trains_the_belief_net():
    model, x = small_net()
    objective = Objective("disarm", k=2)
    assert objective.plan == Plan.antithetic(2)
    report = objective.backward(model, x, objective.plan.draws(torch.arange(2)))
    assert set(report) == {"elbo"}
    assert float(gradient(model).abs().max()) > 0


def test_a_loss_that_is_no_bound_says_so():
    model, _, x = linear_vae("diagonal")
    objective = Objective("elbo", k=2, beta=4.0)
    assert not objective.is_bound
    assert "beta=4, free_bits=0 and is not a bound" in objective.warning
    d = draws(2, 4)
    assert set(objective.backward(model, x, d)) == {"loss (not a bound)"}
    ours = gradient(model)
    model.zero_grad()
    regularised_loss(model, x, d, beta=4.0).backward()
    assert torch.equal(gradient(model), ours)
    assert Objective().warning == ""
    assert not Objective("elbo", free_bits=0.1).is_bound


def test_plans():
    assert Objective("iwae", k=3).plan == Plan.iid(3)
    assert Objective("stl", k=4, noise="antithetic").plan == Plan.antithetic(4)
    assert Objective("stl", k=4, noise="sobol").plan == Plan.sobol(4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "adam"}, "no gradient rule 'adam': choose one of elbo, stl"),
        ({"k": 0}, "at least 1, got 0"),
        ({"rule": "vimco"}, "rule 'vimco' needs at least 2 draws per item, got k=1"),
        ({"rule": "rloo"}, "rule 'rloo' needs at least 2 draws"),
        ({"rule": "tvo"}, "rule 'tvo' needs at least 2 draws"),
        ({"rule": "disarm"}, "rule 'disarm' needs at least 2 draws"),
        ({"beta": -1.0}, "must not be negative, got -1.0 and 0.0"),
        ({"free_bits": -0.5}, "must not be negative"),
        ({"noise": "blue"}, "noise is 'random', 'antithetic' or 'sobol', got 'blue'"),
        ({"rule": "dreg", "k": 5, "beta": 2.0}, "use rule 'elbo', got 'dreg'"),
        ({"rule": "disarm", "k": 3}, "k must be even, got 3"),
        ({"rule": "renyi", "k": 3, "alpha": 1.0}, "at alpha=1 is rule 'elbo'"),
        ({"rule": "renyi", "k": 3, "alpha": math.nan}, "alpha"),
        ({"rule": "tvo", "k": 3, "betas": (0.0, 0.5)}, "betas that increase from 0 to 1"),
        ({"rule": "dreg", "k": 4, "noise": "antithetic"}, "rule 'dreg' needs independent draws"),
    ],
)
def test_refusals(fields, message):
    """At construction: not after an hour of loading data."""
    with pytest.raises(UserError, match=message):
        Objective(**fields)
