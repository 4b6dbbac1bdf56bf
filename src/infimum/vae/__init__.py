"""Variational auto-encoders of one modality, and a belief net with an exact evidence."""

from infimum.vae.analytic import AnalyticKL
from infimum.vae.belief import BeliefNet, BeliefNetConfig
from infimum.vae.conditional import ConditionalVAE, ConditionalVAEConfig
from infimum.vae.convolutional import ConvolutionalVAE, ConvolutionalVAEConfig
from infimum.vae.learner import VAELearner
from infimum.vae.model import VAE, VAEConfig
from infimum.vae.objectives import Objective, regularised_loss
from infimum.vae.proposals import PriorProposal, Stretched, defensive

__all__ = [
    "VAE",
    "AnalyticKL",
    "BeliefNet",
    "BeliefNetConfig",
    "ConditionalVAE",
    "ConditionalVAEConfig",
    "ConvolutionalVAE",
    "ConvolutionalVAEConfig",
    "Objective",
    "PriorProposal",
    "Stretched",
    "VAEConfig",
    "VAELearner",
    "defensive",
    "regularised_loss",
]
