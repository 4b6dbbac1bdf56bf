"""The bridge test of densities: on what is known to be normalised, and on what is known not to be."""

import pytest
import torch
from torch.distributions import Categorical, Dirichlet, Independent, MixtureSameFamily, Normal, Poisson

from infimum.testing.conformance.bridge import check_density
from infimum.testing.conformance.report import Failed, Skipped

ONE, LEVEL = torch.ones(2).double(), 1e-7
DENSITIES = {
    "normal": Normal(2 * ONE, 0.3 * ONE),
    "two far modes": MixtureSameFamily(
        Categorical(torch.ones(2, 2).double()), Normal(torch.tensor([[-4.0, 4.0]] * 2).double(), 0.5)
    ),
    "six dimensions": Independent(Normal(torch.zeros(2, 6).double(), torch.arange(1, 7).double()), 1),
    "simplex": Dirichlet(torch.tensor([[0.5, 2.0, 3.0]] * 2).double()),
    "counts": Poisson(3 * ONE),
}


def check(density, offset=0.0, wider=1.0, n=4000):
    torch.manual_seed(0)
    z = density.sample((n,))
    return check_density(lambda z: density.log_prob(z * wider) + offset, z, LEVEL, 0, "q", "mend it")


@pytest.mark.parametrize("name", DENSITIES)
def test_normalised_densities_pass(name):
    assert check(DENSITIES[name]).startswith("integrates to exp(")


@pytest.mark.parametrize("offset", [-5000.0, -0.3, 0.3, 5000.0])
@pytest.mark.parametrize("name", DENSITIES)
def test_a_factor_is_found_and_told(name, offset):
    """The message says by how much, to 0.1 nats."""
    with pytest.raises(Failed, match=r"divided by exp\(") as caught:
        check(DENSITIES[name], offset)
    told = float(str(caught.value).split("exp(")[1].split(")")[0])
    assert told == pytest.approx(offset, abs=0.1 if abs(offset) < 1 else 5)


def test_a_normalised_density_of_other_draws_is_found():
    """Normalised, but of draws that are 1.2 times as wide."""
    normal = Normal(0 * ONE, ONE)
    torch.manual_seed(0)
    with pytest.raises(Failed):
        check_density(normal.log_prob, 1.2 * normal.sample((4000,)), LEVEL, 0, "q", "mend it")


def test_what_cannot_be_told_is_not_judged():
    """64 fair bits: no row is seen twice, and no reference meets them."""
    bits = torch.randint(0, 2, (2000, 1, 64), generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(Skipped, match="too far from every reference"):
        check_density(lambda z: torch.full(z.shape[:2], -64 * 0.6931), bits, LEVEL, 0, "q", "mend it")
