"""A pythae VAE, trained by pythae, as an infimum model: python examples/pythae_vae.py."""

import logging
import tempfile

import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from infimum.data import load
from infimum.evidence import Bracket, LatentModel, Plan, evaluate, event_sum, iw_eubo, iwae
from infimum.testing import check_model


# --8<-- [start:wrap]
class PythaeModel(LatentModel):
    """A pythae VAE with reconstruction_loss "bce" (binary data) or "mse" (a Gaussian of unit variance)."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae, self.binary = vae, vae.model_config.reconstruction_loss == "bce"

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.vae.encoder(x)
        return out.embedding, (0.5 * out.log_covariance).exp()

    def posterior(self, s: tuple[Tensor, Tensor]) -> Distribution:
        return Independent(Normal(*s), 1)

    def log_joint(
        self, x: Tensor, z: Tensor
    ) -> Tensor:  # pythae's decoder takes one batch axis: flatten (K, B), unflatten
        out = self.vae.decoder(z.flatten(0, 1)).reconstruction.reshape(*z.shape[:2], -1)
        x = x.flatten(1).expand_as(out)
        fit = -F.binary_cross_entropy(out, x, reduction="none") if self.binary else Normal(out, 1.0).log_prob(x)
        return event_sum(fit, 1) + event_sum(Normal(0.0, 1.0).log_prob(z), 1)

    def simulate(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            z = torch.randn(n, self.vae.latent_dim, generator=random)
            mean = self.vae.decoder(z).reconstruction
            x = torch.bernoulli(mean, generator=random) if self.binary else torch.normal(mean, 1.0, generator=random)
        return z[None], x


# --8<-- [end:wrap]


def train(vae: VAE, x: Tensor, epochs: int) -> PythaeModel:
    """Train by pythae's own trainer, which leaves its checkpoints in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, learning_rate=2e-3, per_device_train_batch_size=64, no_cuda=True
        )
        BaseTrainer(vae, BaseDataset(x, torch.zeros(len(x))), training_config=config).train()
    return PythaeModel(vae).eval()


def digits_vae(epochs: int = 15) -> PythaeModel:
    """pythae's default VAE on 8 x 8 binary digits."""
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(1, 8, 8), latent_dim=6, reconstruction_loss="bce")
    return train(VAE(config), load("digits").train, epochs)


def bracket(model: PythaeModel, items: int = 200, draws: int = 500, seed: int = 1) -> Bracket:
    """Certified bounds from both sides on items drawn from the model."""
    z, x = model.simulate(items, seed)
    lower = evaluate(model, x, Plan.iid(draws), iwae, seed=seed)
    upper = evaluate(model, x, Plan(levels=draws), iw_eubo, seed=seed + 1, latents=z)
    return Bracket(lower, upper)


def main() -> None:
    """Train, check, bracket, and the held-out digits beside pythae's own figure."""
    logging.disable(logging.INFO)  # of the trainer
    model, digits = digits_vae(), load("digits")
    report = check_model(model, digits.test[:5])
    print(str(report).splitlines()[0])
    report.raise_if_failed()
    print("drawn from the model:", bracket(model).mean())
    x = digits.test[:50]
    print("held out:", evaluate(model, x, Plan.iid(1000), iwae, keys=digits.test_ids[:50]).mean())
    print(f"pythae's get_nll of the same items, which is + log p(x): {model.vae.get_nll(x, 1000, 1000):.4f}")


if __name__ == "__main__":
    main()
