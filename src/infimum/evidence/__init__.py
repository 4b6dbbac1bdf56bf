"""The engine: Plan -> Draws -> LogWeights | PathTerms -> bound -> Estimate -> answer."""

from infimum.evidence.draws import Draws
from infimum.evidence.plan import Nodes, Plan, Sobol
from infimum.evidence.weights import (
    LatentModel,
    LogWeights,
    PathModel,
    PathTerms,
    difference,
    double_reductions,
    draw,
    event_sum,
    exhaustive,
    path_terms,
    weigh,
)

__all__ = [
    "Draws",
    "LatentModel",
    "LogWeights",
    "Nodes",
    "PathModel",
    "PathTerms",
    "Plan",
    "Sobol",
    "difference",
    "double_reductions",
    "draw",
    "event_sum",
    "exhaustive",
    "path_terms",
    "weigh",
]
