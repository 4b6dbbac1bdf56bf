"""Gradient estimators as rows of coefficients.

Cut the graph at z. Any gradient of a bound is then three sums with (K, B) coefficients computed from the detached table::

    sum a * d log_joint(x, z) at fixed z  +  sum b * (d log_w / dz) dz  +  sum c * d log_proposal(z) at fixed z

so adding an estimator is adding a row to `RULES`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.debias import leave_one_out
from infimum.evidence.reductions import log_shares, log_sum_exp
from infimum.evidence.tables import LogWeights

__all__ = ["RULES", "TOTAL", "Coefficients", "Rule", "disarm_rule", "renyi_rule", "rule_of", "tvo_rule"]


class Coefficients(NamedTuple):
    """Coefficients of an ascent direction, each (K, B); None is zero.

    Attributes:
        joint: a, of the gradient of log_joint at fixed latents.
        path: b, of d log_w / dz through the sampler.
        score: c, of the gradient of log_proposal at fixed latents.
        pair: of the model's ``pair_score(s, z)``, (K/2, B), for antithetic pairs of binary latents.
    """

    joint: Float[Tensor, "K B"]
    path: Float[Tensor, "K B"] | None = None
    score: Float[Tensor, "K B"] | None = None
    pair: Float[Tensor, "P B"] | None = None


Rule = Callable[[LogWeights], Coefficients]


def _share(w: LogWeights) -> Tensor:
    """Shares; 0 for items whose ELBO is -inf, as autograd has it."""
    log_share = log_shares(w)
    return torch.where(((w.log_w > -math.inf) | (log_share == -math.inf)).all(0), log_share.exp(), 0.0)


def _finite(w: LogWeights) -> Tensor:
    """Log-weights, with 0 for -inf: for sums whose coefficient there is 0."""
    return torch.where(w.log_w > -math.inf, w.log_w, 0.0).double()


def _normalised(w: LogWeights, power: float = 1.0) -> Tensor:
    """v = softmax(power * log_w + log_share); 0 for items without any mass."""
    dead = w.log_w == -math.inf
    log_w = torch.where(dead, -math.inf, power * _finite(w) + log_shares(w))
    total = log_sum_exp(log_w)
    v = (log_w - torch.where(total == -math.inf, 0.0, total)).exp()
    return v if power > 0 else torch.where(dead.any(0), 0.0, v)  # a power mean of order <= 0 is 0 there


def _independent(w: LogWeights, name: str, least: int = 1) -> None:
    if w.shape[0] < least:
        raise UserError(f"rule {name!r} needs at least {least} draws per item, got K={w.shape[0]}")
    if w.log_share is not None or (w.draws is not None and not w.draws.plan.independent):
        raise UserError(
            f"rule {name!r} needs independent draws of equal share, each from the proposal: use Plan.iid(k), "
            "or rule 'iwae', 'elbo' or 'stl', which any unbiased plan serves"
        )


def elbo_rule(w: LogWeights) -> Coefficients:
    """Total derivative of the ELBO, as autograd takes it."""
    s = _share(w)
    return Coefficients(s, s, -s)


def stl_rule(w: LogWeights) -> Coefficients:
    """Sticking the landing: the score of q, of mean zero, is dropped (Roeder et al. 2017, 1703.09194)."""
    s = _share(w)
    return Coefficients(s, s)


def rloo_rule(w: LogWeights) -> Coefficients:
    """REINFORCE for the ELBO, each draw's baseline the mean of the others (Kool et al. 2019)."""
    _independent(w, "rloo", 2)
    s, log_w, k = _share(w), _finite(w), w.shape[0]
    return Coefficients(s, None, s * (log_w - (log_w.sum(0) - log_w) / (k - 1)))


def iwae_rule(w: LogWeights) -> Coefficients:
    """Total derivative of the importance-weighted bound, as autograd takes it (1509.00519)."""
    v = _normalised(w)
    return Coefficients(v, v, -v)


def dreg_rule(w: LogWeights) -> Coefficients:
    """Doubly reparameterised gradient of the importance-weighted bound (Tucker et al. 2019, 1810.04152, eq. 8)."""
    _independent(w, "dreg")
    v = _normalised(w)
    return Coefficients(v, v.square())


def stl_iwae_rule(w: LogWeights) -> Coefficients:
    """Importance-weighted bound without the score of q: biased for K > 1 (00-bounds 3.4)."""
    v = _normalised(w)
    return Coefficients(v, v)


