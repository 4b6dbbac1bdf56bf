"""The engine: Plan -> Draws -> LogWeights | PathTerms -> bound -> Estimate -> answer."""

from infimum.evidence.anneal import ais, linear_betas, sigmoid_betas
from infimum.evidence.annealed_smc import annealed_smc
from infimum.evidence.bdmc import bdmc
from infimum.evidence.bounds import (
    cubo,
    elbo,
    eubo,
    harmonic,
    iw_eubo,
    iwae,
    looser,
    renyi,
    snis_eubo,
    tvo,
    vr_max,
)
from infimum.evidence.comparison import Limit, Verdict, asymptotic_limit, certified_limit, compare
from infimum.evidence.debias import delta_corrected, jvi, log_evidence, mlmc, sumo
from infimum.evidence.defensive import Defensive
from infimum.evidence.diagnostics import effective_sample_size, pareto_k, pareto_threshold, psis
from infimum.evidence.draws import Draws
from infimum.evidence.estimate import Bracket, BracketMean, Estimate, Mean, Tail, closed_form
from infimum.evidence.evaluate import evaluate
from infimum.evidence.gradients import bound_backward, two_pass_backward
from infimum.evidence.kernels import Kernel, MetropolisHastings, gibbs, hmc, mala, metropolis
from infimum.evidence.model import LatentModel, PathModel, double_reductions, event_sum
from infimum.evidence.plan import Nodes, Plan, Sobol
from infimum.evidence.rules import RULES, Coefficients, Rule, renyi_rule, tvo_rule
from infimum.evidence.sampling import draw
from infimum.evidence.smc import SequentialModel, fivo, smc
from infimum.evidence.store import load_estimate, save_estimate
from infimum.evidence.surgery import Surgery, active_units, elbo_surgery
from infimum.evidence.tables import LogWeights, PathTerms, difference, exhaustive
from infimum.evidence.tuning import Annealing, tune
from infimum.evidence.weights import path_terms, weigh

__all__ = [
    "RULES",
    "Annealing",
    "Bracket",
    "BracketMean",
    "Coefficients",
    "Defensive",
    "Draws",
    "Estimate",
    "Kernel",
    "LatentModel",
    "Limit",
    "LogWeights",
    "Mean",
    "MetropolisHastings",
    "Nodes",
    "PathModel",
    "PathTerms",
    "Plan",
    "Rule",
    "SequentialModel",
    "Sobol",
    "Surgery",
    "Tail",
    "Verdict",
    "active_units",
    "ais",
    "annealed_smc",
    "asymptotic_limit",
    "bdmc",
    "bound_backward",
    "certified_limit",
    "closed_form",
    "compare",
    "cubo",
    "delta_corrected",
    "difference",
    "double_reductions",
    "draw",
    "effective_sample_size",
    "elbo",
    "elbo_surgery",
    "eubo",
    "evaluate",
    "event_sum",
    "exhaustive",
    "fivo",
    "gibbs",
    "harmonic",
    "hmc",
    "iw_eubo",
    "iwae",
    "jvi",
    "linear_betas",
    "load_estimate",
    "log_evidence",
    "looser",
    "mala",
    "metropolis",
    "mlmc",
    "pareto_k",
    "pareto_threshold",
    "path_terms",
    "psis",
    "renyi",
    "renyi_rule",
    "save_estimate",
    "sigmoid_betas",
    "smc",
    "snis_eubo",
    "sumo",
    "tune",
    "tvo",
    "tvo_rule",
    "two_pass_backward",
    "vr_max",
    "weigh",
]
