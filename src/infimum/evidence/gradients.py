"""Taking a bound's gradient: by the rules' coefficients in one pass, or in two in the memory of one chunk."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.draws import Draws
from infimum.evidence.model import LatentModel
from infimum.evidence.rules import TOTAL, Coefficients, Rule, disarm_rule, rule_of
from infimum.evidence.tables import LogWeights
from infimum.evidence.weights import log_weights_of, need_whole, own_log_share

__all__ = ["bound_backward", "two_pass_backward"]


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
    if rule in TOTAL:
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
