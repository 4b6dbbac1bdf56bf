"""Gradient estimators as rows of coefficients.

Cut the graph at z. Any gradient of a bound is then three sums with (K, B) coefficients computed from the detached table::

    sum a * d log_joint(x, z) at fixed z  +  sum b * (d log_w / dz) dz  +  sum c * d log_proposal(z) at fixed z

so adding an estimator is adding a row to `RULES`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.bounds import log_shares, log_sum_exp
from infimum.evidence.debias import leave_one_out
from infimum.evidence.draws import Draws
from infimum.evidence.model import LatentModel
from infimum.evidence.tables import LogWeights
from infimum.evidence.weights import log_weights_of, need_whole, own_log_share

__all__ = ["RULES", "Coefficients", "Rule", "bound_backward", "renyi_rule", "tvo_rule", "two_pass_backward"]


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

_TOTAL = frozenset({elbo_rule, iwae_rule})  # c = -b = -a: autograd's own derivative, which needs no cut


def rule_of(rule: str | Rule) -> Rule:
    """A rule by name or as it is."""
    if callable(rule):
        return rule
    if rule not in RULES:
        raise UserError(
            f"no gradient rule {rule!r}: the rules are {', '.join(RULES)}, renyi_rule(alpha), tvo_rule(betas)"
        )
    return RULES[rule]


class _Forward(NamedTuple):
    """One chunk's graph, cut at z: the decoder sees ``z`` through a gate whose gradient is scaled once b / a is known.

    Uncut, ``z_fixed`` is ``z`` itself: all that a total derivative needs.
    """

    z: Any
    z_fixed: Any
    log_q: Tensor
    log_joint: Tensor
    gate: list[Tensor | None]
    pair: Tensor | None


def _forward(model: LatentModel, x: Any, s: Any, draws: Draws, rule: Rule) -> tuple[Tensor, _Forward]:
    z = model.sample(s, draws)
    if rule in _TOTAL:
        log_w, log_joint, log_q = log_weights_of(model, x, s, z, draws.shape)
        return log_w, _Forward(z, z, log_q, log_joint, [], None)
    gate: list[Tensor | None] = []

    def scaled(g: Tensor) -> Tensor:
        return g if gate[0] is None else g * gate[0].to(g.dtype).reshape(*g.shape[:2], *[1] * (g.ndim - 2))

    def gated(part: Tensor) -> Tensor:
        if not part.requires_grad:
            return part
        view = part.view_as(part)
        view.register_hook(scaled)
        return view

    def fixed(part: Tensor) -> Tensor:
        return part.detach().requires_grad_(part.requires_grad)

    z_fixed = map_tree(fixed, z)
    # log q sees z as a leaf: its gradient splits into the parameters' share (score) and z's share (path).
    log_w, log_joint, log_q = log_weights_of(model, x, s, map_tree(gated, z), draws.shape, z_fixed)
    pair = model.pair_score(s, z) if rule is disarm_rule else None  # type: ignore[operator]
    return log_w, _Forward(z, z_fixed, log_q, log_joint, gate, pair)


def _loss(forward: _Forward, c: Coefficients, rule: str, items: int) -> Tensor:
    """A scalar whose gradient is that of -mean over items of the bound, by the three sums."""
    dtype = forward.log_joint.dtype
    joint = c.joint.to(dtype)
    moving = [(z, f) for z, f in zip(leaves(forward.z), leaves(forward.z_fixed), strict=True) if z.requires_grad]
    if c.path is not None:
        if len(moving) < len(list(leaves(forward.z))) and forward.log_q.requires_grad:
            which = "some of the latents" if moving else "the latents"
            raise UserError(
                f"rule {rule!r} needs reparameterised draws, but {which} do not depend on the proposal differentiably: "
                "use 'rloo', 'vimco', 'rws' or tvo_rule(betas)"
            )
        if forward.z_fixed is forward.z:
            return -(torch.where(joint != 0, forward.log_joint - forward.log_q, 0.0) * joint).sum() / items
    loss = -(torch.where(joint != 0, forward.log_joint, 0.0) * joint).sum()
    if c.path is not None:
        path = c.path.to(dtype)
        if c.path is not c.joint and bool(((c.joint == 0) & (c.path != 0)).any()):
            raise UserError(
                f"rule {rule!r} has a path coefficient where that of the joint is 0: the two share one pass"
            )
        ratio = c.path / torch.where(c.joint == 0, 1.0, c.joint)
        forward.gate.append(None if c.path is c.joint else torch.where(c.joint == 0, 0.0, ratio))
        if moving and forward.log_q.requires_grad:
            grads = torch.autograd.grad(
                forward.log_q,
                [f for _, f in moving],
                path.to(forward.log_q.dtype),
                retain_graph=True,
                allow_unused=True,
            )
            for (z, _), g in zip(moving, grads, strict=True):
                if g is not None:
                    loss = loss + (z * g).sum().to(dtype)
    else:
        forward.gate.append(torch.zeros_like(c.joint))
    if c.score is not None:
        loss = loss - (forward.log_q * c.score.to(dtype)).sum()
    if c.pair is not None and forward.pair is not None:
        loss = loss - (forward.pair * c.pair.to(dtype)).sum()
    return loss / items


def _table(model: LatentModel, draws: Draws, log_w: Tensor, log_joint: Tensor, log_q: Tensor) -> LogWeights:
    return LogWeights(
        log_w.detach(),
        own_log_share(draws),
        unbiased=not draws.biased,
        target=getattr(model, "target", "log p(x)"),
        log_joint=log_joint.detach(),
        log_proposal=log_q.detach(),
        draws=draws,
        calls=log_w.numel(),
    )


def bound_backward(
    model: LatentModel,
    x: Any,
    draws: Draws,
    rule: str | Rule,
    *,
    rows: int = 2**14,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> LogWeights:
    """Accumulate the gradient of -mean over items of a bound into ``.grad``.

    With K B <= rows one forward pass. Beyond, two passes: the first fills the table without a graph, the second replays
    the draws chunk by chunk with their coefficients; memory is that of one chunk, and the encoder still runs once.

    Args:
        model: a `LatentModel`.
        x: batch of B items.
        draws: K draws for each item.
        rule: a name in `RULES`, or a rule such as ``renyi_rule(0.5)``.
        rows: (draw, item) pairs at a time.
        backward: what is called on the loss of each chunk, for loops that wrap it; it may scale the loss.

    Returns:
        The detached table: ``iwae(table)`` is the bound whose gradient was taken.

    Raises:
        UserError: unknown rule; too few or dependent draws for it; a pathwise rule on latents that carry no gradient; a
            second pass that does not reproduce the first.
    """
    name = rule if isinstance(rule, str) else getattr(rule, "__name__", "rule")
    coefficients = rule_of(rule)
    if coefficients is disarm_rule and not hasattr(model, "pair_score"):
        raise UserError(f"rule 'disarm' needs {type(model).__name__}.pair_score(s, z) for binary latents: use 'rloo'")
    need_whole(draws)
    k, b = draws.shape
    if k * b <= rows:
        s = model.encode(x)
        log_w, forward = _forward(model, x, s, draws, coefficients)
        table = _table(model, draws, log_w, forward.log_joint, forward.log_q)
        backward(_loss(forward, coefficients(table), name, b))
        return table

    s = model.encode(x)
    cut = map_tree(lambda t: t.detach().requires_grad_(t.requires_grad), s)
    chunks = list(_even_chunks(draws, rows, 2 if coefficients is disarm_rule else 1))
    with torch.no_grad():
        lines = [log_weights_of(model, x, cut, model.sample(cut, chunk), chunk.shape) for chunk in chunks]
    table = _table(model, draws, *(torch.cat(column) for column in zip(*lines, strict=True)))
    whole = coefficients(table)
    for chunk in chunks:
        at = slice(chunk.start - draws.start, chunk.stop - draws.start)
        half = slice(at.start // 2, at.stop // 2)
        log_w, forward = _forward(model, x, cut, chunk, coefficients)
        _reproduced(log_w.detach(), table.log_w[at])
        part = Coefficients(
            whole.joint[at],
            None if whole.path is None else whole.path[at],
            None if whole.score is None else whole.score[at],
            None if whole.pair is None else whole.pair[half],
        )
        backward(_loss(forward, part, name, b))
    _through_encoder(s, cut)
    return table


def _even_chunks(draws: Draws, rows: int, multiple: int) -> Sequence[Draws]:
    step = max(multiple, rows // draws.shape[1] // multiple * multiple)
    return [draws[k : k + step] for k in range(0, draws.shape[0], step)]


def _through_encoder(s: Any, cut: Any) -> None:
    """Send the gradients that gathered at the cut through the encoder, once: as they are, scaled by ``backward`` already."""
    ends = [(a, c.grad) for a, c in zip(leaves(s), leaves(cut), strict=True) if c.requires_grad and c.grad is not None]
    if ends:
        torch.autograd.backward([a for a, _ in ends], [g for _, g in ends])


def _reproduced(again: Tensor, before: Tensor) -> None:
    """Both passes must see the same numbers; a network that does not is not a function of its draws."""
    finite = torch.isfinite(before)
    off = torch.where(finite, again - torch.where(finite, before, 0.0), 0.0).abs()
    scale = torch.where(finite, before, 0.0).abs() + 1
    eps = torch.finfo(before.dtype).eps
    same = (off <= 1e4 * eps * scale) & (finite | (again == before))  # NaN is never the same
    if not bool(same.all()):
        raise UserError(
            f"the second pass does not reproduce the first (they differ by {float(off.max()):.2g} nats): the network draws "
            "numbers of its own (dropout), keeps statistics (batch norm), or runs under another autocast; call model.eval() "
            "on such parts, or raise rows so that one pass suffices"
        )


def two_pass_backward(
    stat: Callable[[Draws], Float[Tensor, "k B *rest"]],
    draws: Draws,
    objective: Callable[[Float[Tensor, "K B *rest"]], Float[Tensor, ""]],
    *,
    rows: int = 2**14,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> Float[Tensor, ""]:
    """Gradient of any function of K network calls, in the memory of one chunk.

    Pass 1 fills the statistics S without a graph; autograd on S alone gives g = d objective / dS; pass 2 replays the draws
    chunk by chunk and sends <g, S> backward.

    Args:
        stat: statistics of some of the draws, draws first: scores (k, B) or token statistics (k, B, L).
        draws: all K draws for each of B items.
        objective: scalar to minimise, any differentiable function of all statistics (K, B, ...).
        rows: (draw, item) pairs at a time.
        backward: what is called on each chunk's scalar.

    Returns:
        The objective, detached.

    Raises:
        UserError: the second pass does not reproduce the first.
    """
    chunks = list(draws.chunks(rows))
    with torch.no_grad():
        table = torch.cat([stat(chunk) for chunk in chunks])
    table.requires_grad_(True)
    with torch.enable_grad():
        value = objective(table)
        (slope,) = torch.autograd.grad(value, table)
    table = table.detach()
    for chunk in chunks:
        at = slice(chunk.start - draws.start, chunk.stop - draws.start)
        again = stat(chunk)
        _reproduced(again.detach(), table[at])
        live = slope[at] != 0
        backward((torch.where(live, again, 0.0) * slope[at]).sum())
    return value.detach()
