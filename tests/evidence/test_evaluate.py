"""`evaluate` and defensive proposals."""

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.evidence import Defensive, Plan, elbo, evaluate, iwae
from infimum.testing import LinearGaussian, MaskedTable, TinyMasked


def world(**proposal: float) -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian(torch.randn(6, 3), torch.zeros(6), torch.full((6,), 0.5), **proposal).eval()


def test_batch_rows_and_order_change_nothing() -> None:
    """T14: an item's estimate depends on (seed, key, draw) alone."""
    model = world(shift=0.5)
    x = model.simulate(23, seed=1)[1]
    keys = torch.arange(100, 123)
    base = evaluate(model, x, Plan.iid(50), keys=keys)
    for options in ({"batch": 1}, {"batch": 7}, {"rows": 13}, {"rows": 5, "batch": 9}):
        again = evaluate(model, x, Plan.iid(50), keys=keys, **options)
        assert torch.allclose(again.value, base.value, rtol=0, atol=1e-12)
    turn = torch.randperm(23)
    turned = evaluate(model, x[turn], Plan.iid(50), keys=keys[turn])
    assert torch.allclose(turned.value, base.value[turn], rtol=0, atol=1e-12)
    assert torch.equal(turned.keys, keys[turn])


def test_several_bounds_share_one_table() -> None:
    model = world(shift=0.5)
    x = model.simulate(5, seed=1)[1]
    lower, tight = evaluate(model, x, Plan.iid(50), [elbo, iwae])
    assert bool((lower.value <= tight.value).all())
    assert torch.equal(tight.value, evaluate(model, x, Plan.iid(50), iwae).value)


def test_path_models_are_evaluated_by_their_terms() -> None:
    table = MaskedTable.fixture()
    x = torch.zeros(1, table.length, dtype=torch.long)
    model = TinyMasked(table).eval()
    estimate = evaluate(model, x, Plan.iid(4000), elbo)
    assert estimate.side == "lower"
    assert not estimate.certified
    z = (estimate.value - table.elbo(x).detach()) / estimate.stderr
    assert abs(float(z)) < 5  # false alarm 6e-7


def test_refusals() -> None:
    model = world()
    x = model.simulate(4, seed=0)[1]
    with pytest.raises(UserError, match="empty"):
        evaluate(model, x[:0])
    with pytest.raises(UserError, match="one key for each of 4 items"):
        evaluate(model, x, keys=torch.arange(3))
    with pytest.raises(UserError, match=r"plan\.spread must be 1"):
        evaluate(model, x, Plan(replicates=4, spread=2))
    model.dropout = nn.Dropout()
    with pytest.raises(UserError, match=r"train mode.*model\.eval"):
        evaluate(model, x)


def test_defensive_weights_are_unbiased() -> None:
    """E[p^ / p] = 1 for (q + q') / 2 with a bad q: 400 items x 200 draws, 5 standard errors (false alarm 6e-7).

    The weights are bounded (q' is wider than the posterior in every direction), so the test's variance exists.
    """
    model = Defensive(world(shift=1.5, stretch=0.5), world(stretch=1.5)).eval()
    x = world().simulate(400, seed=1)[1]
    ratio = (evaluate(model, x, Plan.iid(200)).value - world().log_evidence(x).detach()).exp()
    assert abs(float((ratio.mean() - 1) / (ratio.std() / 20))) < 5


def test_defensive_mixture_of_three_is_tighter_than_its_bad_part() -> None:
    bad, wide, prior = world(shift=2.0, stretch=0.4), world(stretch=1.4), world()
    x = world().simulate(50, seed=1)[1]
    exact = float(world().log_evidence(x).detach().mean())
    alone = evaluate(bad, x, Plan.iid(300)).mean().value
    shared = evaluate(Defensive(bad, wide, prior).eval(), x, Plan.iid(300)).mean()
    assert exact - shared.value < 0.2 * (exact - alone)
    assert shared.certificate is not None
    assert shared.certificate < exact


def test_defensive_draws_share_out_evenly_under_a_stratified_lead() -> None:
    model = Defensive(world(shift=50.0), world(shift=-50.0)).eval()
    x = world().simulate(3, seed=1)[1]
    draws = Plan.stratified(10).draws(torch.arange(3), dtype=torch.float64)
    z = model.sample(model.encode(x), draws)
    near = (z - world(shift=50.0).posterior(world(shift=50.0).encode(x)).mean).norm(dim=-1) < 20
    assert torch.equal(near.sum(0), torch.full((3,), 5))


def test_nested_defensive_draws_share_out_evenly() -> None:
    """((q1 + q2) / 2 + q3) / 2 under eight strata of the lead: two, two and four draws."""
    centres = (-60.0, 0.0, 60.0)
    inner = Defensive(world(shift=centres[0]), world(shift=centres[1]))
    model = Defensive(inner, world(shift=centres[2])).eval()
    x = world().simulate(3, seed=1)[1]
    z = model.sample(model.encode(x), Plan.stratified(8).draws(torch.arange(3), dtype=torch.float64))
    for centre, count in zip(centres, (2, 2, 4), strict=True):
        own = world(shift=centre)
        near = (z - own.posterior(own.encode(x)).mean).norm(dim=-1) < 20
        assert torch.equal(near.sum(0), torch.full((3,), count))


def test_defensive_needs_a_second_proposal() -> None:
    with pytest.raises(UserError, match="at least one further proposal"):
        Defensive(world())