def renyi_rule(alpha: float) -> Rule:
    """Total derivative of the Renyi bound (1602.02311, eq. 14)."""
    if alpha == 1:
        raise UserError("the Renyi rule at alpha=1 is rule 'elbo'")

    def renyi(w: LogWeights) -> Coefficients:
        v = _normalised(w, 1 - alpha)
        return Coefficients(v, v, -v)

    return renyi


def vimco_rule(w: LogWeights) -> Coefficients:
    """VIMCO (Mnih & Rezende 2016, 1602.06725): REINFORCE for L_K, the baseline replaces log_w_k by the others' mean."""
    _independent(w, "vimco", 2)
    log_w, finite, k = w.log_w.double(), _finite(w), w.shape[0]
    level = log_sum_exp(log_w)
    dead = log_w == -math.inf
    others = torch.where(dead.sum(0) > dead.long(), -math.inf, (finite.sum(0) - finite) / (k - 1))
    baseline = torch.logaddexp(leave_one_out(log_w), others)
    # Where all others are dead any number of one's own choice may stand in for their mean: 0.
    baseline = torch.where(baseline == -math.inf, 0.0, baseline)
    v = _normalised(w)
    return Coefficients(v, None, torch.where(level == -math.inf, 0.0, level - baseline - v))


def rws_rule(w: LogWeights) -> Coefficients:
    """Reweighted wake-sleep, wake-phi: the proposal follows its self-normalised cross-entropy (1406.2751)."""
    v = _normalised(w)
    return Coefficients(v, None, v)


def rws_dreg_rule(w: LogWeights) -> Coefficients:
    """Wake-phi in doubly reparameterised form (1810.04152, eq. 12)."""
    _independent(w, "rws_dreg")
    v = _normalised(w)
    return Coefficients(v, v - v.square())


def tvo_rule(betas: Sequence[float], *, exact: bool = False) -> Rule:
    """Covariance gradient of the left thermodynamic sum, for any latent (Masrani et al. 2019, 1907.00031, eq. 14).

    Args:
        betas: increasing, from 0 to 1.
        exact: the table is a sum over all latents, so the covariance needs no K / (K - 1).
    """
    grid = torch.tensor(list(betas), dtype=torch.float64)
    if grid.numel() < 2 or grid[0] != 0 or grid[-1] != 1 or bool((grid.diff() <= 0).any()):
        raise UserError(f"tvo needs betas that increase from 0 to 1, got {list(betas)}")

    def tvo(w: LogWeights) -> Coefficients:
        if not exact:
            _independent(w, "tvo", 2)
        k = w.shape[0]
        correction = 1.0 if exact else k / (k - 1)
        f = _finite(w)
        joint, score = torch.zeros_like(f), torch.zeros_like(f)
        for beta, h in zip(grid[:-1].tolist(), grid.diff().tolist(), strict=True):
            v = _normalised(w, beta) if beta else _share(w)
            e = v * (f - (v * f).sum(0)) * correction
            joint += h * (v + beta * e)
            score += h * (-v + (1 - beta) * e)
        return Coefficients(joint, None, score)

    return tvo


def disarm_rule(w: LogWeights) -> Coefficients:
    """DisARM for antithetic pairs of binary latents (Dong et al. 2020, 2006.10680): (log_w - log_w') / 2 a pair.

    The model supplies ``pair_score(s, z)``, the sum over dimensions of stop((b - b') sigmoid(abs(a))) a, (K/2, B).
    """
    if w.draws is None or w.draws.plan.noise != "antithetic":
        raise UserError("rule 'disarm' needs antithetic pairs: use Plan.antithetic(k)")
    s, log_w = _share(w), _finite(w)
    return Coefficients(s, pair=s[0::2] * (log_w[0::2] - log_w[1::2]))


RULES: dict[str, Rule] = {
    "elbo": elbo_rule,
    "stl": stl_rule,
    "rloo": rloo_rule,
    "iwae": iwae_rule,
    "dreg": dreg_rule,
    "stl_iwae": stl_iwae_rule,
    "vimco": vimco_rule,
    "rws": rws_rule,
    "rws_dreg": rws_dreg_rule,
    "disarm": disarm_rule,
}

TOTAL = frozenset({elbo_rule, iwae_rule})  # c = -b = -a: autograd's own derivative, which needs no cut


def rule_of(rule: str | Rule) -> Rule:
    """A rule by name or as it is."""
    if callable(rule):
        return rule
    if rule not in RULES:
        raise UserError(
            f"no gradient rule {rule!r}: the rules are {', '.join(RULES)}, renyi_rule(alpha), tvo_rule(betas)"
        )
    return RULES[rule]
