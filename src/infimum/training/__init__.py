"""Training: one loop and one checkpoint format for every system."""

from infimum.training.average import EMA
from infimum.training.checkpoint import load_modules
from infimum.training.config import from_json, to_json
from infimum.training.fit import Fit, NonFinite
from infimum.training.loop import Learner, Result, train
from infimum.training.models import MODELS, load_model, save_model
from infimum.training.run import Run
from infimum.training.schedules import Schedule, burda, constant, cosine, warmup

__all__ = [
    "EMA",
    "MODELS",
    "Fit",
    "Learner",
    "NonFinite",
    "Result",
    "Run",
    "Schedule",
    "burda",
    "constant",
    "cosine",
    "from_json",
    "load_model",
    "load_modules",
    "save_model",
    "to_json",
    "train",
    "warmup",
]
