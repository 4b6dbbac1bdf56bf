"""The VAE against the linear-Gaussian model that it is when it has no hidden layers."""

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Bracket, Plan, elbo, evaluate, iw_eubo, weigh
from infimum.vae import VAE, VAEConfig
from infimum.vae.posteriors import gaussian_divergence
from vae.vae_cases import draws, linear_vae, z_score

close = torch.testing.assert_close
LIMIT = 5.5  # two-sided, 4e-8 a test


def with_exact_encoder() -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """The linear VAE whose encoder is the exact posterior, which is linear in x; items and their exact evidence."""
    model, oracle, x = linear_vae()
    with torch.no_grad():
        b = oracle.bias
        gain = oracle.exact_posterior((b + torch.eye(5)).double()).mean.T  # (2, 5): means of unit deviations
        factor = oracle.exact_posterior(x[:1]).scale_tril[0]
        layer = model.encoder[0]
        layer.weight.zero_()
        layer.weight[:2] = gain
        layer.bias[:2] = -gain @ b
        layer.bias[2:4] = factor.diagonal().log()
        layer.bias[4] = factor[1, 0]
    return model, x, oracle.log_evidence(x)


def test_joint_is_that_of_the_oracle():
    model, oracle, x = linear_vae()
    z = draws(6, 4).normal("any", 2)
    close(model.log_joint(x, z), oracle.log_joint(x, z), rtol=0, atol=1e-10)


def test_weights_are_the_evidence_under_the_exact_encoder():
    """Bayes' rule: with q = p(z|x) every single weight is p(x)."""
    model, x, log_p = with_exact_encoder()
    close(weigh(model, x, draws(5, 4)).log_w, log_p.expand(5, -1), rtol=0, atol=1e-9)
    estimate = evaluate(model.eval(), x, Plan.iid(3))
    close(estimate.value, log_p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("posterior", ["diagonal", "full", "mixture", "flow"])
def test_weights_are_unbiased_for_the_evidence(posterior):
    """E_q[w] = p(x), |z| < 5.5, from encoders at their initialisation, widened so that w has a variance."""
    model, oracle, x = linear_vae(posterior)
    with torch.no_grad():
        model.encoder[0].weight.mul_(0.2)
        model.encoder[0].bias.mul_(0.2)
        ratio = (weigh(model, x, draws(8000, 4)).log_w - oracle.log_evidence(x)).exp()
    assert float(ratio.std(0).min()) > 0.1
    assert z_score(ratio, 1.0) < LIMIT


def test_elbo_is_the_analytic_one_in_expectation():
    """E[log w] = E[log p(x|z)] - KL in closed form: paired draw by draw, |z| < 5.5."""
    model, _, x = linear_vae("diagonal")
    with torch.no_grad():
        s = model.encode(x)
        z = model.sample(s, draws(4000, 4))
        analytic = model.log_likelihood(x, z) - gaussian_divergence(*s).sum(-1)
        log_w = weigh(model, x, draws(4000, 4)).log_w
    assert z_score(log_w - analytic, 0.0) < LIMIT


@pytest.mark.parametrize("posterior", ["diagonal", "full", "mixture", "flow"])
def test_exact_elbo_gradient_vanishes_at_the_optimum_only(posterior):
    """The evidence lies above the ELBO by a divergence: positive unless q is exact."""
    model, oracle, x = linear_vae(posterior)
    with torch.no_grad():
        gap = oracle.log_evidence(x) - elbo(weigh(model, x, draws(2000, 4))).value
    assert float(gap.min()) > 0.05


def test_simulated_latents_give_an_upper_bound():
    """(z, x) from the model: E[exp(-IW-EUBO)] = 1/p(x), and the bracket holds the exact evidence in the mean."""
    model, oracle, _ = linear_vae("diagonal")
    with torch.no_grad():
        model.encoder[0].weight.mul_(0.2)
        model.encoder[0].bias.mul_(0.2)
        z, x = model.simulate(2000, seed=3)
        x, z = x.double(), z.double()
        log_p = oracle.log_evidence(x)
        mixed = weigh(model, x, draws(4, 2000, plan=Plan(replicates=1, levels=4)), latents=z)
        upper, lower = iw_eubo(mixed), evaluate(model.eval(), x, Plan.iid(4))
    assert z_score((log_p - upper.value).exp()[:, None], 1.0) < LIMIT
    gap = Bracket(lower, upper)
    assert float((gap.lower.value - log_p).mean()) < 0 < float((gap.upper.value - log_p).mean())


def test_parts_add_up_and_flat_items_are_the_same():
    torch.manual_seed(0)
    model = VAE(VAEConfig((2, 3), latent=2, hidden=(8,)))
    x = torch.eye(6).reshape(6, 2, 3)
    z = draws(3, 6).normal("any", 2).float()
    close(sum(model.parts(x, z).values()), model.log_joint(x, z))
    assert torch.equal(model.log_joint(x.flatten(1), z), model.log_joint(x, z))
    assert model.generate(draws(3, 4)).shape == (3, 4, 2, 3)
    assert torch.equal(model.generate(draws(3, 4))[:, 1:2], model.generate(draws(3, 1, first=1)))
    assert model.reconstruct(x).shape == x.shape


def test_reconstruction_is_the_mean_at_the_centre():
    model, oracle, x = linear_vae("diagonal")
    mean, _ = model.encode(x)
    close(model.reconstruct(x), mean @ oracle.weight.T + oracle.bias)


def test_sums_stay_in_float32_under_autocast():
    torch.manual_seed(0)
    model = VAE(VAEConfig((16,), latent=2, hidden=(8,)))
    x, z = torch.eye(16), draws(3, 16).normal("any", 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.log_joint(x, z).dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": ()}, "every axis at least 1"),
        ({"shape": (0,)}, "every axis at least 1"),
        ({"latent": 0}, "at least 1, got 0"),
    ],
)
def test_configs_that_build_nothing(fields, message):
    with pytest.raises(UserError, match=message):
        VAEConfig(**({"shape": (4,)} | fields))


def test_items_of_another_shape_are_refused():
    model = VAE(VAEConfig((2, 3), latent=2, hidden=(8,)))
    with pytest.raises(UserError, match=r"expected items of shape \(2, 3\), got \(7,\)"):
        model.encode(torch.zeros(4, 7))
