"""Sequence models with exact filters: hidden Markov and linear-Gaussian state space."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import MultivariateNormal

from infimum.evidence.draws import Draws
from infimum.testing.oracles.base import Oracle, Start, double, inverse_cdf, parameter
from infimum.testing.oracles.mixture import temper

__all__ = ["HiddenMarkov", "LinearGaussianSSM"]

Chain = tuple[Float[Tensor, "B S"], Float[Tensor, "B moves S S"]]  # log q(z_1), log q(z_t | z_{t-1})


class HiddenMarkov(Oracle):
    """A Markov chain of S states seen through emissions over V symbols. x (B, T) and z (K, B, T), int64.

    log p(x) by the forward algorithm (Rabiner 1989). Proposals are Markov chains over z: the exact posterior chain
    p(z_t | z_{t-1}, x_{t..T}) or the prior chain; distorted: log-probabilities / stretch + shift x standardised state.

    Args:
        initial: probabilities of z_1, (S,).
        transition: rows p(z_t | z_{t-1}), (S, S).
        emission: rows p(x_t | z_t), (S, V).
        length: T of a simulated item.
    """

    def __init__(
        self,
        initial: Float[Tensor, "S"],
        transition: Float[Tensor, "S S"],
        emission: Float[Tensor, "S V"],
        length: int = 4,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.length = length
        self.initial, self.transition = parameter(initial.log()), parameter(transition.log())
        self.emission = parameter(emission.log())

    def _chain(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (the parameters are logits)."""
        return self.initial.log_softmax(-1), self.transition.log_softmax(-1), self.emission.log_softmax(-1)

    def log_evidence(self, x: Int[Tensor, "B T"]) -> Float[Tensor, "B"]:
        initial, transition, emission = self._chain()
        seen = emission.T[x]  # (B, T, S)
        forward = initial + seen[:, 0]
        for t in range(1, x.shape[1]):
            forward = (forward.unsqueeze(-1) + transition).logsumexp(-2) + seen[:, t]
        return forward.logsumexp(-1)

    def _posterior_chain(self, x: Int[Tensor, "B T"]) -> Chain:
        initial, transition, emission = self._chain()
        seen = emission.T[x]
        ahead = [seen[:, -1]]  # log p(x_t..x_T | z_t), built from the end
        for t in range(x.shape[1] - 2, -1, -1):
            ahead.append(seen[:, t] + (transition + ahead[-1].unsqueeze(-2)).logsumexp(-1))
        messages = torch.stack(ahead[::-1], 1)
        steps = transition + messages[:, 1:].unsqueeze(-2)
        return (initial + messages[:, 0]).log_softmax(-1), steps.log_softmax(-1)

    def marginals(self, x: Int[Tensor, "B T"]) -> Float[Tensor, "B T S"]:
        """Smoothed p(z_t | x)."""
        first, steps = self._posterior_chain(x)
        out = [first]
        for t in range(steps.shape[1]):
            out.append((out[-1].unsqueeze(-1) + steps[:, t]).logsumexp(-2))
        return torch.stack(out, 1).exp()

    def encode(self, x: Int[Tensor, "B T"]) -> Chain:
        if self.proposal == "posterior":
            first, steps = self._posterior_chain(x)
        else:
            initial, transition, _ = self._chain()
            first = initial.expand(x.shape[0], -1)
            steps = transition.expand(x.shape[0], x.shape[1] - 1, -1, -1)
        score = torch.arange(self.initial.shape[0]).double()
        return temper(first, score, self.shift, self.stretch), temper(steps, score, self.shift, self.stretch)

    def _walk(self, chain: Chain, u: Float[Tensor, "K B T"]) -> Int[Tensor, "K B T"]:
        first, steps = chain
        path = [inverse_cdf(first.expand(*u.shape[:2], -1), u[..., 0])]
        item = torch.arange(u.shape[1])
        for t in range(steps.shape[1]):
            path.append(inverse_cdf(steps[item, t, path[-1]], u[..., t + 1]))
        return torch.stack(path, -1)

    def sample(self, s: Chain, draws: Draws) -> Int[Tensor, "K B T"]:
        return self._walk(s, double(draws).uniform("z", s[1].shape[1] + 1))

    def log_proposal(self, s: Chain, z: Int[Tensor, "K B T"]) -> Float[Tensor, "K B"]:
        first, steps = s
        item, time = torch.arange(z.shape[1]), torch.arange(steps.shape[1])
        moves = steps[item[:, None], time, z[..., :-1], z[..., 1:]]
        return first[item, z[..., 0]] + moves.sum(-1)

    def log_joint(self, x: Int[Tensor, "B T"], z: Int[Tensor, "K B T"]) -> Float[Tensor, "K B"]:
        initial, transition, emission = self._chain()
        moves = transition[z[..., :-1], z[..., 1:]].sum(-1)
        return initial[z[..., 0]] + moves + emission[z, x.expand(z.shape)].sum(-1)

    def posterior_sample(self, x: Int[Tensor, "B T"], draws: Draws) -> Int[Tensor, "K B T"]:
        return self._walk(self._posterior_chain(x), double(draws).uniform("posterior", x.shape[1]))

    def _ancestral(self, draws: Draws) -> tuple[Int[Tensor, "K B T"], Int[Tensor, "K B T"]]:
        initial, transition, emission = self._chain()
        b, t = draws.shape[1], self.length
        chain = initial.expand(b, -1), transition.expand(b, t - 1, -1, -1)
        z = self._walk(chain, double(draws).uniform("prior", t))
        return z, inverse_cdf(emission[z], double(draws).uniform("x", t))


