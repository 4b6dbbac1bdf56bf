"""Small models with one set of parameters an item, so that one backward pass gives independent copies of a gradient."""

import itertools
import math

import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn
from torch.distributions import Normal

from infimum.evidence import LatentModel, Plan

close = torch.testing.assert_close


@pytest.fixture
def unchecked():
    """As a user runs it: without the type checker of the tests, which would answer before the sentence does."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def z_score(values: Tensor, truth: float | Tensor = 0.0) -> float:
    """Largest |mean - truth| / stderr; values (N, ...), N independent copies."""
    values, truth = values.detach().double(), torch.as_tensor(truth).detach()
    error = values.std(0) / values.shape[0] ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())


def sd_score(values: Tensor, sd: float, rounding: float = 0.0) -> float:
    """|s.d. - sd| in its own standard errors, from the fourth moment; ``rounding``: half a unit of the quoted digit."""
    values = values.detach().double()
    centred = (values - values.mean(0)).square()
    got = centred.mean().sqrt()
    error = centred.std() / values.shape[0] ** 0.5 / (2 * got)
    return float(((got - sd).abs() - rounding).clamp_min(0) / error)


def draws(k: int | Plan, b: int, seed: int = 0, dtype: torch.dtype = torch.float64):
    plan = Plan.iid(k) if isinstance(k, int) else k
    return plan.draws(torch.arange(b), seed=seed, dtype=dtype)


class LocalNormal(LatentModel):
    """z ~ N(theta, 1), x|z ~ N(z, 1), q = N(mean, exp(log_sd)^2); theta, mean and log_sd are parameters of each item.

    The defaults are the one-dimensional example of 00-bounds 3.2: x = 1.2, q = N(0.1, exp(-0.4)).
    """

    def __init__(self, b: int, theta: float = 0.0, mean: float = 0.1, log_sd: float = -0.2) -> None:
        super().__init__()
        self.theta, self.mean, self.log_sd = (
            nn.Parameter(torch.full((b,), v, dtype=torch.float64)) for v in (theta, mean, log_sd)
        )
        self.x = torch.full((b, 1), 1.2, dtype=torch.float64)
        self.encoded = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded += 1
        return self.mean, self.log_sd.exp()

    def posterior(self, s: tuple[Tensor, Tensor]) -> Normal:
        return Normal(*s, validate_args=False)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(self.theta, 1.0, validate_args=False).log_prob(z) + Normal(z, 1.0, validate_args=False).log_prob(
            x[:, 0]
        )

    def gradients(self) -> Tensor:
        """Ascent direction of each item's own bound, (B, 3)."""
        each = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters()]
        self.zero_grad()
        return -torch.stack(each, -1) * len(self.theta)


class LocalBits(LatentModel):
    """Three bits with a table as joint, f(z) + theta g(z), and independent Bernoulli(sigmoid(logits)) as proposal."""

    D = 3

    def __init__(self, b: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.f, self.g = torch.randn(2, 2**self.D, generator=generator, dtype=torch.float64)
        logits = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
        self.logits = nn.Parameter(logits.repeat(b, 1))
        self.theta = nn.Parameter(torch.full((b,), 0.5, dtype=torch.float64))
        self.x = torch.zeros(b, 1, dtype=torch.float64)
        self.states = (torch.arange(2**self.D)[:, None] >> torch.arange(self.D) & 1).double()

    def encode(self, x: Tensor) -> Tensor:
        return self.logits

    def sample(self, s: Tensor, draws) -> Tensor:
        return (draws.uniform("z", self.D) < s.detach().sigmoid()).double()

    def log_proposal(self, s: Tensor, z: Tensor) -> Tensor:
        return (z * s - nn.functional.softplus(s)).sum(-1)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        index = (z.long() * 2 ** torch.arange(self.D)).sum(-1)
        return self.f[index] + self.theta * self.g[index]

    def pair_score(self, s: Tensor, z: Tensor) -> Tensor:
        return ((z[0::2] - z[1::2]).detach() * s.detach().abs().sigmoid() * s).sum(-1)

    def gradients(self) -> Tensor:
        """(B, 4): theta and the three logits."""
        both = torch.cat((self.theta.grad[:, None], self.logits.grad), -1)
        self.zero_grad()
        return -both * len(self.theta)

    def enumerate(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Over all 2^(3k) tuples of k latents: log q of each (T, k), log joint (T, k), probability (T,); first item."""
        log_q_all = self.log_proposal(self.logits[0], self.states)
        log_joint_all = self.f + self.theta[0] * self.g
        index = torch.tensor(list(itertools.product(range(2**self.D), repeat=k)))
        log_q, log_joint = log_q_all[index], log_joint_all[index]
        return log_q, log_joint, log_q.sum(-1).exp()

    def exact(self, value: Tensor) -> Tensor:
        """Gradient of an enumerated value for (theta, logits) of the first item, (4,)."""
        theta, logits = torch.autograd.grad(value, [self.theta, self.logits], allow_unused=True, retain_graph=True)
        theta = torch.zeros_like(self.theta) if theta is None else theta
        return torch.cat((theta[:1], logits[0]))


def normal_grid(n: int = 201, reach: float = 9.0) -> tuple[Tensor, Tensor]:
    """Points and weights that integrate smooth functions against N(0, 1) to rounding (trapezoidal rule)."""
    e = torch.linspace(-reach, reach, n, dtype=torch.float64)
    w = (-e.square() / 2).exp() / math.sqrt(2 * math.pi) * (e[1] - e[0])
    return e, w
