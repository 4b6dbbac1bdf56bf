"""The ELBO of a diffusion model against closed forms, enumeration and quadrature (03 section 6)."""

import math

import pytest
import torch

from diffusion.worlds import HIGH, LOW, P, enumerable, gaussian, quadrature
from infimum.diffusion import DiffusionConfig, GaussianDiffusion, schedule_of
from infimum.diffusion.decoder import DiscreteDecoder
from infimum.diffusion.heads import HEADS
from infimum.diffusion.schedules import FixedSchedule
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate


def mean_and_error(values):
    return float(values.mean()), float(values.std() / len(values.flatten()) ** 0.5)


@pytest.mark.parametrize("head", HEADS)
def test_gaussian_data_have_a_closed_form(head):
    """L_diff = 1/2 log((1 + s^2 e^high) / (1 + s^2 e^low)) = 6.151631, whatever the head predicts (|z| < 5, 40,000 draws)."""
    model = gaussian(head=head)
    x = 0.37**0.5 * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = 0.5 * math.log((1 + 0.37 * math.exp(HIGH)) / (1 + 0.37 * math.exp(LOW)))
    assert exact == pytest.approx(6.151631, abs=1e-6)
    draws = Plan.iid(1).draws(torch.arange(40_000), dtype=torch.float64)
    value, error = mean_and_error(model.diffusion(model.encode(x), draws))
    assert abs(value - exact) < 5 * error


