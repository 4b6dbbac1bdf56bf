"""The sequence oracles of `infimum.testing`, seen one step at a time."""

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from infimum.evidence import Draws
from infimum.testing import HiddenMarkov, LinearGaussianSSM


def choose(log_probs: Tensor, u: Tensor) -> Tensor:
    upper = log_probs.softmax(-1).cumsum(-1)
    return (u[..., None] >= upper / upper[..., -1:]).sum(-1).clamp_max(log_probs.shape[-1] - 1)


class MarkovSteps(nn.Module):
    """HiddenMarkov: states are drawn from the prior chain tempered by ``flat``, or (``guided``) with the next symbol known.

    A state is (z_t, path so far): the second part shows that ancestors are followed through trees of tensors.
    """

    def __init__(self, oracle: HiddenMarkov, *, guided: bool = False, flat: float = 1.0) -> None:
        super().__init__()
        self.oracle, self.guided, self.flat = oracle, guided, flat
        self.paths: Tensor | None = None

    def encode(self, x: Tensor) -> Tensor:
        return x

    def steps(self, s: Tensor) -> int:
        return s.shape[1]

    def _prior(self, before) -> Tensor:
        initial, transition, _ = self.oracle._chain()
        return initial if before is None else transition[before[0]]

    def _proposal(self, s: Tensor, t: int, before) -> Tensor:
        prior = self._prior(before)
        seen = self.oracle.emission.log_softmax(-1).T[s[:, t]] if self.guided else 0.0
        return ((prior + seen) / self.flat).log_softmax(-1)

    def _draw(self, s: Tensor, t: int, before, draws: Draws):
        log_q = self._proposal(s, t, before)
        z = choose(log_q.expand(*draws.shape, -1), draws.uniform("z"))
        path = z[..., None] if before is None else torch.cat((before[1], z[..., None]), -1)
        self.paths = path
        return z, path

    def initial(self, s: Tensor, draws: Draws):
        return self._draw(s, 0, None, draws)

    def transition(self, s: Tensor, t: int, before, draws: Draws):
        return self._draw(s, t, before, draws)

    def log_increment(self, s: Tensor, t: int, before, state) -> Tensor:
        z = state[0][..., None]
        shape = (*state[0].shape, self.oracle.initial.shape[0])
        prior = self._prior(before).log_softmax(-1).expand(shape).gather(-1, z)
        log_q = self._proposal(s, t, before).expand(shape).gather(-1, z)
        seen = self.oracle.emission.log_softmax(-1)[state[0], s[:, t].expand(state[0].shape)]
        return (prior - log_q)[..., 0] + seen


class KalmanSteps(nn.Module):
    """LinearGaussianSSM with the prior's moves as proposal: the bootstrap filter."""

    def __init__(self, oracle: LinearGaussianSSM) -> None:
        super().__init__()
        self.oracle = oracle

    def encode(self, x: Tensor) -> Tensor:
        return x

    def steps(self, s: Tensor) -> int:
        return s.shape[1]

    def _noise(self, draws: Draws, cov: Tensor) -> Tensor:
        return draws.normal("z", cov.shape[0]) @ torch.linalg.cholesky(cov).T

    def initial(self, s: Tensor, draws: Draws) -> Tensor:
        return self.oracle.start_mean + self._noise(draws, self.oracle.start_cov)

    def transition(self, s: Tensor, t: int, before: Tensor, draws: Draws) -> Tensor:
        return before @ self.oracle.transition.T + self._noise(draws, self.oracle.process)

    def log_increment(self, s: Tensor, t: int, before: Tensor | None, state: Tensor) -> Tensor:
        mean = state @ self.oracle.emission.T
        return MultivariateNormal(torch.zeros_like(mean[0, 0]), self.oracle.noise).log_prob(s[:, t] - mean)
