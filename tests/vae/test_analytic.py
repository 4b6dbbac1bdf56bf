"""The ELBO with its divergence in closed form."""

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, path_terms, weigh
from infimum.testing import check_model
from infimum.vae import VAE, AnalyticKL, Objective, VAEConfig
from vae.vae_cases import draws, linear_vae, z_score


def test_closed_form_and_sampled_divergence_agree():
    """Per item, paired over 4,000 seeds of one draw, |z| < 5.5."""
    model, _, x = linear_vae("diagonal")
    many = x.repeat(4000, 1)
    d = draws(1, 16_000)
    with torch.no_grad():
        analytic = elbo(path_terms(AnalyticKL(model), many, d)).value.unflatten(0, (4000, 4))
        sampled = elbo(weigh(model, many, d)).value.unflatten(0, (4000, 4))
    assert z_score(analytic - sampled, 0.0) < 5.5


def test_it_is_lower_and_uncertified():
    """00-bounds 3.2: lower in expectation, not certified, and no importance weight."""
    model, oracle, x = linear_vae("diagonal")
    estimate = evaluate(AnalyticKL(model.eval()), x, Plan.iid(5000), elbo)
    assert (estimate.side, estimate.certified, estimate.unbiased_for) == ("lower", False, "elbo")
    assert bool((estimate.value - 5 * estimate.stderr < oracle.log_evidence(x).detach()).all())
    assert "in expectation only" in estimate.mean().obstacle


def test_exp_can_exceed_p():
    """Why there is no certificate: z ~ N(0, 1), x | z ~ N(z, 1), x = 3, and q = N(m, s^2) the exact posterior give
    E exp(log p(x|z) - KL) = N(x; m, 1 + s^2) exp(-KL), which is larger than p(x)."""
    x, m, s = torch.tensor(3.0), torch.tensor(1.5), torch.tensor(0.7071)
    kl = 0.5 * (m**2 + s**2 - 1) - s.log()
    inside = torch.distributions.Normal(m, (1 + s**2).sqrt()).log_prob(x) - kl
    log_p = torch.distributions.Normal(0.0, 2**0.5).log_prob(x)
    model = VAE(VAEConfig((1,), "gaussian", latent=1, hidden=())).double()
    with torch.no_grad():
        model.decoder[0].weight.fill_(1.0)
        model.decoder[0].bias.zero_()
        model.encoder[0].weight.copy_(torch.zeros(2, 1))
        model.encoder[0].bias.copy_(torch.stack((m, s.log())))
        d = draws(20_000, 1)
        value = path_terms(AnalyticKL(model), x.double().reshape(1, 1), d)
        exp = (value.value + value.constant).exp()
    assert z_score(exp, inside.double().exp()) < 5.5
    assert float(inside) > float(log_p) + 0.4


def test_it_keeps_the_contract():
    model, _, x = linear_vae("diagonal")
    check_model(AnalyticKL(model.eval()), x, draws=600).raise_if_failed()


def test_objective_analytic_is_the_gradient_of_that_bound():
    model, _, x = linear_vae("diagonal")
    objective = Objective("analytic", k=3)
    d = objective.plan.draws(torch.arange(4), dtype=torch.float64)
    report = objective.backward(model, x, d)
    taken = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    bound = elbo(path_terms(AnalyticKL(model), x, d)).value.mean()
    (-bound).backward()
    for mine, p in zip(taken, model.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)
    assert float(report["elbo"]) == pytest.approx(float(bound.detach()), abs=1e-12)
    assert objective.is_bound


def test_other_posteriors_are_refused():
    model, _, x = linear_vae("full")
    with pytest.raises(UserError, match="closed-form divergence needs posterior 'diagonal', got 'full'"):
        path_terms(AnalyticKL(model), x, draws(1, 4))
