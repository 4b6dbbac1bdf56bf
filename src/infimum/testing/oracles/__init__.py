"""Models whose evidence, posterior and bounds are known exactly."""

from infimum.testing.oracles.base import Oracle
from infimum.testing.oracles.belief_net import SigmoidBeliefNet
from infimum.testing.oracles.conjugate import BetaBernoulli, DirichletMultinomial, GammaPoisson
from infimum.testing.oracles.exact_bounds import ExactBounds, exact_bounds, gaussian_power_moment
from infimum.testing.oracles.fixtures import gamma2_example, one_dimensional
from infimum.testing.oracles.gaussian import BayesianLinearRegression, LinearGaussian
from infimum.testing.oracles.masked import MaskedTable, TinyMasked, UnrolledMasked
from infimum.testing.oracles.mixture import GaussianMixture
from infimum.testing.oracles.quadrature import QuadratureProduct
from infimum.testing.oracles.state_space import HiddenMarkov, LinearGaussianSSM

__all__ = [
    "BayesianLinearRegression",
    "BetaBernoulli",
    "DirichletMultinomial",
    "ExactBounds",
    "GammaPoisson",
    "GaussianMixture",
    "HiddenMarkov",
    "LinearGaussian",
    "LinearGaussianSSM",
    "MaskedTable",
    "Oracle",
    "QuadratureProduct",
    "SigmoidBeliefNet",
    "TinyMasked",
    "UnrolledMasked",
    "exact_bounds",
    "gamma2_example",
    "gaussian_power_moment",
    "one_dimensional",
]
