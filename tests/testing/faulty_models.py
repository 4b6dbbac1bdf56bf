"""Small models, each a correct one with one fault; `FAULTS` says by which check it must be caught."""

import math

import numpy as np
import torch
import torch.distributions as td
from torch import nn

from infimum.evidence import Draws, event_sum
from infimum.testing import LinearGaussian, MaskedTable, TinyMasked
from infimum.vae import VAE, VAEConfig
from testing.oracle_cases import joint_table, rand


def vae(kind: type[VAE] = VAE, likelihood: str = "bernoulli", **fields) -> VAE:
    """A VAE with fixed weights over (2, 3) items."""
    torch.manual_seed(3)
    model = kind(VAEConfig((2, 3), likelihood, latent=2, hidden=(16,), **fields))
    model.setup()
    return model


class Plain(VAE):
    def setup(self) -> None:
        """More layers, where a fault needs them."""


class TransposedLayout(Plain):
    def log_likelihood(self, x, z):
        k, b, _ = z.shape
        out = self.decoder(z.flatten(0, 1)).view(b, k, -1).transpose(0, 1)
        return event_sum(self.likelihood.log_prob(x.flatten(1), out), 1)


class TransposedSampler(Plain):
    def sample(self, s, draws):
        mean, log_scale = s
        noise = draws.normal("z", mean.shape[-1])
        return mean + log_scale.exp() * noise.flatten(0, 1).view(*draws.shape[::-1], -1).transpose(0, 1)


class ProposalWithoutScale(Plain):
    def log_proposal(self, s, z):
        return event_sum(-0.5 * ((z - s[0]) * (-s[1]).exp()).square(), 1) - math.log(2 * math.pi)


class ProposalWithoutConstant(Plain):
    def log_proposal(self, s, z):
        return super().log_proposal(s, z) + math.log(2 * math.pi)


class SamplerTooWide(Plain):
    def sample(self, s, draws):
        return s[0] + 1.3 * s[1].exp() * draws.normal("z", 2)


class SquaredError(Plain):
    """A squared error is no log-likelihood."""

    def log_likelihood(self, x, z):
        return event_sum(-0.5 * (x.flatten(1) - self.decoder(z)).square(), 1)


class LikelihoodWithoutSoftplus(Plain):
    def log_likelihood(self, x, z):
        return event_sum(x.flatten(1) * self.decoder(z), 1)


class WrongPrior(Plain):
    """The joint holds N(0, 1.5^2); the model generates from N(0, 1)."""

    def log_prior(self, z):
        return event_sum(td.Normal(0.0, 1.5).log_prob(z), 1)


class WrongPriorInJoint(Plain):
    """The same inside log_joint, where no log_prior gives it away."""

    def log_joint(self, x, z):
        return self.log_likelihood(x, z) + event_sum(td.Normal(0.0, 2.5).log_prob(z), 1)


class StaleDraws(Plain):
    def setup(self):
        self.kept = None

    def sample(self, s, draws):
        noise = draws.normal("z", 2)
        if self.kept is None or self.kept.shape != noise.shape:
            self.kept = noise
        return s[0] + s[1].exp() * self.kept


class OneDrawForAll(Plain):
    def sample(self, s, draws):
        return s[0] + s[1].exp() * Draws.normal(draws[:1], "z", 2).expand(*draws.shape, 2)


class OneNoiseForAllItems(Plain):
    def sample(self, s, draws):
        common = draws.take(torch.zeros_like(draws.keys))
        same_key = Draws(
            common.plan, torch.zeros_like(common.keys), common.seed, common.salt, common.start, common.stop
        )
        return s[0] + s[1].exp() * same_key.normal("z", 2)


class OwnRandomness(Plain):
    def sample(self, s, draws):
        return s[0] + s[1].exp() * torch.randn(*draws.shape, 2)


class OwnGenerator(Plain):
    def setup(self):
        self.rng = np.random.default_rng(0)

    def sample(self, s, draws):
        return s[0] + s[1].exp() * torch.from_numpy(self.rng.standard_normal((*draws.shape, 2))).float()


class StratifiedByHand(Plain):
    """Numbers that depend on how many draws are asked for at once."""

    def sample(self, s, draws):
        k = draws.shape[0]
        u = (torch.arange(k)[:, None, None] + draws.uniform("z", 2)) / k
        return s[0] + s[1].exp() * torch.special.ndtri(u)


