"""One family of multimodal VAEs: p(z) prod_m p(x_m | z), and a mixture over subsets of products of unimodal experts.

The subsets and their weights make MVAE, MMVAE, MoPoE and all between them (Daunhawer et al. 2022, 2110.04121, section 3).
"""

from collections.abc import Iterable, Mapping

import torch
import torch.distributions as td
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from infimum.evidence import Draws, LatentModel, Plan, event_sum
from infimum.evidence.model import reduction_dtype
from infimum.vae.multimodal.config import MultimodalConfig
from infimum.vae.multimodal.experts import FAMILIES, product_of_experts
from infimum.vae.multimodal.items import Items, part_of, read_items
from infimum.vae.multimodal.networks import ModalityNet
from infimum.vae.multimodal.subsets import (
    log_subset_weights,
    name_members,
    observed_log_weights,
    subset_members,
)

__all__ = ["Experts", "Mixture", "MultimodalVAE"]

Mixture = tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"], Float[Tensor, "B S"]]
"""Locations, log-scales and log-weights of the components of q(z | x)."""
Experts = tuple[Float[Tensor, "B M D"], Float[Tensor, "B M D"], Bool[Tensor, "B M"]]
"""Locations and log-scales of the unimodal posteriors, and which are there."""


class MultimodalVAE(LatentModel):
    """p(z) prod_m p(x_m | z) with q(z | x) = sum_A w_A q(z | x_A), A over subsets of what an item observes.

    Items: see `Items`. What an item lacks is integrated out: its evidence is that of the modalities it has. Streams: the lead
    (component), "z" (posterior), "prior", and "x" forked by the name of the modality (data).

    Args:
        config: modalities, latent, subsets.
        encoders: networks of one's own by name, see `ModalityNet`. `load_model` cannot build them again.
        decoders: the same.
    """

    Config = MultimodalConfig
    members: Tensor
    log_subset: Tensor

    def __init__(
        self,
        config: MultimodalConfig,
        encoders: Mapping[str, nn.Module] | None = None,
        decoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        encoders, decoders = encoders or {}, decoders or {}
        for given in (encoders, decoders):
            name_members(config.names, given or config.names)  # refuses names that the configuration lacks
        self.config = config
        self.family = FAMILIES[config.family]
        self.nets = nn.ModuleDict(
            {name: ModalityNet(modality, config.latent, encoders.get(name), decoders.get(name))
             for name, modality in config.modalities.items()}
        )  # fmt: skip
        members = subset_members(config.names, config.subsets)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("log_subset", log_subset_weights(len(members), config.weights), persistent=False)
        self.prior_logits = nn.Parameter(torch.zeros(config.latent)) if config.learn_prior else None

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of a mask's columns."""
        return self.config.names

    @property
    def ceiling(self) -> float | None:
        """log p(x) of discrete data cannot exceed 0; a density has no ceiling."""
        return None if any(net.likelihood.density for net in self._nets().values()) else 0.0

    def _nets(self) -> dict[str, ModalityNet]:
        return dict(self.nets.items())  # type: ignore[arg-type]

    def prior_log_scale(self) -> Float[Tensor, "D"]:
        """Log of the prior's scale: 0, or learned with mean scale 1."""
        if self.prior_logits is None:
            return self.log_subset.new_zeros(self.config.latent)
        return F.log_softmax(self.prior_logits, 0) + torch.tensor(float(self.config.latent)).log()

    # --- what the engine asks for

    def read(self, x: Items) -> tuple[dict[str, Float[Tensor, "B dims"]], Bool[Tensor, "B M"]]:
        """Modalities as rows of numbers, by name, and which of them each item has."""
        dims = tuple(m.dims for m in self.config.modalities.values())
        values, observed = read_items(self.names, dims, x)
        nets = self._nets()
        return {name: nets[name].values(part, name) for name, part in values.items()}, observed

    def experts(self, x: Items) -> Experts:
        """The unimodal posteriors; a modality that is missing has location 0 and an infinite scale."""
        rows, observed = self.read(x)
        dtype = next(iter(rows.values())).dtype
        blank = torch.zeros(observed.shape[0], self.config.latent, dtype=dtype, device=observed.device)
        pairs = [net.expert(rows[name]) if name in rows else (blank, blank) for name, net in self._nets().items()]
        mean, raw = (torch.stack(part, 1) for part in zip(*pairs, strict=True))
        log_scale = self.family.log_scale(raw)
        if not bool(observed.all()):
            here = observed[..., None]
            mean, log_scale = torch.where(here, mean, 0.0), torch.where(here, log_scale, torch.inf)
        return mean, log_scale, observed

    def products(
        self, experts: Experts, members: Bool[Tensor, "S M"] | Bool[Tensor, "B S M"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
        """Locations and log-scales of q(z | x_A) for each subset A."""
        mean, log_scale, _ = experts
        if self.config.family == "laplace":  # one expert each
            index = members.long().argmax(-1)
            if index.ndim == 1:
                return mean[:, index], log_scale[:, index].nan_to_num(posinf=0.0)
            at = index[..., None].expand(-1, -1, mean.shape[-1])
            return mean.gather(1, at), log_scale.gather(1, at).nan_to_num(posinf=0.0)
        log_var = 2 * log_scale
        if self.config.prior_expert != "none":
            prior = (2 * self.prior_log_scale()).to(mean.dtype).expand(mean.shape[0], 1, -1)
            mean, log_var = torch.cat((mean, torch.zeros_like(prior)), 1), torch.cat((log_var, prior), 1)
            every = torch.ones_like(members[..., :1])
            with_prior = every if self.config.prior_expert == "all" else members.all(-1, keepdim=True)
            members = torch.cat((members, with_prior), -1)
        mean, log_var = product_of_experts(mean, log_var, members)
        return mean, 0.5 * log_var

    def encode(self, x: Items) -> Mixture:
        """Components of q(z | x); the encoders run once, whatever the number of subsets and draws."""
        experts = self.experts(x)
        log_weights = observed_log_weights(self.log_subset, self.members, experts[2])
        return *self.products(experts, self.members), log_weights

    def posterior(self, s: Mixture) -> td.Distribution:
        """q(z | x): batch (B,), event (D,)."""
        kind = td.Normal if self.config.family == "normal" else td.Laplace
        parts = td.Independent(kind(s[0], s[1].exp(), validate_args=False), 1, validate_args=False)
        return td.MixtureSameFamily(td.Categorical(logits=s[2], validate_args=False), parts, validate_args=False)

    def sample(self, s: Mixture, draws: Draws) -> Float[Tensor, "K B D"]:
        """Latents from q(z | x): every draw of every item has a component of its own, chosen by the lead.

        The weights are constants, so the gradient at a fixed component is unbiased.
        """
        mean, log_scale = self.pick(s, draws)
        return mean + log_scale.exp() * self.family.noise(draws, "z", self.config.latent).to(mean.dtype)

    def pick(self, s: Mixture, draws: Draws) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B D"]]:
        """Location and log-scale of the component of each draw."""
        if s[2].shape[1] == 1:
            return s[0].transpose(0, 1), s[1].transpose(0, 1)
        component = draws.choose(s[2])  # (K, B)
        item = torch.arange(component.shape[1], device=component.device)
        return s[0][item, component], s[1][item, component]

    def log_proposal(self, s: Mixture, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats: the density of the mixture, whatever component z came from."""
        u = (z[:, :, None] - s[0]) * (-s[1]).exp()  # (K, B, S, D)
        each = event_sum(self.family.log_prob(u), 1) - event_sum(s[1], 1)
        if s[2].shape[1] == 1:
            return each[..., 0]
        return (each + s[2]).logsumexp(-1)

    def log_prior(self, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(z) in nats."""
        log_scale = self.prior_log_scale()
        return event_sum(self.family.log_prob(z * (-log_scale).exp().to(z.dtype)) - log_scale.to(z.dtype), 1)

    def log_likelihoods(self, x: Items, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B M"]:
        """log p(x_m | z) in nats for every modality; 0 for what an item lacks."""
        rows, observed = self.read(x)
        blank = torch.zeros(z.shape[:2], dtype=torch.promote_types(z.dtype, reduction_dtype()), device=z.device)
        each = [net.log_likelihood(rows[name], z) if name in rows else blank for name, net in self._nets().items()]
        table = torch.stack(each, -1)
        return table if bool(observed.all()) else torch.where(observed, table, 0.0)

    def log_joint(self, x: Items, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(x, z) in nats of the modalities that an item has: never rescaled, whatever training did."""
        return self.log_likelihoods(x, z).sum(-1) + self.log_prior(z)

    def parts(self, x: Items, z: Float[Tensor, "K B D"]) -> dict[str, Tensor]:
        """The parts of the joint, (K, B) each: what an error message names."""
        each = self.log_likelihoods(x, z).unbind(-1)
        return {"log p(z)": self.log_prior(z)} | {f"log p({n}|z)": e for n, e in zip(self.names, each, strict=True)}

    def divergences(self, s: Mixture) -> Float[Tensor, "B S"]:
        """KL(q(z | x_A) to p(z)) in nats, in closed form, for every component."""
        return event_sum(self.family.divergence(s[0], s[1], self.prior_log_scale().to(s[0].dtype)), 1)

    # --- what a user asks for

    def given(self, x: Items, names: Iterable[str] | None = None) -> Mixture:
        """q(z | x_A) of the named modalities: their product, or the mixture of their experts where only single ones are components.

        Raises:
            UserError: a modality that the model or the items lack.
        """
        names = self.names if names is None else tuple(names)
        row = torch.tensor([name_members(self.names, names)], device=self.members.device)
        part = x if isinstance(x, Tensor) else part_of(x, names)
        if isinstance(x, Tensor):
            part = {name: value for name, value in self.split(x).items() if name in names}
        if bool((self.members.sum(1) == 1).all()):
            return self.encode(part)
        experts = self.experts(part)
        return *self.products(experts, row), self.log_subset.new_zeros(experts[2].shape[0], 1)

    def split(self, x: Shaped[Tensor, "B *any"]) -> dict[str, Shaped[Tensor, "B *shape"]]:
        """One tensor with all modalities side by side, as a dict."""
        dims = tuple(m.dims for m in self.config.modalities.values())
        values, _ = read_items(self.names, dims, x)
        return {name: part.unflatten(1, self.config.modalities[name].shape) for name, part in values.items()}

    def join(self, parts: Mapping[str, Shaped[Tensor, "K B *shape"]]) -> Shaped[Tensor, "K B dims"]:
        """All modalities of drawn items side by side: `split` undoes it for one draw."""
        return torch.cat([parts[name].flatten(2) for name in self.names], -1)

    def translate(
        self, x: Items, given: Iterable[str], to: Iterable[str] | None = None, *, draws: Draws, sample: bool = False
    ) -> dict[str, Float[Tensor, "K B *shape"]]:
        """Modalities given others: z from q(z | x_A), then E[x_m | z] or, with ``sample``, x_m itself.

        Where q is a mixture, every draw of every item has its own expert.
        """
        to = [n for n in self.names if n not in set(given)] if to is None else list(to)
        name_members(self.names, to)
        return self._emit(self.sample(self.given(x, given), draws), to, draws if sample else None)

    def generate(self, draws: Draws, *, means: bool = False) -> dict[str, Float[Tensor, "K B *shape"]]:
        """All modalities together: z from the prior, then x_m given z (or its mean)."""
        return self._emit(self._from_prior(draws), self.names, None if means else draws)

    def simulate(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "1 n D"], dict[str, Tensor]]:
        """n items with their latents. z, given x or any part of it, is an exact posterior draw: ``latents=`` of upper bounds."""
        items = torch.arange(n, device=self.members.device)
        draws = Plan.iid(1).draws(items, seed=seed, salt="simulate")
        with torch.no_grad():
            z = self._from_prior(draws)
            return z, {name: part[0] for name, part in self._emit(z, self.names, draws).items()}

    def reconstruct(self, x: Items) -> dict[str, Float[Tensor, "B *shape"]]:
        """E[x_m | z] of all modalities at the mean of q(z | x), given what the items have."""
        mean, _, log_weights = self.encode(x)
        centre = (log_weights.exp()[..., None].to(mean.dtype) * mean).sum(1)
        return {name: part[0] for name, part in self._emit(centre[None], self.names, None).items()}

    def _from_prior(self, draws: Draws) -> Float[Tensor, "K B D"]:
        z = self.family.noise(draws, "prior", self.config.latent)
        return z.to(next(self.parameters()).dtype) * self.prior_log_scale().exp()

    def _emit(self, z: Tensor, names: Iterable[str], draws: Draws | None) -> dict[str, Tensor]:
        nets = self._nets()
        if draws is None:
            return {name: nets[name].mean(z) for name in names}
        return {name: nets[name].sample(z, draws.fork(name)) for name in names}
