"""A pythae VAE trained by pythae's trainer: agreement with its own get_nll, and truth where the decoder is linear."""

import logging

import pytest
import torch
from torch import nn

from conformance.support import SIGMAS, assert_truth_inside, example, z_between, z_of_mean_one
from infimum.data import load
from infimum.evidence import Bracket, Plan, evaluate, iw_eubo, iwae
from infimum.testing import LinearGaussian, check_model

pythae_vae = example("pythae_vae")

from pythae.models import VAE, VAEConfig  # noqa: E402
from pythae.models.base.base_utils import ModelOutput  # noqa: E402
from pythae.models.nn import BaseDecoder  # noqa: E402

DIMS, LATENT, ITEMS = 5, 2, 300


class Linear(BaseDecoder):
    """A linear decoder: with pythae's "mse" (unit variance) the evidence is a Gaussian density."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(LATENT, DIMS)

    def forward(self, z):
        return ModelOutput(reconstruction=self.layer(z))


@pytest.fixture(scope="module")
def digits():
    return pythae_vae.digits_vae()


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(DIMS,), latent_dim=LATENT, reconstruction_loss="mse")
    x = torch.randn(640, LATENT) @ torch.randn(LATENT, DIMS) + torch.randn(640, DIMS)
    return pythae_vae.train(VAE(config, decoder=Linear()), x, epochs=20)


def truth_of(linear, x):
    layer = linear.vae.decoder.layer
    oracle = LinearGaussian(layer.weight, layer.bias, torch.ones(DIMS))
    return oracle.log_evidence(x.double()).detach()


def test_the_wrap_keeps_the_contract(digits, linear):
    check_model(digits, load("digits").test[:5]).raise_if_failed()
    report = check_model(linear, linear.simulate(5)[1])
    report.raise_if_failed()
    assert report["joint"].passed


def test_the_bracket_holds_the_exact_evidence(linear):
    z, x = linear.simulate(1000, 1)
    lower = evaluate(linear, x, Plan.iid(200), iwae)
    upper = evaluate(linear, x, Plan(levels=200), iw_eubo, seed=1, latents=z)
    assert_truth_inside(Bracket(lower, upper), truth_of(linear, x))


def test_its_get_nll_is_unbiased_for_the_exact_evidence(linear):
    """get_nll is right about p(x): E exp(get_nll) = p(x), item by item (5 standard errors)."""
    _, x = linear.simulate(ITEMS, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        own = torch.tensor([linear.vae.get_nll(item[None], 200, 200) for item in x])
    assert z_of_mean_one(own - truth_of(linear, x)) < SIGMAS


def test_agrees_with_get_nll_on_digits(digits):
    """At the same K the two estimates have one distribution: their means over seeds agree (|t| < 5, 18 degrees: 1 in 10,000)."""
    x, keys = load("digits").test[:20], load("digits").test_ids[:20]
    ours = [evaluate(digits, x, Plan.iid(300), iwae, keys=keys, seed=s).mean().value for s in range(10)]
    theirs = []
    for seed in range(10):
        torch.manual_seed(seed)
        with torch.no_grad():
            theirs.append(float(digits.vae.get_nll(x, 300, 300)))
    assert z_between(ours, theirs) < SIGMAS
    # A comparison that saw no error of a tenth of a nat would show nothing.
    assert z_between([value + 0.1 for value in ours], theirs) > SIGMAS


@pytest.mark.parametrize(("asked", "used"), [(1, 100), (50, 100), (250, 200)])
def test_get_nll_does_not_use_the_draws_it_is_asked_for(digits, asked, used):
    rows = []
    hook = digits.vae.decoder.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    digits.vae.get_nll(load("digits").test[:1], asked)
    hook.remove()
    assert sum(rows) == used


def test_the_example_runs(digits, capsys, monkeypatch):
    monkeypatch.setattr(pythae_vae, "digits_vae", lambda: digits)
    pythae_vae.main()
    logging.disable(logging.NOTSET)
    assert "0 failed" in capsys.readouterr().out