class LinearGaussianSSM(Oracle):
    """z_1 ~ N(m0, P0), z_t ~ N(A z_{t-1}, Q), x_t ~ N(C z_t, R). x (B, T, P), z (K, B, T, D).

    log p(x) by the Kalman filter; the posterior of the whole path is one Gaussian with a block-tridiagonal
    precision. Proposals: that Gaussian or the prior path, with every coordinate's mean moved by `shift` of its
    standard deviations and the covariance multiplied by stretch^2.

    Args:
        transition: A, (D, D).
        emission: C, (P, D).
        process: Q, (D, D).
        noise: R, (P, P).
        start_mean: m0, (D,).
        start_cov: P0, (D, D).
        length: T of a simulated item.
    """

    def __init__(
        self,
        transition: Float[Tensor, "D D"],
        emission: Float[Tensor, "P D"],
        process: Float[Tensor, "D D"],
        noise: Float[Tensor, "P P"],
        start_mean: Float[Tensor, "D"],
        start_cov: Float[Tensor, "D D"],
        length: int = 4,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.length = length
        self.transition, self.emission = parameter(transition), parameter(emission)
        self.process, self.noise = parameter(process), parameter(noise)
        self.start_mean, self.start_cov = parameter(start_mean), parameter(start_cov)

    def log_evidence(self, x: Float[Tensor, "B T P"]) -> Float[Tensor, "B"]:
        a, c = self.transition, self.emission
        mean: Tensor = self.start_mean.expand(x.shape[0], -1)
        cov: Tensor = self.start_cov
        total = x.new_zeros(x.shape[0])
        for t in range(x.shape[1]):
            if t:
                mean, cov = mean @ a.T, a @ cov @ a.T + self.process
            innovation = c @ cov @ c.T + self.noise
            residual = x[:, t] - mean @ c.T
            total = total + MultivariateNormal(torch.zeros_like(residual[0]), innovation).log_prob(residual)
            gain = torch.linalg.solve(innovation, c @ cov).T
            mean, cov = mean + residual @ gain.T, cov - gain @ c @ cov
        return total

    def _path_prior(self, t: int) -> MultivariateNormal:
        """p(z_1..z_T) as one Gaussian over T*D coordinates."""
        d = self.transition.shape[0]
        eye = torch.eye(t * d, dtype=torch.float64)
        # z = M e with M the inverse of I - (A on the block sub-diagonal).
        m = torch.linalg.inv(eye - torch.kron(torch.diag(torch.ones(t - 1).double(), -1), self.transition))
        blocks = torch.block_diag(self.start_cov, *[self.process] * (t - 1))
        mean = m[:, :d] @ self.start_mean
        return MultivariateNormal(mean, m @ blocks @ m.T)

    def exact_posterior(self, x: Float[Tensor, "B T P"]) -> MultivariateNormal:
        """Over the T*D coordinates of the path, time first."""
        t = x.shape[1]
        prior = self._path_prior(t)
        projected = torch.linalg.solve(self.noise, self.emission)  # R^-1 C
        precision = prior.precision_matrix + torch.kron(torch.eye(t).double(), self.emission.T @ projected)
        pull = prior.precision_matrix @ prior.mean + (x @ projected).flatten(1)
        return MultivariateNormal(torch.linalg.solve(precision, pull.T).T, precision_matrix=precision)

    def encode(self, x: Float[Tensor, "B T P"]) -> tuple[Float[Tensor, "B TD"], Float[Tensor, "B TD TD"]]:
        """Mean and Cholesky factor of the path proposal."""
        prior = self._path_prior(x.shape[1]).expand(x.shape[:1])
        base = self.exact_posterior(x) if self.proposal == "posterior" else prior
        return base.mean + self.shift * base.stddev, self.stretch * base.scale_tril

    def posterior(self, s: tuple[Float[Tensor, "B TD"], Float[Tensor, "B TD TD"]]) -> MultivariateNormal:
        """The proposal over flattened paths."""
        return MultivariateNormal(s[0], scale_tril=s[1])

    def sample(
        self, s: tuple[Float[Tensor, "B TD"], Float[Tensor, "B TD TD"]], draws: Draws
    ) -> Float[Tensor, "K B T D"]:
        return super().sample(s, double(draws)).unflatten(-1, (-1, self.transition.shape[0]))

    def log_proposal(
        self, s: tuple[Float[Tensor, "B TD"], Float[Tensor, "B TD TD"]], z: Float[Tensor, "K B T D"]
    ) -> Float[Tensor, "K B"]:
        return self.posterior(s).log_prob(z.flatten(-2))

    def log_joint(self, x: Float[Tensor, "B T P"], z: Float[Tensor, "K B T D"]) -> Float[Tensor, "K B"]:
        def gaussian(residual: Tensor, cov: Tensor) -> Tensor:
            return MultivariateNormal(torch.zeros_like(cov[0]), cov).log_prob(residual)

        start = gaussian(z[..., 0, :] - self.start_mean, self.start_cov)
        moves = gaussian(z[..., 1:, :] - z[..., :-1, :] @ self.transition.T, self.process).sum(-1)
        return start + moves + gaussian(x - z @ self.emission.T, self.noise).sum(-1)

    def posterior_sample(self, x: Float[Tensor, "B T P"], draws: Draws) -> Float[Tensor, "K B T D"]:
        exact = self.exact_posterior(x)
        noise = double(draws).normal("posterior", exact.mean.shape[-1])
        z = exact.mean + torch.einsum("bij,kbj->kbi", exact.scale_tril, noise)
        return z.unflatten(-1, (-1, self.transition.shape[0]))

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B T D"], Float[Tensor, "K B T P"]]:
        d, t = self.transition.shape[0], self.length
        noise = double(draws).normal("prior", t, d)
        z = [self.start_mean + noise[..., 0, :] @ torch.linalg.cholesky(self.start_cov).T]
        for i in range(1, t):
            z.append(z[-1] @ self.transition.T + noise[..., i, :] @ torch.linalg.cholesky(self.process).T)
        path = torch.stack(z, -2)
        error = double(draws).normal("x", t, self.noise.shape[0]) @ torch.linalg.cholesky(self.noise).T
        return path, path @ self.emission.T + error