def test_the_bound_of_gaussian_data_is_their_density():
    """The whole bound against the exact log-density of x under the smoothed data: the gap closes with the ends."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    model = gaussian(low=-14.0, high=14.0)
    got = evaluate(model, x, Plan.stratified(256, replicates=64), elbo)
    exact = torch.distributions.Normal(0.0, torch.tensor(0.37 + math.exp(-14)).double().sqrt()).log_prob(x[:, 0])
    assert bool(((got.value - exact).abs() < 5 * got.stderr + 2e-3).all())
    assert got.side == "lower"


@pytest.mark.parametrize(
    ("low", "high", "diffusion", "reconstruction", "total"),
    [(-5, 13.3, 1.839714, 0.0, 1.841003), (-10, 13.3, None, None, 1.840949), (-5, 6, 1.817126, 0.027562, 1.845977),
     (-3, 3, None, None, 2.016102)],
)  # fmt: skip
def test_enumerable_data_have_the_entropy(low, high, diffusion, reconstruction, total):
    """Quadrature over time and noise of the very terms of the model; H = 1.840948 nats is never undercut."""
    model = enumerable(low, high)
    parts = quadrature(model)
    if diffusion is not None:
        assert parts["diffusion"] == pytest.approx(diffusion, abs=2e-6)
        assert parts["reconstruction"] == pytest.approx(reconstruction, abs=2e-6)
        assert parts["prior"] == pytest.approx(0.001289, abs=2e-6)
    assert sum(parts.values()) == pytest.approx(total, abs=3e-6)
    assert sum(parts.values()) > float(-(P * P.log()).sum()) == pytest.approx(1.840948, abs=1e-6)


@pytest.mark.parametrize(("depth", "loss"), [(16, 3.440702), (32, 2.482608), (64, 2.129899), (256, 1.907110)])
def test_more_steps_cost_less(depth, loss):
    assert quadrature(enumerable(depth=depth))["diffusion"] == pytest.approx(loss, abs=2e-6)


@pytest.mark.parametrize("schedule", ["cosine", "flow", "edm", "velocity", "monotone", "adaptive", "learned"])
def test_the_bound_does_not_know_the_schedule(schedule):
    """Only its ends: equal means (|z| < 5 on 2,000 replicates), by independent draws."""
    x = torch.multinomial(P, 200, replacement=True, generator=torch.Generator().manual_seed(1)).double()[:, None]
    linear, other = enumerable(-5.0, 8.0), enumerable(-5.0, 8.0, schedule=schedule)
    plan = Plan.stratified(16, replicates=10)
    a = evaluate(linear, x, plan, elbo)
    b = evaluate(other, x, plan, elbo, seed=1)
    gap = (a.value - b.value).mean()
    error = (a.stderr.square().sum() + b.stderr.square().sum()).sqrt() / 200
    assert abs(float(gap)) < 5 * float(error)


@pytest.mark.parametrize(
    ("levels", "high", "bits"),
    [(256, 13.3, 0.010453), (256, 12.0, 0.418), (256, 10.0, 1.834), (17, 8.0, 0.00548), (17, 7.0, 0.196)],
)
def test_constants_of_the_decoder(levels, high, bits):
    """Bits a dimension of interior levels, by Gauss-Hermite."""
    import numpy as np

    at, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(160))
    decoder, x = DiscreteDecoder(levels), torch.full((1, 1), float(levels // 2), dtype=torch.float64)
    clean = decoder.scaled(x) + math.exp(-high / 2) * at[:, None, None]
    value = -float(weight / weight.sum() @ decoder.log_prob(x, clean, torch.tensor(high).double())[:, 0]) / math.log(2)
    assert value == pytest.approx(bits, rel=2e-3)


@pytest.mark.parametrize(("levels", "high"), [(2, -3.0), (17, -5.0), (17, 3.0), (17, 7.0), (256, 4.0), (256, 13.3)])
def test_the_decoder_is_a_softmax_over_levels(levels, high, monkeypatch):
    """Against the formula, in one go and in parts, values and gradients, also of latents far outside of the levels."""
    g = torch.Generator().manual_seed(2)
    decoder, high = DiscreteDecoder(levels), torch.tensor(high).double().requires_grad_()
    x = torch.randint(0, levels, (3, 5), generator=g).double()
    noise = torch.randn(4, 3, 5, generator=g, dtype=torch.float64)
    clean = (decoder.scaled(x) + noise * torch.tensor([0.002, 0.1, 1.0, 5.0]).double()[:, None, None]).requires_grad_()
    f = decoder.scaled(torch.arange(levels).double())
    logits = -0.5 * high.exp() * (clean[..., None] - f) ** 2
    want = logits.log_softmax(-1).gather(-1, x.long().expand(4, 3, 5)[..., None])[..., 0].sum(-1)
    gradients = torch.autograd.grad(want.sum(), (clean, high))
    for largest in (2**24, 100):
        monkeypatch.setattr("infimum.diffusion.decoder.LARGEST", largest)
        got = decoder.log_prob(x, clean, high)
        torch.testing.assert_close(got, want)
        for one, other in zip(torch.autograd.grad(got.sum(), (clean, high)), gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-6)
    assert torch.equal(decoder.decode(decoder.scaled(x)), x)


@pytest.mark.parametrize(("square", "bits"), [(1.0, 0.004844), (1 / 3, 0.001626)])
def test_constants_of_the_prior(square, bits):
    model = gaussian(low=-5.0)
    f = torch.tensor([[square**0.5]], dtype=torch.float64)
    assert float(model.prior(f)) / math.log(2) == pytest.approx(bits, abs=1e-6)


def test_refusals():
    config = DiffusionConfig((2,), levels=17, high=8.0)
    model = GaussianDiffusion(config).eval()
    with pytest.raises(UserError, match=r"expected integers 0 \.\. 16, got numbers from 0 to 0\.5"):
        model.encode(torch.tensor([[0.0, 0.5]]))
    with pytest.raises(UserError, match="got numbers from 0 to 17"):
        model.encode(torch.tensor([[0.0, 17.0]]))
    with pytest.raises(UserError, match=r"expected items of shape \(2,\), got \(3,\)"):
        model.encode(torch.zeros(1, 3))
    for bad, words in (
        ({"depth": 0}, "at least 1 step"),
        ({"octaves": 2}, "none for continuous data"),
        ({"schedule": "sine"}, "no schedule"),
        ({"network": "dit"}, "is for images"),
        ({"network": "dit", "shape": (1, 6, 5)}, "patch 2 needs sides that 2 divides"),
        (
            {"network": "adm", "shape": (1, 6, 4), "halvings": 2},
            "with 2 halvings and patch 2 needs sides that 4 divides",
        ),
        ({"network": "dit", "shape": (1, 6, 4), "patch": 0}, "change halvings or patch"),
        ({"shape": ()}, "positive sizes"),
        ({"low": 9.0, "high": 2.0}, "the first above"),
    ):
        with pytest.raises(UserError, match=words):
            DiffusionConfig(**{"shape": (2,), **bad})
    with pytest.raises(UserError, match="at least 2 levels"):
        DiscreteDecoder(1)
    assert isinstance(schedule_of("edm", -5, 5), FixedSchedule)
