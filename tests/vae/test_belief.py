"""The belief net against enumeration, and every rule for discrete latents against the enumerated gradient."""

import itertools

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Plan, bound_backward, elbo, weigh
from infimum.testing import SigmoidBeliefNet
from infimum.vae import BeliefNet, BeliefNetConfig
from vae.vae_cases import draws, small_net, z_score

BLOCKS = 100


def test_evidence_is_that_of_the_oracle_and_of_brute_force():
    model, x = small_net()
    oracle = SigmoidBeliefNet(model.prior.detach(), model.decoder[0].weight.detach(), model.decoder[0].bias.detach())
    ours = model.log_evidence(x)
    torch.testing.assert_close(ours.value.detach(), oracle.log_evidence(x).detach(), rtol=0, atol=1e-12)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()
    brute = torch.stack([model.log_joint(x, z.expand(1, 2, 2))[0] for z in states]).logsumexp(0)
    torch.testing.assert_close(ours.value, brute, rtol=0, atol=1e-12)
    assert ours.side == "exact"
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    assert float(model.log_evidence(everything).value.exp().sum().detach()) == pytest.approx(1, abs=1e-12)


def test_deep_decoder_normalises():
    torch.manual_seed(1)
    model = BeliefNet(BeliefNetConfig((2, 2), latent=5, hidden=(8,), decoder=(7,))).double()
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double().unflatten(1, (2, 2))
    assert float(model.log_evidence(everything).value.exp().sum().detach()) == pytest.approx(1, abs=1e-12)


def test_weights_are_unbiased_for_the_enumerated_evidence():
    model, x = small_net()
    with torch.no_grad():
        ratio = (weigh(model, x, draws(8000, 2)).log_w - model.log_evidence(x).value).exp()
    assert z_score(ratio, 1.0) < 5.5


def exact_gradient(model: BeliefNet, x: torch.Tensor, rule: str) -> torch.Tensor:
    """Of the mean over items of the ELBO, or of E[L_2] as a sum over all pairs of states; "rws" by its own definition."""
    model.zero_grad()
    if rule in ("rloo", "disarm"):
        (-elbo(model.table(x)).value.mean()).backward()
    else:
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()
        pair = torch.tensor(list(itertools.product(range(4), repeat=2)))  # (16, 2)
        z = states[:, None].expand(-1, len(x), -1)
        log_q = model.log_proposal(model.encode(x), z)[pair]  # (16, 2, B)
        log_joint = model.log_joint(x, z)[pair]
        chance = log_q.sum(1).exp()
        if rule == "vimco":
            bound = (log_joint - log_q).logsumexp(1) - torch.tensor(2.0).log()
            (-(chance * bound).sum(0).mean()).backward()
        else:
            share = (log_joint - log_q).detach().softmax(1)
            (-(chance.detach() * (share * (log_joint + log_q)).sum(1)).sum(0).mean()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("rule", ["rloo", "disarm", "vimco", "rws"])
def test_expected_gradient_is_the_enumerated_one(rule):
    """All 19 parameters over 100 blocks of 200 items, |t| < 6.5 (2e-8 a parameter)."""
    model, x = small_net()
    exact = exact_gradient(model, x, rule)
    many = x.repeat(100, 1)
    plan = Plan.antithetic(2) if rule == "disarm" else Plan.iid(2)
    rows = []
    for block in range(BLOCKS):
        model.zero_grad()
        bound_backward(model, many, draws(2, 200, first=200 * block, plan=plan), rule)
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    each = torch.stack(rows)
    t = (each.mean(0) - exact).abs() / (each.std(0) / BLOCKS**0.5 + 1e-12)
    assert float(exact.abs().min()) > 1e-4  # no parameter is idle
    assert float(t.max()) < 6.5


def test_generation_has_the_enumerated_probabilities():
    """Frequencies of the 8 items, |z| < 5.5."""
    model, _ = small_net()
    x = model.generate(draws(20000, 1))[:, 0].detach()
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    p = model.log_evidence(everything).value.exp().detach()
    seen = (x[:, None] == everything).all(-1).double().mean(0)
    assert float(((seen - p).abs() / (p * (1 - p) / 20000).sqrt()).max()) < 5.5


def test_simulated_latents_are_posterior_draws():
    """E[z | x] of simulated pairs against the enumerated posterior, item by item, |z| < 5.5."""
    model, _ = small_net()
    z, x = model.simulate(20000, seed=1)
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()
    post = model.log_joint(everything, states[:, None].expand(-1, 8, -1)).softmax(0).detach()
    for item, p in zip(everything, post.T, strict=True):
        mine = z[0][(x == item).all(-1)]
        assert z_score(mine, p @ states) < 5.5


def test_reconstruction_is_the_mean_at_the_most_probable_latent():
    model, x = small_net()
    z = (model.encode(x) > 0).double()
    torch.testing.assert_close(model.reconstruct(x), model.decoder(z).sigmoid())


def test_refusals():
    model = BeliefNet(BeliefNetConfig((3,), latent=17, hidden=()))
    with pytest.raises(UserError, match=r"17 binary latents have 2\^17 states: at most 16 are enumerated"):
        model.log_evidence(torch.zeros(1, 3))
    with pytest.raises(UserError, match=r"expected items of shape \(3,\), got \(4,\)"):
        model.encode(torch.zeros(1, 4))
    with pytest.raises(UserError, match="must be at least 1"):
        BeliefNetConfig((3,), latent=0)


def test_posterior_draws_are_exact_and_bracket_the_evidence():
    """chi-square of posterior draws against the enumerated posterior (false alarm 1e-6), and an upper bound from them."""
    from scipy.stats import chi2

    from infimum.evidence import iw_eubo, weigh

    model, x = small_net()
    plan = Plan.iid(20_000)
    z = model.posterior_sample(x, plan.draws(torch.arange(2), dtype=torch.float64))
    with torch.no_grad():
        table = model.table(x)
    posterior = table.log_joint.softmax(0)
    code = (z[..., 0] + 2 * z[..., 1]).long()
    counts = torch.stack([(code == c).sum(0) for c in range(4)]).double()
    statistic = ((counts - 20_000 * posterior).square() / (20_000 * posterior)).sum(0)
    assert float(statistic.max()) < chi2.ppf(1 - 1e-6, 3)

    exact = model.log_evidence(x).value.detach()
    many = x.repeat(5000, 1)
    first = model.posterior_sample(many, Plan.iid(1).draws(torch.arange(10_000), seed=1, dtype=torch.float64))
    with torch.no_grad():
        upper = iw_eubo(
            weigh(model, many, Plan(levels=4).draws(torch.arange(10_000), dtype=torch.float64), latents=first)
        )
    assert z_score((exact.repeat(5000) - upper.value).exp().unflatten(0, (5000, 2)), 1.0) < 5.5
