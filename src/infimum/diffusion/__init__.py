"""Gaussian diffusion as an evidence bound: schedules, heads and weightings, the ELBO, likelihood by the flow, samplers."""

from infimum.diffusion.adaptive import adaptive_flow
from infimum.diffusion.config import DiffusionConfig, schedule_of
from infimum.diffusion.decoder import BinnedDecoder, ContinuousDecoder, Decoder, DiscreteDecoder
from infimum.diffusion.dictionary import TRAININGS, Training, training
from infimum.diffusion.diffenc import DiffEnc, DiffEncConfig, Encoding, counterterm_report
from infimum.diffusion.flow import FlowBound, FlowEvidence, log_flow, transport
from infimum.diffusion.from_diffusers import DiffusersModel, TableSchedule, from_diffusers
from infimum.diffusion.heads import HEADS, Head, convert, error_factor, input_scale, target
from infimum.diffusion.learned import AdaptiveBins, MonotoneNet
from infimum.diffusion.learner import DiffusionLearner
from infimum.diffusion.model import GaussianDiffusion
from infimum.diffusion.mulan import Mulan, MulanConfig, path_integral, schedule_report
from infimum.diffusion.samplers import SAMPLERS, Sampler, edm_levels, sample
from infimum.diffusion.schedules import (
    LAWS,
    FixedSchedule,
    Law,
    LearnedLinear,
    Schedule,
    alpha_sigma,
    beta_linear,
    cosine,
    edm,
    flow,
    linear,
    velocity,
)
from infimum.diffusion.trajectory import GuidedTrajectory, ScalarTrajectory, Trajectory
from infimum.diffusion.weightings import (
    EDM_PEAK,
    ELBO,
    Augmentation,
    Weighting,
    edm_monotonic_weighting,
    edm_weighting,
    exponential,
    implied,
    min_snr,
    p2,
    shifted,
    sigmoid,
)

__all__ = [
    "EDM_PEAK",
    "ELBO",
    "HEADS",
    "LAWS",
    "SAMPLERS",
    "TRAININGS",
    "AdaptiveBins",
    "Augmentation",
    "BinnedDecoder",
    "ContinuousDecoder",
    "Decoder",
    "DiffEnc",
    "DiffEncConfig",
    "DiffusersModel",
    "DiffusionConfig",
    "DiffusionLearner",
    "DiscreteDecoder",
    "Encoding",
    "FixedSchedule",
    "FlowBound",
    "FlowEvidence",
    "GaussianDiffusion",
    "GuidedTrajectory",
    "Head",
    "Law",
    "LearnedLinear",
    "MonotoneNet",
    "Mulan",
    "MulanConfig",
    "Sampler",
    "ScalarTrajectory",
    "Schedule",
    "TableSchedule",
    "Training",
    "Trajectory",
    "Weighting",
    "adaptive_flow",
    "alpha_sigma",
    "beta_linear",
    "convert",
    "cosine",
    "counterterm_report",
    "edm",
    "edm_levels",
    "edm_monotonic_weighting",
    "edm_weighting",
    "error_factor",
    "exponential",
    "flow",
    "from_diffusers",
    "implied",
    "input_scale",
    "linear",
    "log_flow",
    "min_snr",
    "p2",
    "path_integral",
    "sample",
    "schedule_of",
    "schedule_report",
    "shifted",
    "sigmoid",
    "target",
    "training",
    "transport",
    "velocity",
]
