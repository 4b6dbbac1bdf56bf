"""Several modalities, linear and Gaussian in one latent: evidence, conditionals and the price of every subset in closed form."""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.testing.oracles.base import double

__all__ = ["LinearGaussianModalities"]


class LinearGaussianModalities:
    """z ~ N(0, I) in R^D, x_m = W_m z + b_m + noise of diagonal variance Psi_m (21 section 3.4). Everything is float64.

    Args:
        weights: W_m, (P_m, D), by name.
        noise: diagonals of Psi_m, (P_m,).
        biases: b_m, (P_m,); 0 if not given.
    """

    def __init__(
        self,
        weights: Mapping[str, Float[Tensor, "_ D"]],
        noise: Mapping[str, Float[Tensor, "_"]],
        biases: Mapping[str, Float[Tensor, "_"]] | None = None,
    ) -> None:
        if set(weights) != set(noise) or (biases is not None and set(biases) != set(weights)):
            raise UserError(f"weights are of {sorted(weights)}, noise of {sorted(noise)}: name the same modalities")
        self.weights = {name: w.detach().double() for name, w in weights.items()}
        self.noise = {name: noise[name].detach().double() for name in weights}
        self.biases = {
            name: biases[name].detach().double() if biases else torch.zeros_like(self.noise[name]) for name in weights
        }

    @classmethod
    def world(
        cls, modalities: int, seed: int = 0, *, size: int = 6, shared: int = 2, private: int = 2, noise: float = 0.3
    ) -> "LinearGaussianModalities":
        """x_m = A_m s + B_m u_m + noise: s is shared, u_m belongs to modality m, all loadings standard normal (21 section 7 a)."""
        draws = Plan.iid(1).draws(torch.arange(modalities), seed=seed, salt="world", dtype=torch.float64)
        loading = draws.normal("loadings", size, shared + private)[0]  # (M, size, shared + private)
        weights = {}
        for m in range(modalities):
            w = torch.zeros(size, shared + private * modalities, dtype=torch.float64)
            w[:, :shared] = loading[m, :, :shared]
            w[:, shared + m * private : shared + (m + 1) * private] = loading[m, :, shared:]
            weights[f"m{m}"] = w
        return cls(weights, {name: torch.full((size,), noise**2).double() for name in weights})

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        return tuple(self.weights)

    @property
    def latent_dim(self) -> int:
        """D."""
        return next(iter(self.weights.values())).shape[1]

    def marginal(self, names: Iterable[str] | None = None) -> MultivariateNormal:
        """p(x_A), the modalities of A side by side."""
        names = self.names if names is None else tuple(names)
        w = torch.cat([self.weights[name] for name in names])
        mean = torch.cat([self.biases[name] for name in names])
        return MultivariateNormal(mean, w @ w.T + torch.diag(torch.cat([self.noise[name] for name in names])))

    def log_evidence(self, x: Mapping[str, Float[Tensor, "B _"]]) -> Float[Tensor, "B"]:
        """Exact log p of the modalities given, in nats; a conditional is a difference of two."""
        return self.marginal(x).log_prob(torch.cat([part.double() for part in x.values()], -1))

    def simulate(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "1 n D"], dict[str, Float[Tensor, "n _"]]]:
        """n items with their latents, which are exact posterior draws. Pure in (seed, item)."""
        draws = double(Plan.iid(1).draws(torch.arange(n), seed=seed, salt="simulate"))
        z = draws.normal("z", self.latent_dim)
        noise = {
            name: draws.normal(f"x/{name}", len(b))[0] * self.noise[name].sqrt() for name, b in self.biases.items()
        }
        return z, {name: z[0] @ w.T + self.biases[name] + noise[name] for name, w in self.weights.items()}

    def information(self, name: str) -> Float[Tensor, "D D"]:
        """G_m = W_m^T Psi_m^-1 W_m, what modality m adds to the posterior's precision."""
        return self.weights[name].T @ (self.weights[name] / self.noise[name][:, None])

    def precision(self, names: Iterable[str] | None = None) -> Float[Tensor, "D D"]:
        """Lam_A = I + sum of G_m over A, of p(z | x_A)."""
        each = [self.information(name) for name in (self.names if names is None else names)]
        return torch.eye(self.latent_dim, dtype=torch.float64) + torch.stack(each).sum(0)

    def best_gap(self, names: Iterable[str]) -> float:
        """min over encoders of x_A of E[log p(x) - L_A]: (tr(Lam Lam_A^-1) - D) / 2 nats (21 section 3.4, F3)."""
        return 0.5 * (float(torch.trace(self._ratio(names))) - self.latent_dim)

    def conditional_gap(self, names: Iterable[str]) -> float:
        """E[log p(x) - L_A] with the encoder p(z | x_A): (2 tr(Lam Lam_A^-1) - 2 D + log det Lam_A - log det Lam) / 2 nats."""
        ratio = self._ratio(names)
        return 0.5 * (2 * float(torch.trace(ratio)) - 2 * self.latent_dim - float(torch.logdet(ratio)))

    def _ratio(self, names: Iterable[str]) -> Float[Tensor, "D D"]:
        return torch.linalg.solve(self.precision(tuple(names)), self.precision())

    def divergence_to(self, mean: Float[Tensor, "P"], covariance: Float[Tensor, "P P"]) -> float:
        """KL from this world's distribution of all modalities to a Gaussian, in nats."""
        return float(kl_divergence(self.marginal(), MultivariateNormal(mean.double(), covariance.double())))

    @staticmethod
    def equal_gaps(modalities: int, latent: int, g: float) -> dict[str, float]:
        """Gaps at G_m = g I of the best encoders: "mmvae", the mean over single modalities, and "mopoe", over all subsets."""
        sizes = range(1, modalities + 1)
        ways = [math.comb(modalities, a) for a in sizes]
        each = [latent / 2 * (modalities - a) * g / (1 + a * g) for a in sizes]
        return {"mmvae": each[0], "mopoe": sum(w * e for w, e in zip(ways, each, strict=True)) / sum(ways)}
