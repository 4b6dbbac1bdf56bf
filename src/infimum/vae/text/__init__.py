"""Variational auto-encoders of sentences."""

from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.decoding import beam_words, greedy_words, sample_words
from infimum.vae.text.initialise import initialise
from infimum.vae.text.learner import TextLearner, collapse_alarm
from infimum.vae.text.measures import LatentReport, latent_report
from infimum.vae.text.model import TextVAE
from infimum.vae.text.objective import TextObjective
from infimum.vae.text.plateau import Plateau
from infimum.vae.text.proposals import posterior_log_likelihood, prior_log_likelihood, with_prior
from infimum.vae.text.space import distinct, interpolate, reconstruct, traverse
from infimum.vae.text.units import consistent_sphere_units, consistent_units

__all__ = [
    "LatentReport",
    "Plateau",
    "TextLearner",
    "TextObjective",
    "TextVAE",
    "TextVAEConfig",
    "beam_words",
    "collapse_alarm",
    "consistent_sphere_units",
    "consistent_units",
    "distinct",
    "greedy_words",
    "initialise",
    "interpolate",
    "latent_report",
    "posterior_log_likelihood",
    "prior_log_likelihood",
    "reconstruct",
    "sample_words",
    "traverse",
    "with_prior",
]
