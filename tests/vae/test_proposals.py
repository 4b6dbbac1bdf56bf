"""Other proposals beside the encoder: weights stay unbiased for the exact evidence."""

import pytest
import torch

from infimum.evidence import Defensive, Plan, weigh
from infimum.vae.proposals import PriorProposal, Stretched, defensive
from vae.vae_cases import Using, draws, linear_vae, z_score

BUILD = {
    "prior": lambda m: Using(m, PriorProposal(m)),
    "stretched": lambda m: Using(m, Stretched(m, 1.7)),
    "defensive": defensive,
    "defensive, prior only": lambda m: Defensive(m, PriorProposal(m)),
}


@pytest.mark.parametrize("plan", [Plan.iid(9000), Plan.stratified(3, replicates=3000)], ids=["iid", "stratified"])
@pytest.mark.parametrize("posterior", ["diagonal", "full", "mixture", "flow"])
@pytest.mark.parametrize("name", BUILD)
def test_weights_are_unbiased(name, posterior, plan):
    """E[w] = p(x) over replicates, |z| < 5.5."""
    model, oracle, x = linear_vae(posterior)
    with torch.no_grad():
        model.encoder[0].weight.mul_(0.2)
        model.encoder[0].bias.mul_(0.2)
        w = weigh(BUILD[name](model), x, draws(0, 4, plan=plan))
        ratio = (w.log_w - oracle.log_evidence(x)).exp().unflatten(0, (-1, plan.block)).mean(1)
    assert float(ratio.std(0).min()) > 0.05
    assert z_score(ratio, 1.0) < 5.5


def test_defensive_weights_are_bounded_by_the_likelihood():
    """With the prior among three proposals, w <= 3 p(x|z) (Owen & Zhou 2000): also for an encoder that is far off."""
    model, _, x = linear_vae("diagonal")
    with torch.no_grad():
        model.encoder[0].bias[2:] = -6.0
        guarded = defensive(model)
        d = draws(500, 4)
        z = guarded.sample(guarded.encode(x), d)
        w = weigh(guarded, x, d).log_w
        limit = model.log_likelihood(x, z) + torch.tensor(3.0).log()
    assert bool((w <= limit + 1e-9).all())
    assert float((weigh(model, x, d).log_w - model.log_likelihood(x, model.sample(model.encode(x), d))).max()) < -5


def test_stretching_moves_draws_away_from_the_centre():
    model, _, x = linear_vae("full")
    d = draws(5, 4)
    wide = Stretched(model, 2.0)
    plain = model.sample(model.encode(x), d)
    centre = model.encode(x)[0]
    torch.testing.assert_close(wide.sample(wide.encode(x), d) - centre, 2 * (plain - centre))
