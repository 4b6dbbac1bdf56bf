"""What a `TextVAE` is built from."""

from dataclasses import dataclass
from typing import Literal

from infimum.data.text import LONGEST, Vocabulary
from infimum.errors import UserError

__all__ = ["Network", "Posterior", "TextVAEConfig"]

Network = Literal["lstm", "transformer"]
Posterior = Literal["gaussian", "batch-norm", "delta", "vmf"]


@dataclass(frozen=True)
class TextVAEConfig:
    """Sizes and families; the defaults are those of 2211.00321 for short sentences.

    Attributes:
        words: of the vocabulary, the special ones first.
        length: of an item: tokens of the longest sentence and its end.
        latent: dimensions of z.
        embedding: width of the word vectors.
        hidden: width of the LSTM, or of the transformer (which has no other width).
        network: "lstm" or "transformer", for encoder and decoder.
        layers: of the transformer.
        heads: of the transformer.
        posterior: "gaussian"; "batch-norm" (means of fixed spread ``gamma``: BN-VAE); "delta" (at least ``delta`` nats a
            dimension: delta-VAE); "vmf" (on the unit sphere, concentration ``kappa``, uniform prior).
        gamma: of "batch-norm".
        delta: of "delta", in nats.
        kappa: of "vmf".
        skip: z into the output layer as well.
        bag_of_words: a head that predicts the words from z alone, for an auxiliary loss.
        dropout: of word vectors and of the decoder's outputs, while training.
    """

    words: tuple[str, ...]
    length: int = LONGEST + 1
    latent: int = 32
    embedding: int = 128
    hidden: int = 512
    network: Network = "lstm"
    layers: int = 2
    heads: int = 4
    posterior: Posterior = "gaussian"
    gamma: float = 0.6
    delta: float = 0.15
    kappa: float = 13.0
    skip: bool = False
    bag_of_words: bool = False
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        Vocabulary(self.words)
        for name in ("latent", "embedding", "hidden", "layers", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a whole number of at least 1")
        if self.length < 2:
            raise UserError(f"length is {self.length}, expected at least 2: a word and the end")
        if self.network not in ("lstm", "transformer"):
            raise UserError(f"no network {self.network!r}: choose lstm or transformer")
        if self.network == "transformer" and self.hidden % (2 * self.heads):
            raise UserError(
                f"hidden is {self.hidden}, expected a multiple of {2 * self.heads}, twice the number of heads"
            )
        if self.posterior not in ("gaussian", "batch-norm", "delta", "vmf"):
            raise UserError(f"no posterior {self.posterior!r}: choose gaussian, batch-norm, delta or vmf")
        for name, kind in (("gamma", "batch-norm"), ("delta", "delta"), ("kappa", "vmf")):
            if self.posterior == kind and not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}, expected a positive number for posterior {kind!r}")
        if self.posterior == "vmf" and self.latent < 2:
            raise UserError(f"latent is {self.latent}, and a sphere needs at least 2 dimensions: raise latent")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}, expected a share from 0 up to but not including 1")

    @property
    def vocabulary(self) -> Vocabulary:
        """The words with their numbers."""
        return Vocabulary(self.words)
