"""A pyro model and guide, trained by SVI, as an infimum model: python examples/pyro_guide.py.

The model is linear-Gaussian, so that its exact evidence stands beside the bracket; nothing in `PyroModel` uses that.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

from infimum.evidence import Bracket, LatentModel, Plan, evaluate, iw_eubo, iwae
from infimum.testing import LinearGaussian, check_model

LATENT, DIMS = 2, 6


class FactorAnalysis(nn.Module):
    """z ~ N(0, I), x | z ~ N(W z + b, diag(noise^2)), with an amortised guide: ordinary pyro, nothing of infimum."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(LATENT, DIMS)
        self.log_noise = nn.Parameter(torch.zeros(DIMS))
        self.encoder = nn.Sequential(nn.Linear(DIMS, 16), nn.Tanh(), nn.Linear(16, 2 * LATENT))

    def model(self, x: Tensor) -> None:
        """The generative side: one latent an item, in a plate."""
        pyro.module("pair", self)
        with pyro.plate("items", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x), a diagonal Gaussian."""
        pyro.module("pair", self)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("items", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# --8<-- [start:wrap]
class PyroModel(LatentModel):
    """A pyro model and guide with one latent site "z" and one observed site "x" in a plate of items."""

    def __init__(self, pair: FactorAnalysis) -> None:
        super().__init__()
        self.pair = pair

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = poutine.trace(self.pair.guide).get_trace(x).nodes["z"]["fn"].base_dist
        return q.loc, q.scale

    def posterior(self, s: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(*s), 1)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:  # z is (K, B, latent): pyro's plate broadcasts over K
        sites = poutine.trace(poutine.condition(self.pair.model, data={"z": z})).get_trace(x)
        sites.compute_log_prob()
        return sites.nodes["z"]["log_prob"] + sites.nodes["x"]["log_prob"]

    def simulate(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            sites = poutine.trace(poutine.uncondition(self.pair.model)).get_trace(torch.zeros(n, DIMS)).nodes
        return sites["z"]["value"][None], sites["x"]["value"]


# --8<-- [end:wrap]


def data(n: int, seed: int) -> Tensor:
    """Items of a factor analysis with random loadings."""
    pyro.set_rng_seed(0)
    return PyroModel(FactorAnalysis()).simulate(n, seed)[1]


def trained(steps: int = 400) -> PyroModel:
    """A guide and a model trained together by pyro's own SVI on 500 items."""
    x = data(500, seed=0)
    pyro.clear_param_store()  # or pyro would go on with the parameters of the model that made the data
    pair = FactorAnalysis()
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)
    return PyroModel(pair).eval()


def exact(model: PyroModel) -> LinearGaussian:
    """The same model as an oracle: its evidence in closed form."""
    with torch.no_grad():
        pair = model.pair
        return LinearGaussian(pair.decoder.weight, pair.decoder.bias, (2 * pair.log_noise).exp())


def bracket(model: PyroModel, items: int = 200, draws: int = 500, seed: int = 1) -> tuple[Bracket, Tensor]:
    """Certified bounds from both sides on items drawn from the model, and log p(x) of those items."""
    z, x = model.simulate(items, seed)
    lower = evaluate(model, x, Plan.iid(draws), iwae, seed=seed)
    upper = evaluate(model, x, Plan(levels=draws), iw_eubo, seed=seed + 1, latents=z)
    return Bracket(lower, upper), exact(model).log_evidence(x.double()).detach()


def main() -> None:
    """Train, check, bracket."""
    model = trained()
    report = check_model(model, model.simulate(5)[1])
    print(str(report).splitlines()[0])
    report.raise_if_failed()
    found, truth = bracket(model)
    print(found.mean())
    print(f"exact: {truth.mean():.4f} nats")


if __name__ == "__main__":
    main()
