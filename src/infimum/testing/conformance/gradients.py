"""Gradients: finite, the same by every route, and unbiased."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.evidence import bound_backward, iwae, weigh
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.plan import Plan
from infimum.testing.conformance.case import FEW, ITEMS, Case, discrete
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.statistics import student_limit

__all__ = [
    "collected",
    "finite_gradients",
    "gradient_rules",
    "need_parameters",
    "own_gradients",
    "pathwise",
    "reached",
    "score",
    "unbiased_gradients",
]

ROWS = 12  # items of a block
BLOCKS = 48
SCOUTS = 16  # blocks that choose the direction in which the others are tested


@contextmanager
def own_gradients(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The parameters with empty .grad; the user's own gradients are put back."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        with torch.enable_grad():
            yield parameters
    finally:
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad


def _vector(parameters: list[nn.Parameter], grads: Any) -> Float[Tensor, "P"]:
    parts = [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(parameters, grads, strict=True)]
    return torch.cat([part.flatten().double() for part in parts])


def collected(parameters: list[nn.Parameter], call: Callable[[], Any]) -> Float[Tensor, "P"]:
    for p in parameters:
        p.grad = None
    call()
    return _vector(parameters, [p.grad for p in parameters])


def reached(model: nn.Module, parameters: list[nn.Parameter]) -> str:
    """How many parameters got a gradient, by a backward call just done; fails where one is not finite."""
    names = {p: name for name, p in model.named_parameters()}
    for p in parameters:
        if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
            raise Failed(
                f"the gradient of {names[p]} is not finite though the table is: look for sqrt or log at 0, or where() on them"
            )
    unused = [names[p] for p in parameters if p.grad is None]
    got = f"{len(parameters) - len(unused)} of {len(parameters)} parameters get a finite gradient"
    return got + (f"; none reaches {', '.join(unused[:3])}" if unused else "")


def need_parameters(parameters: list[nn.Parameter]) -> None:
    if not parameters:
        raise Skipped("the model has no trainable parameters")


def finite_gradients(case: Case) -> str:
    """Autograd through the ELBO's weights gives finite numbers."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        table = weigh(case.model, case.x, case.draws(Plan.iid(FEW)))
        if not table.log_w.requires_grad:
            raise Failed("log_w carries no gradient although the model has parameters: a detach() or no_grad too many")
        torch.where(torch.isfinite(table.log_w), table.log_w, 0.0).mean().backward()
        return reached(case.model, parameters)


def _reparameterised(case: Case) -> bool:
    """Whether the latents are continuous and depend on the encoder differentiably; fails where they should and do not."""
    s = case.model.encode(case.x)
    z = case.model.sample(s, case.draws(Plan.iid(FEW)))
    parts = list(leaves(z))
    learned = any(part.requires_grad for part in leaves(s))
    if case.pathwise is False or not learned or any(discrete(part) for part in parts):
        return False
    if not all(part.requires_grad for part in parts):
        raise Failed(
            "the latents are continuous but carry no gradient to encode(x): remove detach() or no_grad from sample, or pass "
            "pathwise=False to check_model if the model is trained by 'rloo', 'vimco' or 'rws' on purpose"
        )
    return True


def gradient_rules(case: Case) -> str:
    """bound_backward equals autograd through the bound, and two passes equal one."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        draws = case.draws(Plan.iid(FEW))
        try:
            live = _reparameterised(case)
        except Failed:
            live = False
        rule = "iwae" if live else "vimco"

        def one(rows: int) -> Tensor:
            return collected(parameters, lambda: bound_backward(case.model, case.x, draws, rule, rows=rows))

        single = one(2**14)
        routes = {"two passes": one(2 * ITEMS)}
        if live:
            plain = collected(parameters, lambda: (-iwae(weigh(case.model, case.x, draws)).value.mean()).backward())
            routes["autograd through iwae(weigh(...))"] = plain
        coarse = any(p.dtype != torch.float64 for p in parameters)
        for name, other in routes.items():
            error = float((single - other).abs().max() / (1e-12 + single.abs().max()))
            if not error < (1e-3 if coarse else 1e-7):
                raise Failed(
                    f"the gradient by rule {rule!r} in one pass and by {name} differ by {error:.1e} of its largest entry: "
                    "something in the model depends on how often or in which chunks it is called"
                )
        return f"rule {rule!r}: one pass agrees with " + " and with ".join(routes)


def _test_zero_mean(blocks: Float[Tensor, "R P"], size: Float[Tensor, "P"], level: float) -> tuple[float, float]:
    """(|t|, limit) that the mean of independent rows is zero.

    The first blocks choose the direction in which the deviation is clearest; the others are tested along it. So one test
    covers all parameters, however many there are.
    """
    scouts, rest = blocks[:SCOUTS], blocks[SCOUTS:]
    floor = 1e-5 * size + 1e-12 * (1 + size.max())  # below, it is rounding
    mean, var = scouts.mean(0), scouts.var(0)
    direction = torch.where(mean.abs() + var.sqrt() > floor, mean / (var + floor.square()), 0.0)
    along = rest @ direction
    limit = student_limit(level, len(along) - 1)
    if not bool(direction.any()):
        return 0.0, limit
    error = along.std() / math.sqrt(len(along))
    return float(along.mean().abs() / error.clamp_min(1e-300)), limit


def _block_draws(case: Case, plan: Plan, seed: int, block: int) -> Any:
    return case.draws(plan, ROWS, seed=seed, first=block * ROWS)


def _support_moves(case: Case, s: Any, z: Any) -> bool:
    """Whether q's support depends on its parameters: then the score has no zero mean."""
    with torch.no_grad():
        moved = [map_tree(lambda t, c=c: t * c if t.is_floating_point() else t, s) for c in (0.99, 1.01)]
        try:
            return any(bool((~torch.isfinite(case.model.log_proposal(m, z))).any()) for m in moved)
        except ValueError:
            return True  # argument checks of torch.distributions refuse values outside the support