class Dropout(Plain):
    def setup(self):
        self.decoder.insert(1, nn.Dropout(0.2))


class BatchNormDecoder(Plain):
    def setup(self):
        self.norm = nn.BatchNorm1d(16)

    def decode(self, z):
        hidden = self.decoder[1](self.decoder[0](z))
        return self.decoder[2](self.norm(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2]))


class MixingEncoder(Plain):
    def encode(self, x):
        return super().encode(x - x.mean(0))


class MixingDecoder(Plain):
    def decode(self, z):
        return self.decoder(z - z.mean(1, keepdim=True))


class UnsummedEvent(Plain):
    def log_likelihood(self, x, z):
        return self.likelihood.log_prob(x.flatten(1), self.decode(z))

    def log_joint(self, x, z):
        return self.log_likelihood(x, z) + self.log_prior(z)[..., None] / 6


class HalfSums(Plain):
    """Sums 300 pixels in half precision and returns float32."""

    def log_likelihood(self, x, z):
        each = self.likelihood.log_prob(x.flatten(1), self.decode(z))
        return each.repeat(1, 1, 50).half().sum(-1).float()


class HalfSumsUnderAutocast(Plain):
    """Sums in whatever dtype the decoder returned."""

    def log_likelihood(self, x, z):
        out = self.decode(z)
        return -(x.flatten(1).to(out.dtype) - out).square().sum(-1)


class HalfTable(Plain):
    def log_joint(self, x, z):
        return super().log_joint(x, z).bfloat16()


class DetachedLatents(Plain):
    def sample(self, s, draws):
        return super().sample(s, draws).detach()


class DetachedScale(Plain):
    def sample(self, s, draws):
        return s[0] + s[1].detach().exp() * draws.normal("z", 2)


class NotANumber(Plain):
    def log_likelihood(self, x, z):
        log_p = super().log_likelihood(x, z)
        return torch.where(torch.arange(x.shape[0]) == 1, math.nan, log_p)


class ReturnsDistribution(Plain):
    def encode(self, x):
        return self.posterior(super().encode(x))


class ItemsFirst(Plain):
    def sample(self, s, draws):
        return super().sample(s, draws).transpose(0, 1)


class GradModeMatters(Plain):
    def decode(self, z):
        return self.decoder(z) * (1.0 if torch.is_grad_enabled() else 1.01)


class RootAtZero(Plain):
    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z) + (0 * z).square().sum(-1).sqrt()


class PlanMatters(Plain):
    def sample(self, s, draws):
        wider = 1.5 if draws.plan.noise == "antithetic" else 1.0
        return s[0] + wider * s[1].exp() * draws.normal("z", 2)


class WrongEvidence(LinearGaussian):
    def log_evidence(self, x):
        return super().log_evidence(x) + 0.3


def tiny(kind: type[TinyMasked] = TinyMasked, form: str = "t", noise: float = 0.5) -> TinyMasked:
    return kind(MaskedTable.from_joint(joint_table(4, 2), noise=noise), form)


class LeadDegreeLie(TinyMasked):
    def lead_degree(self, x):
        return 1


class StepFunctionAsPolynomial(TinyMasked):
    def lead_degree(self, x):
        return 3


class HalfOfEveryTerm(TinyMasked):
    """Half of every (negative) term: above the evidence."""

    def terms(self, x, s, draws):
        return 0.5 * super().terms(x, s, draws)


class PathOwnRandomness(TinyMasked):
    def terms(self, x, s, draws):
        masked = torch.rand(*draws.shape, 4) < draws.lead()[..., None]
        return (self.table(x.expand(masked.shape), masked) * masked).sum(-1) / draws.lead()


class PathStale(TinyMasked):
    def terms(self, x, s, draws):
        same = Draws(draws.plan, draws.keys, 0, "", draws.start, draws.stop)
        return super().terms(x, s, same)


class PathMixes(TinyMasked):
    def terms(self, x, s, draws):
        return super().terms(x, s, draws).mean(1, keepdim=True).expand(draws.shape)


class PathUnsummed(TinyMasked):
    def terms(self, x, s, draws):
        masked, weight = self.masks(draws)
        return weight[..., None] * self.table(x.expand(masked.shape), masked) * masked


