"""A pyro guide trained by SVI: its evidence bracketed, and held against the closed form."""

import pytest
import torch

from conformance.support import SIGMAS, assert_truth_inside, example
from infimum.testing import check_model

pyro_guide = example("pyro_guide")


@pytest.fixture(scope="module")
def model():
    return pyro_guide.trained()


def test_svi_has_trained_it(model):
    """Fresh items have a higher exact evidence than under the same model before its first step (5 standard errors)."""
    x = pyro_guide.data(500, seed=1).double()
    with torch.no_grad():
        gain = pyro_guide.exact(model).log_evidence(x) - pyro_guide.exact(pyro_guide.trained(steps=0)).log_evidence(x)
    assert gain.mean() > SIGMAS * gain.std() / len(gain) ** 0.5


def test_the_wrap_keeps_the_contract(model):
    report = check_model(model, model.simulate(5)[1])
    report.raise_if_failed()
    assert report["joint"].passed
    assert report["simulated latents"].passed


def test_the_bracket_holds_the_exact_evidence(model):
    found, truth = pyro_guide.bracket(model, items=1000, draws=200)
    assert_truth_inside(found, truth)


class WithoutPrior(pyro_guide.PyroModel):
    """The fault that a hand-written wrap has most often."""

    def log_joint(self, x, z):
        return super().log_joint(x, z) - torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def test_a_wrap_without_the_prior_is_caught(model):
    wrong = WithoutPrior(model.pair).eval()
    assert check_model(wrong, model.simulate(5)[1])["joint"].passed is False
    with pytest.raises(AssertionError):
        assert_truth_inside(*pyro_guide.bracket(wrong, items=1000, draws=200))


def test_the_example_runs(model, capsys, monkeypatch):
    monkeypatch.setattr(pyro_guide, "trained", lambda: model)
    pyro_guide.main()
    assert "0 failed" in capsys.readouterr().out
