"""Diffusion over tokens: masked diffusion, its bounds, exact likelihoods of short sequences, and samplers."""

from infimum.discrete.autoregressive import Autoregressive
from infimum.discrete.caches import Cache
from infimum.discrete.canvas import Canvas, canvas_of, completions
from infimum.discrete.config import Form, MaskedDiffusionConfig
from infimum.discrete.exact import exact_elbo, exact_log_likelihood
from infimum.discrete.learner import SequenceLearner
from infimum.discrete.masked import MaskedDiffusion
from infimum.discrete.masks import Masks, masks_of
from infimum.discrete.orders import RandomOrders
from infimum.discrete.published import llada_levels
from infimum.discrete.samplers import Filled, Order, fill

__all__ = [
    "Autoregressive",
    "Cache",
    "Canvas",
    "Filled",
    "Form",
    "MaskedDiffusion",
    "MaskedDiffusionConfig",
    "Masks",
    "Order",
    "RandomOrders",
    "SequenceLearner",
    "canvas_of",
    "completions",
    "exact_elbo",
    "exact_log_likelihood",
    "fill",
    "llada_levels",
    "masks_of",
]
