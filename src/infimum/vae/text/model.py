"""The variational auto-encoder of sentences: p(z), p(x | z) word by word, q(z | x) (Bowman et al. 2016, 1511.06349)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from infimum.data.text import END, PAD, UNKNOWN, Vocabulary
from infimum.errors import UserError
from infimum.evidence import Draws, LatentModel, Plan, event_sum
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.decoders import START, decoder_of
from infimum.vae.text.decoding import sample_words
from infimum.vae.text.encoders import encoder_of
from infimum.vae.text.families import family_of

__all__ = ["TextVAE"]


class TextVAE(LatentModel):
    """Sentences as word numbers (B, length): words, the end, padding.

    log p(x | z) is the sum over the words and the end, in nats a sentence. A sentence of length - 1 words ends there with
    certainty, so that the probabilities of all sentences that fit add up to one.

    Streams: "z" (posterior), "prior", "words" (generation).
    """

    Config = TextVAEConfig
    ceiling = 0.0
    """log p(x) of words cannot exceed 0."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.family = family_of(config)
        self.encoder = encoder_of(config, self.family.inputs)
        self.decoder = decoder_of(config)
        self.bag = nn.Linear(config.latent, len(config.words) - 1) if config.bag_of_words else None

    @property
    def vocabulary(self) -> Vocabulary:
        """The words with their numbers: ``vocabulary.items(texts, config.length)``, ``vocabulary.decode(rows)``."""
        return self.config.vocabulary

    def ids(self, x: Float[Tensor, "B T"]) -> Int[Tensor, "B t"]:
        """Word numbers without the columns that are padding in every row.

        Raises:
            UserError: items of another length, or numbers that are no words.
        """
        if x.shape[1] != self.config.length:
            raise UserError(
                f"expected sentences of {self.config.length} word numbers, padding included, got {x.shape[1]}"
            )
        ids = x.long()
        if bool(((ids < 0) | (ids >= len(self.config.words))).any()):
            worst = int(ids.max())
            raise UserError(
                f"there is no word {worst}, expected numbers 0 to {len(self.config.words) - 1}: use vocabulary.items"
            )
        return ids[:, : max(1, int((ids != PAD).sum(1).max()))]

    def encode(self, x: Float[Tensor, "B T"]) -> Any:
        """Parameters of q(z | x), leading axis B."""
        h = self.encoder(self.ids(x))
        if not bool(torch.isfinite(h.detach()).all()):
            items = (~torch.isfinite(h.detach()).all(1)).nonzero().flatten().tolist()[:8]
            raise UserError(
                f"the encoder's outputs (layer encoder.out) are not finite for items {items} of the batch: lower the learning "
                "rate or clip the gradient"
            )
        return self.family.split(h)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        """Latents from q(z | x), differentiable in its parameters."""
        return self.family.sample(s, draws)

    def log_proposal(self, s: Any, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log q(z | x) in nats."""
        return self.family.log_prob(s, z)

    def log_prior(self, z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(z) in nats."""
        return self.family.log_prior(z)

    def log_likelihood(
        self, x: Float[Tensor, "B T"], z: Float[Tensor, "K B D"], *, keep: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "K B"]:
        """log p(x | z) in nats: the words and the end.

        Args:
            keep: which words the decoder reads; the others are <unknown> to it (word dropout, 1511.06349).
        """
        ids = self.ids(x)
        read = torch.cat((torch.full_like(ids[:, :1], START), ids[:, :-1]), 1)
        if keep is not None:
            seen = torch.cat((torch.ones_like(keep[:, :1]), keep), 1)[:, : ids.shape[1]]
            read = torch.where(seen, read, UNKNOWN)
        h = self.decoder.states(read, z)
        counts = self._predicted(ids)
        at = counts.flatten().nonzero().squeeze(1)  # only words are worth the output layer
        there = h.flatten(1, 2).index_select(1, at)
        logits = self.decoder.logits(there, z.index_select(1, at // ids.shape[1]))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = (ids.flatten()[at] - 1).expand(z.shape[0], -1)
        nats = -F.cross_entropy(logits.flatten(0, 1), target.reshape(-1), reduction="none").view(z.shape[0], -1)
        table = nats.new_zeros(z.shape[0], ids.numel()).index_copy(1, at, nats)
        return event_sum(table.unflatten(1, ids.shape), 1)

    def _predicted(self, ids: Int[Tensor, "B t"]) -> Bool[Tensor, "B t"]:
        """The positions that the decoder predicts: all but padding and an end that is certain."""
        counts = ids != PAD
        return counts & (torch.arange(ids.shape[1], device=ids.device) < self.config.length - 1)

    def log_joint(self, x: Float[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(x, z) in nats: always the unmodified joint, whatever the training objective was."""
        return self.log_likelihood(x, z) + self.log_prior(z)

    def parts(self, x: Float[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> dict[str, Tensor]:
        """The parts of the joint, (K, B) each: what an error message names."""
        return {"log p(z)": self.log_prior(z), "log p(x|z)": self.log_likelihood(x, z)}

    def log_bag(self, x: Float[Tensor, "B T"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """The words predicted from z alone, in any order, in nats: an auxiliary loss, no part of the model.

        Raises:
            UserError: the model was built without the head.
        """
        if self.bag is None:
            raise UserError("this model has no bag-of-words head: build it with bag_of_words=True")
        ids = self.ids(x)
        words = self.bag(z).log_softmax(-1)
        each = words.gather(-1, (ids - 1).clamp_min(0).expand(z.shape[0], -1, -1))
        return event_sum(torch.where(ids > END, each, 0.0), 1)

    def generate(self, draws: Draws) -> Float[Tensor, "K B T"]:
        """Sentences from the model: z from the prior, words given z."""
        return self._ancestral(draws)[1]

    def simulate(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "1 n D"], Float[Tensor, "n T"]]:
        """n sentences with their latents. z, given x, is an exact posterior draw: pass it as ``latents=`` for upper bounds."""
        items = torch.arange(n, device=next(self.parameters()).device)
        z, x = self._ancestral(Plan.iid(1).draws(items, seed=seed, salt="simulate"))
        return z, x[0]

    @torch.no_grad()
    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B T"]]:
        z = self.family.prior(draws).to(next(self.parameters()).dtype)
        u = draws.uniform("words", self.config.length)
        rows = sample_words(self, z.flatten(0, 1), u.flatten(0, 1))
        return z, rows.unflatten(0, draws.shape).to(z.dtype)
