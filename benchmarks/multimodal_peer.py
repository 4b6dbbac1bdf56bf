"""The peer: multivae's models around the very modules of an infimum model, so that both sides share every weight.

multivae imports torchvision for its image data sets and pictures, which nothing here uses; where it cannot be imported (its wheels
for Linux need the CUDA build of torch) empty names take its place.
"""

import contextlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from infimum.vae.multimodal import MultimodalVAE


class _Names(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision as modules whose every name is an empty class."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        def missing(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = missing  # type: ignore[method-assign]


@contextlib.contextmanager
def _torchvision_or_names() -> Iterator[None]:
    finder = _Names()
    sys.meta_path.append(finder)  # last: an installed torchvision is found before
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [key for key in sys.modules if key.split(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name].__loader__, _Names):
                del sys.modules[name]  # nobody else is to meet them


logging.disable(logging.INFO)  # multivae logs to the terminal on import and in training
with _torchvision_or_names():
    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.models import MMVAE, MVAE, MMVAEConfig, MoPoE, MoPoEConfig, MVAEConfig
    from multivae.trainers import BaseTrainer, BaseTrainerConfig
    from multivae.trainers.base.callbacks import CallbackHandler, TrainingCallback
from pythae.models.base.base_utils import ModelOutput  # noqa: E402
from pythae.models.nn import BaseDecoder, BaseEncoder  # noqa: E402

__all__ = ["KINDS", "in_multivae", "own_nll", "trainer"]

KINDS = {
    "mvae": (MVAE, MVAEConfig, {"warmup": 0, "use_subsampling": False}),
    "mmvae": (
        MMVAE,
        MMVAEConfig,
        {"prior_and_posterior_dist": "normal", "learn_prior": False, "K": 1, "loss": "iwae_looser"},
    ),
    "mopoe": (MoPoE, MoPoEConfig, {}),
}


class _Encoder(BaseEncoder):
    def __init__(self, body: nn.Module, latent: int) -> None:
        super().__init__()
        self.body, self.latent_dim = body, latent

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_scale = self.body(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_scale)


class _Decoder(BaseDecoder):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.body(z))


def in_multivae(model: MultimodalVAE, kind: str, scales: dict[str, tuple[str, float]]) -> Any:
    """A multivae model of the same modules; ``scales`` has multivae's name and the fixed scale of every likelihood."""
    cls, config, options = KINDS[kind]
    settings = config(
        n_modalities=len(model.names), latent_dim=model.config.latent,
        input_dims={name: part.shape for name, part in model.config.modalities.items()},
        decoders_dist={name: word for name, (word, _) in scales.items()},
        decoder_dist_params={name: {"scale": scale} for name, (_, scale) in scales.items()}, **options,
    )  # fmt: skip
    encoders = {name: _Encoder(net.encoder, model.config.latent) for name, net in model.nets.items()}
    decoders = {name: _Decoder(net.decoder) for name, net in model.nets.items()}
    return cls(settings, encoders=encoders, decoders=decoders)


class _Silent(BaseTrainer):
    """multivae's trainer without the progress bar and the printed tables that it adds to every run."""

    def _setup_callbacks(self) -> None:
        self.callbacks = [TrainingCallback()]
        self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)


def trainer(peer: Any, x: dict[str, Tensor], folder: Path, *, epochs: int, batch: int, lr: float) -> Any:
    """multivae's trainer: Adam, whole batches, no validation."""
    logging.disable(logging.CRITICAL)
    config = BaseTrainerConfig(
        output_dir=str(folder), num_epochs=epochs, per_device_train_batch_size=batch, learning_rate=lr, no_cuda=True,
        drop_last=True,
    )  # fmt: skip
    return _Silent(peer, MultimodalBaseDataset(data=x), training_config=config)


@torch.no_grad()
def own_nll(peer: Any, x: dict[str, Tensor], k: int) -> float:
    """Mean of log p(x) as multivae's compute_joint_nll has it, in nats an item."""
    count = len(next(iter(x.values())))
    return -float(peer.compute_joint_nll(MultimodalBaseDataset(data=x), k)) / count
