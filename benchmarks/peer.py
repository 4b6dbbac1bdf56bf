"""The peer: pythae's VAE around the very modules of an infimum VAE, so that both sides share every weight."""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infimum.evidence import LatentModel, event_sum
from infimum.vae import VAE

logging.disable(logging.INFO)  # pythae logs to the terminal on import and in training

from pythae.data.datasets import BaseDataset  # noqa: E402
from pythae.models import VAE as PythaeVAE  # noqa: E402
from pythae.models import VAEConfig as PythaeConfig  # noqa: E402
from pythae.models.base.base_utils import ModelOutput  # noqa: E402
from pythae.models.nn import BaseDecoder, BaseEncoder  # noqa: E402
from pythae.trainers import BaseTrainer, BaseTrainerConfig  # noqa: E402
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback  # noqa: E402

__all__ = ["Decoder", "Encoder", "Probabilities", "in_pythae", "trainer"]


class Encoder(BaseEncoder):
    """An infimum VAE's encoder for pythae."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.body = vae.encoder

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_scale = self.body(x.flatten(1)).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_scale)


class Decoder(BaseDecoder):
    """An infimum VAE's decoder for pythae."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.body, self.shape = vae.decoder, vae.config.shape
        self.binary = vae.config.likelihood == "bernoulli"

    def forward(self, z: Tensor) -> ModelOutput:
        out = self.body(z)
        return ModelOutput(reconstruction=(out.sigmoid() if self.binary else out).unflatten(-1, self.shape))


def in_pythae(vae: VAE) -> PythaeVAE:
    """A pythae VAE of the same modules: Bernoulli ("bce"), or Gaussian of unit variance ("mse")."""
    loss = "bce" if vae.config.likelihood == "bernoulli" else "mse"
    config = PythaeConfig(input_dim=vae.config.shape, latent_dim=vae.config.latent, reconstruction_loss=loss)
    return PythaeVAE(config, encoder=Encoder(vae), decoder=Decoder(vae)).eval()


class Probabilities(LatentModel):
    """A pythae VAE as an infimum model, as its user would write it: the likelihood of probabilities, not of logits."""

    def __init__(self, model: PythaeVAE) -> None:
        super().__init__()
        self.model = model.eval()
        self.eval()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model.encoder(x)
        return out.embedding, (0.5 * out.log_covariance).exp()

    def posterior(self, s: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(*s), 1)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        p = self.model.decoder(z.flatten(0, 1)).reconstruction.reshape(*z.shape[:2], -1)
        log_likelihood = -F.binary_cross_entropy(p, x.flatten(1).expand_as(p), reduction="none")
        return event_sum(log_likelihood, 1) + event_sum(torch.distributions.Normal(0.0, 1.0).log_prob(z), 1)


class _Silent(BaseTrainer):
    """pythae's trainer without the progress bar and the printed tables that it adds to every run."""

    def _setup_callbacks(self) -> None:
        self.callbacks = [TrainingCallback()]
        self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)


def trainer(vae: VAE, x: Tensor, folder: Path, *, epochs: int, batch: int, lr: float) -> Any:
    """pythae's trainer on the modules of `vae`: Adam, no validation, no checkpoints but the final model."""
    logging.disable(logging.CRITICAL)
    config = BaseTrainerConfig(
        output_dir=str(folder), num_epochs=epochs, per_device_train_batch_size=batch, learning_rate=lr, no_cuda=True
    )
    return _Silent(in_pythae(vae), BaseDataset(x, torch.zeros(len(x))), training_config=config)