def score(case: Case) -> str:
    """E_q[grad log q] = 0, so that rules 'elbo' and 'stl' agree in expectation."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        s = case.model.encode(case.repeated(ROWS))
        rows = []
        for block in range(BLOCKS):
            z = map_tree(lambda t: t.detach(), case.model.sample(s, _block_draws(case, Plan.iid(8), 40, block)))
            log_q = case.model.log_proposal(s, z)
            if not log_q.requires_grad:
                raise Skipped("the proposal has no parameters of its own")
            if block == 0 and _support_moves(case, s, z):
                raise Skipped("the support of the proposal moves with its parameters")
            rows.append(_vector(parameters, _grads(log_q.mean(), parameters)))
        blocks = torch.stack(rows)
        t, limit = _test_zero_mean(blocks, blocks.abs().amax(0), case.level)
        if t > limit:
            raise Failed(
                f"the score of the proposal has a mean other than 0 (|t| = {t:.1f}, expected at most {limit:.1f}): "
                "log_proposal lacks a normaliser that depends on s, or is not the density that sample draws from"
            )
        return f"mean score 0, |t| = {t:.1f} <= {limit:.1f}"


def _grads(value: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)


def pathwise(case: Case) -> str:
    """The gradient through the sampler is that of the distribution: for a bounded f, E[f' dz] = E[f grad log q]."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        if not _reparameterised(case):
            raise Skipped("the latents are discrete, or do not depend on parameters, or pathwise=False")
        s = case.model.encode(case.repeated(ROWS))
        generator = torch.Generator().manual_seed(case.seed)
        scouts = case.model.sample(s, case.draws(Plan.iid(32), ROWS, seed=50))
        views = []
        for part in leaves(scouts):
            event = part.detach().reshape(*part.shape[:2], -1)
            weight = torch.randn(event.shape[-1], generator=generator).to(event) / math.sqrt(event.shape[-1])
            views.append((event.mean((0, 1)), event.std((0, 1)) + 1e-12, weight))

        def f(z: Any) -> Tensor:
            lines = [
                ((part.reshape(*part.shape[:2], -1) - m) / sd) @ w
                for part, (m, sd, w) in zip(leaves(z), views, strict=True)
            ]
            return (0.5 + torch.stack(lines).sum(0)).tanh()

        centre = f(scouts).detach().mean(0)
        rows, sizes = [], []
        for block in range(BLOCKS):
            z = case.model.sample(s, _block_draws(case, Plan.iid(8), 51, block))
            fixed = map_tree(lambda t: t.detach(), z)
            if block == 0 and _support_moves(case, s, fixed):
                raise Skipped("the support of the proposal moves with its parameters")
            path = _vector(parameters, _grads(f(z).mean(), parameters))
            by_score = ((f(fixed) - centre) * case.model.log_proposal(s, fixed)).mean()
            rows.append(path - _vector(parameters, _grads(by_score, parameters)))
            sizes.append(path.abs())
        t, limit = _test_zero_mean(torch.stack(rows), torch.stack(rows + sizes).abs().amax(0), case.level)
        if t > limit:
            raise Failed(
                f"the gradient through sample is not that of the distribution in log_proposal (|t| = {t:.1f}, expected at "
                f"most {limit:.1f}): a part of sample is detached, or its latents are not reparameterised"
            )
        return f"the gradient through the latents is unbiased, |t| = {t:.1f} <= {limit:.1f}"


def unbiased_gradients(case: Case) -> str:
    """Two unbiased rules for the same bound agree in expectation: 'dreg' and 'iwae', or 'disarm' and 'rloo'."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        live = _reparameterised(case)
        if not live and not hasattr(case.model, "pair_score"):
            raise Skipped("there is one unbiased rule only for latents that are not reparameterised")
        x = case.repeated(ROWS)
        iid, twins = Plan.iid(4), Plan.antithetic(4)
        rules = {"dreg": iid, "iwae": iid} if live else {"disarm": twins, "rloo": iid}
        first, second = rules
        rows, sizes = [], []
        for block in range(BLOCKS):
            a, b = (
                collected(
                    parameters,
                    functools.partial(bound_backward, case.model, x, _block_draws(case, plan, 60, block), rule),
                )
                for rule, plan in rules.items()
            )
            rows.append(a - b)
            sizes.append(a.abs() + b.abs())
        t, limit = _test_zero_mean(torch.stack(rows), torch.stack(sizes).amax(0), case.level)
        if t > limit:
            raise Failed(
                f"rules {first!r} and {second!r} disagree in expectation (|t| = {t:.1f}, expected at most {limit:.1f}): "
                "the latents are not a differentiable function of s and the draws, or log_proposal is not their density"
            )
        return f"rules {first!r} and {second!r} agree in expectation, |t| = {t:.1f} <= {limit:.1f}"
