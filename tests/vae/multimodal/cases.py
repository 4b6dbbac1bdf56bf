"""Small multimodal models with a known truth."""

import torch
from torch import Tensor

from infimum.evidence import Plan
from infimum.testing.oracles.multimodal import LinearGaussianModalities
from infimum.vae.multimodal import Modality, MultimodalConfig, MultimodalVAE, mmvae, mopoe, mvae

MEMBERS = {"mvae": mvae, "mmvae": mmvae, "mopoe": mopoe}
LIMIT = 5.5  # two-sided, 4e-8 a test


def draws(k: int, b: int, seed: int = 0, plan: Plan | None = None):
    return (plan or Plan.iid(k)).draws(torch.arange(b), seed=seed, dtype=torch.float64)


def z_score(values: Tensor, truth: float | Tensor) -> float:
    """Largest |mean - truth| / stderr; values (K, ...)."""
    error = values.std(0) / values.shape[0] ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())


def mixed(latent: int = 2) -> dict[str, Modality]:
    """A vector, a picture, a label and a text."""
    return {
        "vector": Modality((3,), "gaussian", hidden=(8,)),
        "picture": Modality((1, 5, 6), "laplace", network="conv", hidden=(4, 4), width=8),
        "label": Modality((1,), "categorical", levels=4, hidden=(8,)),
        "text": Modality((3,), "categorical", levels=5, hidden=(8,)),
    }


def orthogonal_world(modalities: int = 3, latent: int = 2, size: int = 3, equal: float | None = None):
    """Loadings with orthogonal columns: every G_m is diagonal, so that diagonal experts can be exact."""
    random = torch.Generator().manual_seed(3)
    weights, noise, biases = {}, {}, {}
    for m in range(modalities):
        columns = torch.linalg.qr(torch.randn(size, latent, generator=random, dtype=torch.float64))[0]
        gain = torch.rand(latent, generator=random, dtype=torch.float64) + 0.5
        variance = 0.3 + 0.2 * m if equal is None else 1.0
        gain = gain if equal is None else torch.full_like(gain, equal**0.5)
        weights[f"m{m}"] = columns * gain
        noise[f"m{m}"] = torch.full((size,), variance, dtype=torch.float64)
        biases[f"m{m}"] = torch.randn(size, generator=random, dtype=torch.float64)
    return LinearGaussianModalities(weights, noise, biases)


def twin(world: LinearGaussianModalities, config: MultimodalConfig) -> MultimodalVAE:
    """The linear model of the world's own joint in float64; encoders as they come."""
    model = MultimodalVAE(config).double().eval()
    with torch.no_grad():
        for name, net in model.nets.items():
            net.decoder[0].weight.copy_(world.weights[name])
            net.decoder[0].bias.copy_(world.biases[name])
            net.likelihood.log_scale.copy_(0.5 * world.noise[name].log())
    return model


def linear_parts(world: LinearGaussianModalities) -> dict[str, Modality]:
    return {name: Modality((len(b),), "gaussian", hidden=()) for name, b in world.biases.items()}


def set_expert(net, gain: Tensor, centre: Tensor, precision: Tensor) -> None:
    """q(z | x_m) = N(gain (x_m - centre), diag(1 / precision))."""
    layer, d = net.encoder[0], len(precision)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:d] = gain
        layer.bias[:d] = -gain @ centre
        layer.bias[d:] = -0.5 * precision.log()


def with_exact_product(world: LinearGaussianModalities, config: MultimodalConfig) -> MultimodalVAE:
    """Experts p(z | x_m) / p(z): their product with the prior is the posterior given any subset."""
    model = twin(world, config)
    for name, net in model.nets.items():
        precision = world.information(name).diagonal()
        gain = (world.weights[name] / world.noise[name][:, None]).T / precision[:, None]
        set_expert(net, gain, world.biases[name], precision)
    return model


def with_best_single(world: LinearGaussianModalities, config: MultimodalConfig) -> MultimodalVAE:
    """The encoder of each x_m alone that loses least: the normalised geometric mean of the full posteriors (21, F3)."""
    model = twin(world, config)
    total = world.precision()
    for name, net in model.nets.items():
        own = world.weights[name].T / world.noise[name]
        alone = torch.linalg.solve(world.precision((name,)), own)  # E[z | x_m]
        others = sum(world.information(n) for n in world.names if n != name)
        gain = torch.linalg.solve(total, own + others @ alone)
        set_expert(net, gain, world.biases[name], total.diagonal())
    return model
