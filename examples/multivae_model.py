"""Three multivae models of one two-modality toy as infimum models: python examples/multivae_model.py.

The decoders are linear, so that the exact joint evidence stands beside everybody's estimate; `MultiVAEModel` uses none of that.
"""

import numpy as np
import torch
from multivae.data.datasets.base import MultimodalBaseDataset
from multivae.models import MMVAE, MVAE, MMVAEConfig, MoPoE, MoPoEConfig, MVAEConfig
from multivae.models.base import BaseMultiVAE
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from infimum.evidence import Bracket, LatentModel, Plan, evaluate, event_sum, iw_eubo, iwae
from infimum.testing import LinearGaussian, check_model

DIMS = {"left": 3, "right": 2}
LATENT = 2
NOISE = 0.6  # standard deviation of both modalities

Items = dict[str, Tensor]


# --8<-- [start:wrap]
class MultiVAEModel(LatentModel):
    """The joint p(x_1, x_2, z) of a multivae model; q is its posterior: a product (MVAE) or a mixture (MMVAE, MoPoE)."""

    def __init__(self, model: BaseMultiVAE) -> None:
        super().__init__()
        self.model = model

    def experts(self, x: Items) -> list[tuple[Tensor, Tensor]]:
        """Mean and log-variance of every component of q(z | x)."""
        data = MultimodalBaseDataset(data=x)
        if isinstance(self.model, MVAE):
            return [self.model.compute_mu_log_var_subset(data, list(x))]
        if isinstance(self.model, MoPoE):
            return list(self.model.inference(data)["subsets"].values())
        outputs = [self.model.encoders[name](part) for name, part in x.items()]
        return [(out.embedding, out.log_covariance) for out in outputs]

    def encode(self, x: Items) -> tuple[Tensor, Tensor]:
        mean, log_variance = (torch.stack(part, 1) for part in zip(*self.experts(x), strict=True))
        return mean, (0.5 * log_variance).exp()  # (B, components, latent) each

    def posterior(self, s: tuple[Tensor, Tensor]) -> Distribution:  # every draw chooses its own component
        return MixtureSameFamily(Categorical(torch.ones_like(s[0][..., 0])), Independent(Normal(*s), 1))

    def log_joint(self, x: Items, z: Tensor) -> Tensor:
        total = event_sum(Normal(0.0, 1.0).log_prob(z), 1)
        for name, part in x.items():
            out = self.model.decoders[name](z.flatten(0, 1)).reconstruction.unflatten(0, z.shape[:2])
            total = total + event_sum(self.model.recon_log_probs[name](out, part.expand_as(out)), part.ndim - 1)
        return total


# --8<-- [end:wrap]


class ToyModel(MultiVAEModel):
    """With linear decoders and Gaussian noise: `simulate` for the upper bound, and the exact evidence."""

    def simulate(self, n: int, seed: int = 0) -> tuple[Tensor, Items]:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            z = torch.randn(n, LATENT, generator=random)
            means = {name: self.model.decoders[name](z).reconstruction for name in DIMS}
            return z[None], {name: torch.normal(mean, NOISE, generator=random) for name, mean in means.items()}

    def log_evidence(self, x: Items) -> Tensor:
        layers = [self.model.decoders[name].layer for name in x]
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        oracle = LinearGaussian(weight, bias, torch.full_like(bias, NOISE**2))
        return oracle.log_evidence(torch.cat(list(x.values()), 1).double())


class Encoder(BaseEncoder):
    """A small network for mean and log-variance."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.latent_dim = LATENT
        self.net = nn.Sequential(nn.Linear(dims, 16), nn.Tanh(), nn.Linear(16, 2 * LATENT))

    def forward(self, x: Tensor) -> ModelOutput:
        """multivae's form of the output."""
        mean, log_variance = self.net(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """A linear map."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.layer = nn.Linear(LATENT, dims)

    def forward(self, z: Tensor) -> ModelOutput:
        """multivae's form of the output."""
        return ModelOutput(reconstruction=self.layer(z))


KINDS = {
    "MVAE": (MVAE, MVAEConfig, {"warmup": 0}),
    "MMVAE": (MMVAE, MMVAEConfig, {"prior_and_posterior_dist": "normal", "learn_prior": False, "K": 5}),
    "MoPoE": (MoPoE, MoPoEConfig, {}),
}


def build(kind: str) -> ToyModel:
    """An untrained model of that kind."""
    model, config, options = KINDS[kind]
    common = {
        "n_modalities": len(DIMS), "latent_dim": LATENT, "input_dims": {name: (dims,) for name, dims in DIMS.items()},
        "decoders_dist": dict.fromkeys(DIMS, "normal"),
        "decoder_dist_params": {name: {"scale": NOISE} for name in DIMS},
    }  # fmt: skip
    encoders = {name: Encoder(dims) for name, dims in DIMS.items()}
    decoders = {name: Decoder(dims) for name, dims in DIMS.items()}
    return ToyModel(model(config(**common, **options), encoders=encoders, decoders=decoders))


def trained(kind: str, steps: int = 300) -> ToyModel:
    """Trained by the loss of multivae's own forward pass on 500 items of a toy with known structure."""
    torch.manual_seed(0)
    truth, model = build(kind), build(kind)
    with torch.no_grad():
        for decoder in truth.model.decoders.values():
            decoder.layer.weight.mul_(2)
    data = MultimodalBaseDataset(data=truth.simulate(500)[1])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model.model(data).loss.backward()
        optimizer.step()
    return model.eval()


def bracket(model: ToyModel, items: int = 100, draws: int = 1000, seed: int = 1) -> tuple[Bracket, Tensor]:
    """Certified bounds from both sides on items drawn from the model, and log p(x) of those items."""
    z, x = model.simulate(items, seed)
    lower = evaluate(model, x, Plan.iid(draws), iwae, seed=seed)
    upper = evaluate(model, x, Plan(levels=draws), iw_eubo, seed=seed + 1, latents=z)
    return Bracket(lower, upper), model.log_evidence(x).detach()


def own_estimate(model: ToyModel, x: Items, draws: int = 1000, seed: int = 0) -> float:
    """Mean log p(x) as multivae's compute_joint_nll has it."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # MMVAE draws its expert from numpy's generator
    items = len(next(iter(x.values())))
    return -float(model.model.compute_joint_nll(MultimodalBaseDataset(data=x), draws, draws)) / items


def main() -> None:
    """Train, check, bracket, and multivae's own figures under three seeds."""
    for kind in KINDS:
        model = trained(kind)
        _, x = model.simulate(100, 1)
        report = check_model(model, x)
        print(f"{kind}, {str(report).splitlines()[0]}")
        report.raise_if_failed()
        found, truth = bracket(model)
        print(found.mean())
        own = [own_estimate(model, x, seed=seed) for seed in range(3)]
        print(f"exact: {truth.mean():.4f} nats; compute_joint_nll says {', '.join(f'{value:.4f}' for value in own)}\n")


if __name__ == "__main__":
    main()
