"""What a VAE is trained by: a bound, by any gradient rule, or a loss that is not a bound and says so."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import RULES, Draws, Plan, bound_backward, renyi, renyi_rule, tvo_rule
from infimum.evidence.rules import Rule
from infimum.vae.analytic import closed_divergence
from infimum.vae.model import Autoencoder

__all__ = ["Objective", "regularised_loss"]

INDEPENDENT = ("rloo", "dreg", "vimco", "rws_dreg", "tvo")


def regularised_loss(
    model: Autoencoder, x: Any, draws: Draws, *, beta: float = 1.0, free_bits: float = 0.0
) -> Float[Tensor, ""]:
    """-E[log p(x|z)] + beta * sum_d max(free_bits, mean over items of KL_d), in nats an item.

    At beta = 1 and no free bits it is minus the ELBO with its divergence in closed form; elsewhere not a bound.

    beta-VAE: Higgins et al. (ICLR 2017); free bits: Kingma et al. (2016, 1606.04934, eq. 15), ``free_bits`` nats a dimension.

    Raises:
        UserError: the posterior has no closed-form divergence a dimension.
    """
    s = model.encode(x)
    z = model.sample(s, draws)
    reconstruction = draws.average(model.log_likelihood(x, z)).mean()
    divergence = closed_divergence(model, s).mean(0)  # (D,)
    return -reconstruction + beta * divergence.clamp_min(free_bits).sum()


@dataclass(frozen=True)
class Objective:
    """A training objective of a VAE.

    Attributes:
        rule: gradient rule: a name in `infimum.evidence.RULES`, "renyi", "tvo", or "analytic" (the ELBO with its divergence in
            closed form, for posterior "diagonal").
        k: draws an item.
        noise: "random", "antithetic" or "sobol".
        alpha: of "renyi".
        betas: of "tvo", increasing from 0 to 1.
        beta: weight of the divergence; other than 1 it is not a bound.
        free_bits: nats a dimension below which the divergence costs nothing; above 0 it is not a bound.
    """

    rule: str = "stl"
    k: int = 1
    noise: str = "random"
    alpha: float = 0.5
    betas: tuple[float, ...] = (0.0, 0.1, 1.0)
    beta: float = 1.0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained by."""
        names = [*RULES, "renyi", "tvo", "analytic"]
        if self.rule not in names:
            raise UserError(f"no gradient rule {self.rule!r}: choose one of {', '.join(names)}")
        if self.k < 1:
            raise UserError(f"k is the number of draws an item, at least 1, got {self.k}")
        if self.k < 2 and self.rule in ("rloo", "vimco", "tvo", "disarm"):
            raise UserError(f"rule {self.rule!r} needs at least 2 draws per item, got k={self.k}")
        if self.beta < 0 or self.free_bits < 0:
            raise UserError(f"beta and free_bits must not be negative, got {self.beta} and {self.free_bits}")
        if self.noise not in ("random", "antithetic", "sobol"):
            raise UserError(f"noise is 'random', 'antithetic' or 'sobol', got {self.noise!r}")
        if not self.is_bound and self.rule not in ("elbo", "stl", "analytic"):
            raise UserError(f"beta and free_bits change the ELBO: use rule 'elbo', got {self.rule!r}")
        if self.rule == "renyi" and not math.isfinite(self.alpha):
            raise UserError(f"rule 'renyi' needs a finite alpha, got {self.alpha}")
        if self.noise != "random" and self.rule in INDEPENDENT:
            raise UserError(
                f"rule {self.rule!r} needs independent draws: use noise 'random', or rule 'iwae', 'elbo' or 'stl'"
            )
        _ = self.plan, self.gradient  # they refuse an odd number of twins, alpha = 1 and betas that do not increase

    @property
    def is_bound(self) -> bool:
        """Whether the loss is the negative of a bound on the evidence."""
        return self.beta == 1 and self.free_bits == 0

    @property
    def warning(self) -> str:
        """What an evaluation must say of a model trained by this; empty for a bound."""
        if self.is_bound:
            return ""
        return (
            f"the training objective used beta={self.beta:g}, free_bits={self.free_bits:g} and is not a bound; "
            "the evaluation uses the unmodified joint"
        )

    @property
    def plan(self) -> Plan:
        """How the k draws of a training example are spent."""
        if self.noise == "antithetic" or self.rule == "disarm":
            return Plan.antithetic(self.k)
        return Plan.sobol(self.k) if self.noise == "sobol" else Plan.iid(self.k)

    @property
    def gradient(self) -> str | Rule:
        """The rule with its parameters."""
        if self.rule == "renyi":
            return renyi_rule(self.alpha)
        return tvo_rule(self.betas) if self.rule == "tvo" else self.rule

    def backward(
        self,
        model: Any,
        x: Any,
        draws: Draws,
        *,
        rows: int = 2**14,
        backward: Callable[[Tensor], Any] = Tensor.backward,
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of the loss; returns what it was: {"elbo"} or {"iwae"} ... or {"loss (not a bound)"}."""
        if self.rule == "analytic" or not self.is_bound:
            loss = regularised_loss(model, x, draws, beta=self.beta, free_bits=self.free_bits)
            backward(loss)
            return {"elbo": -loss.detach()} if self.is_bound else {"loss (not a bound)": loss.detach()}
        table = bound_backward(model, x, draws, self.gradient, rows=rows, backward=backward)
        log_w = table.log_w.double()  # the plans above give equal shares, so the bounds are plain means
        report = {"elbo": log_w.mean()}
        if self.k > 1 and self.rule not in ("elbo", "stl", "rloo", "disarm"):
            report["iwae"] = (log_w.logsumexp(0) - math.log(self.k)).mean()
        if self.rule == "renyi":
            report["renyi"] = renyi(table, self.alpha).value.mean()
        return report
