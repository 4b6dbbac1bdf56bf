"""Alignment of masked diffusion language models: preferences and rewards, over bounds of an intractable likelihood."""

from infimum.alignment.backward import Engine, objective_backward, table_of
from infimum.alignment.bgpo import BGPO, Boundary, bgpo_terms, boundary
from infimum.alignment.estimators import EstimatorRow, Surrogate, estimator_report, memory_report, surrogates
from infimum.alignment.gdpo import GroupDiffusionPO, quadrature_plan
from infimum.alignment.grpo import ESPO, DiffuGRPO, Reinforce
from infimum.alignment.learner import PolicyLearner
from infimum.alignment.objective import Objective
from infimum.alignment.preference import (
    VRPO,
    Score,
    pairs_of,
    preference_backward,
    preference_loss,
    preference_score,
)
from infimum.alignment.preference_learner import PreferenceLearner
from infimum.alignment.rollouts import Rollouts, Sampling
from infimum.alignment.score_variance import ScoreVariance, score_variances
from infimum.alignment.spg import SPG, block_masks
from infimum.alignment.surrogates import Sandwich, elbo_of, eubo_of, mixed, optimal_mix, sandwich, token_means
from infimum.alignment.table import TokenTable, all_masks, answered, exact_table, perturbed, token_table
from infimum.alignment.text import TextPrompts, TextReward, text_examples, text_pairs, text_prompts

__all__ = [
    "BGPO",
    "ESPO",
    "SPG",
    "VRPO",
    "Boundary",
    "DiffuGRPO",
    "Engine",
    "EstimatorRow",
    "GroupDiffusionPO",
    "Objective",
    "PolicyLearner",
    "PreferenceLearner",
    "Reinforce",
    "Rollouts",
    "Sampling",
    "Sandwich",
    "Score",
    "ScoreVariance",
    "Surrogate",
    "TextPrompts",
    "TextReward",
    "TokenTable",
    "all_masks",
    "answered",
    "bgpo_terms",
    "block_masks",
    "boundary",
    "elbo_of",
    "estimator_report",
    "eubo_of",
    "exact_table",
    "memory_report",
    "mixed",
    "objective_backward",
    "optimal_mix",
    "pairs_of",
    "perturbed",
    "preference_backward",
    "preference_loss",
    "preference_score",
    "quadrature_plan",
    "sandwich",
    "score_variances",
    "surrogates",
    "table_of",
    "text_examples",
    "text_pairs",
    "text_prompts",
    "token_means",
    "token_table",
]
