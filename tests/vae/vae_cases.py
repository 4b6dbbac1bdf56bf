"""Small models of the room with a known truth."""

import torch

from infimum.evidence import LatentModel, Plan
from infimum.testing import LinearGaussian
from infimum.vae import VAE, BeliefNet, BeliefNetConfig, VAEConfig


def draws(k: int, b: int, seed: int = 0, first: int = 0, plan: Plan | None = None):
    keys = torch.arange(first, first + b)
    return (plan or Plan.iid(k)).draws(keys, seed=seed, dtype=torch.float64)


def z_score(values: torch.Tensor, truth: float | torch.Tensor) -> float:
    """Largest |mean - truth| / stderr; values (K, ...)."""
    error = values.std(0) / values.shape[0] ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())


def linear_vae(posterior: str = "full") -> tuple[VAE, LinearGaussian, torch.Tensor]:
    """A VAE without hidden layers in float64, its twin among the oracles, and four items."""
    torch.manual_seed(0)
    model = VAE(VAEConfig((5,), "gaussian", latent=2, hidden=(), posterior=posterior)).double()
    with torch.no_grad():
        model.likelihood.log_scale.copy_(torch.tensor([-0.4, 0.1, -0.2, 0.3, -0.6]))
    oracle = LinearGaussian(
        model.decoder[0].weight.detach(),
        model.decoder[0].bias.detach(),
        (2 * model.likelihood.log_scale).exp().detach(),
    )
    return model, oracle, oracle.simulate(4, seed=1)[1]


def small_net() -> tuple[BeliefNet, torch.Tensor]:
    """Two binary latents under three binary dimensions, one linear layer each way, float64; two items."""
    torch.manual_seed(2)
    model = BeliefNet(BeliefNetConfig((3,), latent=2, hidden=())).double()
    with torch.no_grad():
        model.prior.copy_(torch.tensor([0.4, -0.7]))
        model.decoder[0].weight.mul_(3)
    return model, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).double()


class Using(LatentModel):
    """The joint of one model with the proposal of another."""

    def __init__(self, model: LatentModel, proposal: LatentModel) -> None:
        super().__init__()
        self.model, self.proposal = model, proposal
        self.encode, self.sample, self.log_proposal = proposal.encode, proposal.sample, proposal.log_proposal

    def log_joint(self, x, z):
        return self.model.log_joint(x, z)