class PathConstantShape(TinyMasked):
    def constant(self, x, s):
        return super().constant(x, s).sum()


class PathHalf(TinyMasked):
    def terms(self, x, s, draws):
        return super().terms(x, s, draws).half().double()


class PathBlowsUp(TinyMasked):
    def terms(self, x, s, draws):
        return super().terms(x, s, draws) + 0 * torch.log(draws.lead() - 1e-6)


FAULTS = {
    "transposed layout": (lambda: vae(TransposedLayout), "layout"),
    "transposed sampler": (lambda: vae(TransposedSampler), "layout"),
    "proposal without its scale": (lambda: vae(ProposalWithoutScale), "proposal"),
    "proposal without its scale, by its score": (lambda: vae(ProposalWithoutScale), "score"),
    "proposal without its constant": (lambda: vae(ProposalWithoutConstant), "proposal"),
    "sampler too wide": (lambda: vae(SamplerTooWide), "proposal"),
    "squared error": (lambda: vae(SquaredError, "gaussian"), "joint"),
    "likelihood without softplus": (lambda: vae(LikelihoodWithoutSoftplus), "joint"),
    "wrong prior": (lambda: vae(WrongPrior), "prior"),
    "wrong prior in the joint": (lambda: vae(WrongPriorInJoint), "joint"),
    "wrong prior, by its posterior": (lambda: vae(WrongPriorInJoint, "gaussian"), "simulated latents"),
    "stale draws": (lambda: vae(StaleDraws), "fresh draws"),
    "one draw for all": (lambda: vae(OneDrawForAll), "fresh draws"),
    "one noise for all items": (lambda: vae(OneNoiseForAllItems), "fresh draws"),
    "own randomness": (lambda: vae(OwnRandomness), "no randomness of its own"),
    "own generator": (lambda: vae(OwnGenerator), "replayable draws"),
    "stratified by hand": (lambda: vae(StratifiedByHand), "chunks"),
    "train-mode dropout": (lambda: vae(Dropout), "deterministic network"),
    "batch norm": (lambda: vae(BatchNormDecoder), "train mode"),
    "encoder mixes items": (lambda: vae(MixingEncoder), "items apart"),
    "decoder mixes items": (lambda: vae(MixingDecoder), "items apart"),
    "un-summed event axes": (lambda: vae(UnsummedEvent), "log_joint"),
    "half-precision sums": (lambda: vae(HalfSums), "precision"),
    "half-precision sums under autocast": (lambda: vae(HalfSumsUnderAutocast), "precision"),
    "half-precision table": (lambda: vae(HalfTable), "precision"),
    "detached latents": (lambda: vae(DetachedLatents), "pathwise gradient"),
    "detached scale": (lambda: vae(DetachedScale), "pathwise gradient"),
    "not a number": (lambda: vae(NotANumber), "finite"),
    "encode returns a distribution": (lambda: vae(ReturnsDistribution), "encode"),
    "items first": (lambda: vae(ItemsFirst), "latents"),
    "grad mode matters": (lambda: vae(GradModeMatters), "gradient rules"),
    "root at zero": (lambda: vae(RootAtZero), "finite gradients"),
    "plan matters": (lambda: vae(PlanMatters), "any plan"),
    "wrong evidence": (lambda: WrongEvidence(rand(4, 2), rand(4), torch.ones(4), stretch=1.2), "evidence"),
}
PATH_FAULTS = {
    "lead degree too low": (lambda: tiny(LeadDegreeLie, noise=2.0), "lead degree"),
    "step function": (lambda: tiny(StepFunctionAsPolynomial, "l"), "lead degree"),
    "above the evidence": (lambda: tiny(HalfOfEveryTerm), "below the evidence"),
    "own randomness": (lambda: tiny(PathOwnRandomness), "no randomness of its own"),
    "stale draws": (lambda: tiny(PathStale), "fresh draws"),
    "items mixed": (lambda: tiny(PathMixes), "items apart"),
    "un-summed event axes": (lambda: tiny(PathUnsummed), "terms"),
    "constant of no item": (lambda: tiny(PathConstantShape), "constant"),
    "half-precision sums": (lambda: tiny(PathHalf), "precision"),
    "lead near its end": (lambda: tiny(PathBlowsUp), "lead"),
}
