"""One small instance of every oracle, with any proposal."""

import torch

from infimum.testing import (
    BayesianLinearRegression,
    BetaBernoulli,
    DirichletMultinomial,
    GammaPoisson,
    GaussianMixture,
    HiddenMarkov,
    LinearGaussian,
    LinearGaussianSSM,
    MaskedTable,
    QuadratureProduct,
    SigmoidBeliefNet,
    UnrolledMasked,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rand(*shape: int) -> torch.Tensor:
    """The same standard normals for the same shape."""
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


def spd(n: int) -> torch.Tensor:
    """A symmetric positive definite matrix."""
    a = rand(n, n)
    return 0.3 * a @ a.T + 0.5 * torch.eye(n).double()


def joint_table(length: int, vocabulary: int) -> torch.Tensor:
    """A random joint distribution over sequences."""
    return rand(*[vocabulary] * length).flatten().softmax(0).reshape([vocabulary] * length)


CASES = {
    "linear_gaussian": lambda **q: LinearGaussian(rand(4, 2), rand(4), spd(4), **q),
    "ppca": lambda **q: LinearGaussian.ppca(rand(5, 2), 0.4, **q),
    "factor_analysis": lambda **q: LinearGaussian.factor_analysis(rand(5, 2), rand(5).exp(), **q),
    "regression": lambda **q: BayesianLinearRegression(rand(6, 2), 0.5, 2.0, **q),
    "mixture": lambda **q: GaussianMixture(rand(3), 2 * rand(3, 2), torch.stack([spd(2)] * 3), **q),
    "gamma_poisson": lambda **q: GammaPoisson(1.7, 0.8, counts=2, **q),
    "beta_bernoulli": lambda **q: BetaBernoulli(1.5, 2.5, trials=5, **q),
    "dirichlet_multinomial": lambda **q: DirichletMultinomial(torch.tensor([1.5, 0.7, 2.0]), trials=6, **q),
    "belief_net": lambda **q: SigmoidBeliefNet(rand(4), rand(5, 4), rand(5), **q),
    "hidden_markov": lambda **q: HiddenMarkov(rand(3).softmax(0), rand(3, 3).softmax(1), rand(3, 2).softmax(1), **q),
    "ssm": lambda **q: LinearGaussianSSM(0.6 * rand(2, 2), rand(3, 2), spd(2), spd(3), rand(2), spd(2), length=3, **q),
}
INEXACT = {  # their proposal is never the posterior itself
    "quadrature": lambda **q: QuadratureProduct(2, **q),
    "unrolled": lambda **q: UnrolledMasked(MaskedTable.from_joint(joint_table(4, 2), noise=0.5)),
}
