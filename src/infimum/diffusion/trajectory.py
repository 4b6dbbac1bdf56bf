"""The noise levels along which a model is sampled or transported, from noise to data."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.diffusion.heads import Head

__all__ = ["GuidedTrajectory", "ScalarTrajectory", "Trajectory"]


class Trajectory:
    """Log-SNRs as functions of a number s that rises from ``start`` (noise) to ``end`` (data), and the denoiser along them.

    Samplers and the probability flow know nothing else of a model: dz/ds = -1/2 (dlambda/ds) sigma (eps^ - sigma z), each dimension
    with its own lambda where the schedule is a vector.

    Attributes:
        start: s of the noise.
        end: s of the data.
    """

    start: float
    end: float

    def log_snr(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """lambda(s) of every row, d = 1 or one for each dimension."""
        raise NotImplementedError

    def rate(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """dlambda / ds, not negative."""
        raise NotImplementedError

    def denoise(
        self, z: Float[Tensor, "N D"], s: Float[Tensor, "N"], to: Head = "x", then: Float[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N D"]:
        """The model's prediction as that of any head, for a step to ``then`` where the model's step depends on it."""
        raise NotImplementedError

    def of_times(self, t: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """s of times, 1 for noise."""
        raise NotImplementedError

    def take(self, rows: Int[Tensor, "n"]) -> "Trajectory":
        """That of some rows."""
        raise NotImplementedError


class ScalarTrajectory(Trajectory):
    """One log-SNR for all dimensions, which is s itself.

    Args:
        model: a `GaussianDiffusion`.
        context: what its network is told besides the log-SNR, for every row.
    """

    def __init__(self, model: Any, context: Float[Tensor, "N m"] | None = None) -> None:
        self.model, self.context = model, context
        self.start, self.end = model.schedule.limits

    def log_snr(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N 1"]:
        return s[:, None]

    def rate(self, s: Float[Tensor, "N"]) -> Float[Tensor, "N 1"]:
        return torch.ones_like(s)[:, None]

    def denoise(
        self, z: Float[Tensor, "N D"], s: Float[Tensor, "N"], to: Head = "x", then: Float[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N D"]:
        if self.context is None:
            return self.model.denoise(z, s, to=to, then=then)
        return self.model.denoise(z, s, to=to, then=then, context=self.context)

    def of_times(self, t: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        return self.model.schedule.log_snr(t).double()

    def take(self, rows: Int[Tensor, "n"]) -> "ScalarTrajectory":
        return ScalarTrajectory(self.model, None if self.context is None else self.context[rows])


class GuidedTrajectory(ScalarTrajectory):
    """Classifier-free guidance: eps^ = (1 + w) eps^(z, label) - w eps^(z, none) (Ho & Salimans 2022, 2207.12598, eq. 6).

    Args:
        model: a `GaussianDiffusion` of items with labels, some of which were dropped in training.
        context: labels, one-hot.
        guidance: w; 0 asks the network once.
    """

    def __init__(self, model: Any, context: Float[Tensor, "N m"], guidance: float) -> None:
        super().__init__(model, context)
        self.guidance = guidance

    def denoise(
        self, z: Float[Tensor, "N D"], s: Float[Tensor, "N"], to: Head = "x", then: Float[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N D"]:
        assert self.context is not None
        twice = None if then is None else then.repeat(2)
        both = torch.cat((self.context, torch.zeros_like(self.context)))
        with_label, without = self.model.denoise(z.repeat(2, 1), s.repeat(2), to=to, then=twice, context=both).chunk(2)
        return with_label + self.guidance * (with_label - without)  # affine in eps^ for every head

    def take(self, rows: Int[Tensor, "n"]) -> "GuidedTrajectory":
        assert self.context is not None
        return GuidedTrajectory(self.model, self.context[rows], self.guidance)
