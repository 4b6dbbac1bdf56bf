"""What torch.distributions lacks; importing this room also teaches `evidence.draw` these families."""

from infimum.distributions import flows, keyed
from infimum.distributions.gamma import gamma_icdf
from infimum.distributions.logistic import DiscretizedLogistic
from infimum.distributions.mixture import DiagonalMixture
from infimum.distributions.vmf import HypersphericalUniform, VonMisesFisher

__all__ = [
    "DiagonalMixture",
    "DiscretizedLogistic",
    "HypersphericalUniform",
    "VonMisesFisher",
    "flows",
    "gamma_icdf",
    "keyed",
]
