"""The peer: pythae's VAEGAN around the very modules of an infimum VAE and its patch discriminator."""

from peer import Decoder, Encoder  # first: it silences pythae, which logs on import

# isort: split
from pathlib import Path
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAEGAN, VAEGANConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDiscriminator
from pythae.trainers import CoupledOptimizerAdversarialTrainer, CoupledOptimizerAdversarialTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn

from infimum.nets import PatchDiscriminator
from infimum.vae import VAE

__all__ = ["adversarial_share", "in_vaegan", "vaegan_trainer"]


class _Discriminator(BaseDiscriminator):
    """One probability an image, as pythae's loss wants it: the mean logit of the patches; level 1: the first convolution's unit."""

    def __init__(self, patches: PatchDiscriminator) -> None:
        super().__init__()
        self.patches, self.depth = patches, 2

    def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> ModelOutput:
        features = self.patches.layers[:4](x)
        if output_layer_levels:
            return ModelOutput(embedding_layer_1=features)
        return ModelOutput(embedding=self.patches.layers[4:](features).flatten(1).mean(1).sigmoid())


class _Silent(CoupledOptimizerAdversarialTrainer):
    """pythae's trainer without the progress bar and the printed tables that it adds to every run."""

    def _setup_callbacks(self) -> None:
        self.callbacks = [TrainingCallback()]
        self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)


def in_vaegan(vae: VAE, patches: PatchDiscriminator) -> VAEGAN:
    """A pythae VAEGAN of the same modules, its other settings as pythae has them."""
    config = VAEGANConfig(input_dim=vae.config.shape, latent_dim=vae.config.latent, reconstruction_layer=1)
    return VAEGAN(config, encoder=Encoder(vae), decoder=Decoder(vae), discriminator=_Discriminator(patches))


def vaegan_trainer(
    vae: VAE, patches: PatchDiscriminator, x: Tensor, folder: Path, *, epochs: int, batch: int, lr: float
) -> Any:
    """pythae's trainer of VAEGANs: three Adams, no validation, no checkpoints but the final model."""
    rates = dict.fromkeys((f"{name}_learning_rate" for name in ("encoder", "decoder", "discriminator")), lr)
    config = CoupledOptimizerAdversarialTrainerConfig(
        output_dir=str(folder), num_epochs=epochs, per_device_train_batch_size=batch, no_cuda=True, **rates
    )
    return _Silent(in_vaegan(vae, patches), BaseDataset(x, torch.zeros(len(x))), training_config=config)


def adversarial_share(model: VAEGAN, x: Tensor) -> float:
    """What pythae's step leaves in the decoder's gradient of the discriminator's loss, as a multiple of that loss's gradient.

    A decoder that deceives the discriminator has a negative one, -adversarial_loss_scale by the formula of the paper.
    """
    torch.manual_seed(0)
    out = model({"data": x})
    weights = list(model.decoder.parameters())
    alone = _gradient(out.discriminator_loss, weights)
    without = _gradient(out.decoder_loss + model.adversarial_loss_scale * out.discriminator_loss, weights)
    model.zero_grad()
    trainer = _Steps(weights)
    CoupledOptimizerAdversarialTrainer._optimizers_step(trainer, out)  # type: ignore[arg-type]
    left = torch.cat([p.grad.flatten() for p in weights]) - without  # type: ignore[union-attr]
    return float(left @ alone / (alone @ alone))


def _gradient(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])


class _Steps:
    """The optimizers of pythae's step, at rate 0."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.decoder_optimizer = torch.optim.SGD(weights, lr=0.0)
        self.encoder_optimizer = self.discriminator_optimizer = torch.optim.SGD(
            [torch.zeros(1, requires_grad=True)], lr=0.0
        )
