"""What a table must satisfy: bounds in their order, and the same expectation under every plan."""

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from infimum.evidence import Estimate, LogWeights, PathTerms, elbo, iwae, path_terms, renyi, snis_eubo, vr_max, weigh
from infimum.evidence.plan import Plan
from infimum.evidence.reductions import log_shares
from infimum.testing.conformance.case import Case
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.statistics import largest_z, normal_limit, two_sample_z

__all__ = ["any_plan", "bounds_in_order", "path_any_plan", "path_below_evidence", "path_lead", "path_lead_degree"]

REPLICATES = 256
SLACK = 1e-9


def bounds_in_order(case: Case) -> str:
    """On one table ELBO <= VR_0.5 <= IWAE <= VR-max, IWAE <= SNIS-EUBO, and the mean over subsets of IWAE grows with K."""
    w = weigh(case.model, case.x, case.draws(Plan.iid(64), seed=70))
    ladder = [elbo(w), *(iwae(w, splits) for splits in (16, 4, 1)), vr_max(w)]
    for row in (ladder, [elbo(w), renyi(w, 0.5), iwae(w), snis_eubo(w)]):
        for small, large in itertools.pairwise(row):
            if bool((small.value > large.value + SLACK * (1 + large.value.abs())).any()):
                raise Failed(
                    f"{small.name} lies above {large.name} on the same table: the table is not one of log-weights"
                )
    return f"ELBO {float(ladder[0].value.mean()):.3f} <= IWAE-64 {float(ladder[3].value.mean()):.3f} nats an item"


def _replicated(case: Case, plan: Plan, seed: int, replicates: int = REPLICATES) -> tuple[Any, Any]:
    """Every distinct item many times, with keys of its own: independent replicates of any plan."""
    b = min(case.distinct, 3)
    small = dataclasses.replace(case, distinct=b)
    return small.repeated(b * replicates), case.draws(plan, b * replicates, seed=seed)


def _bounded_means(t: LogWeights | PathTerms, values: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Mean over a replicate's draws of a bounded increasing function of the entry, (replicate, item)."""
    b = centre.shape[0]
    v = ((values.unflatten(1, (-1, b)) - centre) / scale).nan_to_num(neginf=-1e4).sigmoid()
    return (v.flatten(1) * log_shares(t).exp()).sum(0).unflatten(0, (-1, b))


def _any_plan(case: Case, fill: Any, values_of: Any) -> str:
    if case.plan.deterministic_lead:
        raise Skipped("the plan is a quadrature rule, which is exact for some models only: see 'lead degree'")
    b = min(case.distinct, 3)
    tables = [fill(case.model, *_replicated(case, plan, seed)) for plan, seed in ((Plan.iid(8), 80), (case.plan, 81))]
    first = values_of(tables[0]).unflatten(1, (-1, b))
    pilot = first.movedim(2, 0).flatten(1)
    centre = pilot.nanmedian(1).values
    centre = torch.where(torch.isfinite(centre), centre, 0.0)
    scale = (pilot - centre[:, None]).abs().nanmedian(1).values.nan_to_num(1.0, posinf=1.0).clamp_min(1e-6)
    ours, theirs = (_bounded_means(t, values_of(t), centre, scale) for t in tables)
    z, limit = two_sample_z(ours, theirs, floor=1e-4), normal_limit(case.level, b)
    if float(z.max()) > limit:
        raise Failed(
            f"under {case.plan} the entries of the table have another distribution than under independent draws (|z| = "
            f"{float(z.max()):.1f}, expected at most {limit:.1f}): each draw must use its numbers as independent uniform or "
            "normal ones, and the lead as uniform on (0, 1)"
        )
    return f"{_plan_name(case.plan)} draws agree with independent ones, |z| = {float(z.max()):.1f} <= {limit:.1f}"


def _plan_name(plan: Plan) -> str:
    words = [plan.lead if isinstance(plan.lead, str) else "quadrature", "lead,", str(plan.noise), "noise:"]
    return " ".join(words)


def any_plan(case: Case) -> str:
    """Log-weights have the same distribution, draw by draw, under any unbiased plan."""
    return _any_plan(case, weigh, lambda t: t.log_w.double())


def path_any_plan(case: Case) -> str:
    """Terms have the same distribution, draw by draw, under any unbiased plan."""
    return _any_plan(case, path_terms, lambda t: t.value.double())


def path_lead(case: Case) -> str:
    """Terms are finite for a lead next to 0 and to 1."""
    ends = Plan.nodes((2.0**-40, 1 - 2.0**-40), (0.5, 0.5))
    s = case.model.encode(case.x)
    terms = case.model.terms(case.x, s, case.draws(ends))
    for i, end in enumerate((0, 1)):
        if bool((terms[i].isnan() | (terms[i] == torch.inf)).any()):
            raise Failed(f"terms are NaN or +inf for a lead next to {end}: the lead takes any value inside (0, 1)")
    return "terms are finite for a lead next to 0 and to 1"


def _by_nodes(case: Case, levels: int, seed: int) -> Tensor:
    """Bound of each replicate by Gauss quadrature, (replicate, item)."""
    b = min(case.distinct, 3)
    plan, replicates = Plan.gauss(levels), max(64, 4 * case.n // levels)
    return elbo(path_terms(case.model, *_replicated(case, plan, seed, replicates))).value.unflatten(0, (-1, b))


def path_lead_degree(case: Case) -> str:
    """Gauss quadrature with the fewest nodes that lead_degree allows agrees with many more nodes."""
    degree = case.model.lead_degree(case.x)
    if degree is None:
        raise Skipped("lead_degree(x) is None: no quadrature is taken as exact")
    nodes = degree // 2 + 1
    few, many = _by_nodes(case, nodes, 90), _by_nodes(case, 4 * nodes + 3, 91)
    z, limit = two_sample_z(few, many), normal_limit(case.level, few.shape[1])
    if float(z.max()) > limit:
        raise Failed(
            f"lead_degree(x) says {degree}, but {nodes} and {4 * nodes + 3} Gauss nodes disagree by "
            f"{float((few.mean(0) - many.mean(0)).abs().max()):.3g} nats (|z| = {float(z.max()):.1f}, expected at most "
            f"{limit:.1f}): return the true degree of E[term | lead] in the lead, or None"
        )
    return f"{nodes} Gauss nodes agree with {4 * nodes + 3}, |z| = {float(z.max()):.1f} <= {limit:.1f}"


def path_below_evidence(case: Case) -> str:
    """Constant + E[term] <= log p(x), where the model knows log p(x)."""
    exact = getattr(case.model, "log_evidence", None)
    if exact is None:
        raise Skipped("the model has no log_evidence(x)")
    b = min(case.distinct, 3)
    answer = exact(case.repeated(b))
    log_p = (answer.value if isinstance(answer, Estimate) else answer).double()
    degree = case.model.lead_degree(case.x)
    plan = Plan.iid(8) if degree is None else Plan.gauss(degree // 2 + 1)  # the terms may have no variance otherwise
    value = elbo(path_terms(case.model, *_replicated(case, plan, 92))).value.unflatten(0, (-1, b))
    over = value - log_p
    limit = normal_limit(case.level, b)
    above = over.mean(0) > 0
    if bool(above.any()) and largest_z(over[:, above]) > limit:
        raise Failed(f"the bound lies {float(over.mean(0).max()):.3g} nats above log_evidence(x): it is no lower bound")
    return f"the bound lies {-float(over.mean()):.3f} nats below log_evidence(x)"
