"""What annealing and particles cannot work with is refused in words, not by an error of Python's or torch's."""

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.evidence import LatentModel, Plan, ais, bdmc, hmc, linear_betas, tune
from infimum.testing import one_dimensional

BETAS = linear_betas(4)


def model_and_items(n: int = 6):
    model, _ = one_dimensional()
    model = model.eval()
    z, x = model.simulate(n, seed=0)
    return model, z, x


def draws(k: int, b: int):
    return Plan.iid(k).draws(torch.arange(b))


def test_rows():
    model, _, x = model_and_items()
    with pytest.raises(UserError, match="at least 1, got 0"):
        ais(model, x, draws(3, 6), BETAS, hmc(), rows=0)


def test_items_and_draws_that_do_not_fit():
    model, z, x = model_and_items()
    with pytest.raises(UserError, match="6 items and the draws are for 5"):
        ais(model, x, draws(3, 5), BETAS, hmc())
    with pytest.raises(UserError, match="at least 1 item"):
        bdmc(model, (z[:, :0], x[:0]))
    with pytest.raises(UserError, match="at least 1 item"):
        tune(model, x[:0], draws(3, 0), BETAS, hmc())
    with pytest.raises(UserError, match="items=0"):
        tune(model, x, draws(3, 6), BETAS, hmc(), items=0)


class Dropped(LatentModel):
    """The same model behind a dropout layer in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = one_dimensional()[0], nn.Dropout(0.5)

    def encode(self, x):
        return self.inner.encode(x)

    def sample(self, s, d):
        return self.inner.sample(s, d)

    def log_proposal(self, s, z):
        return self.inner.log_proposal(s, z)

    def log_joint(self, x, z):
        return self.inner.log_joint(x, self.drop(z))


def test_random_layers():
    """A random density has no invariant kernel: nothing certified may come of it."""
    _, _, x = model_and_items()
    model = Dropped().train()
    for call in (
        lambda: ais(model, x, draws(3, 6), BETAS, hmc()),
        lambda: tune(model, x, draws(3, 6), BETAS, hmc()),
    ):
        with pytest.raises(UserError, match=r"train mode \(drop\)"):
            call()
