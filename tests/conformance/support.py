"""What the conformance tests share: the examples as modules, and the two identities that tie bounds to an exact evidence."""

import importlib.abc
import importlib.machinery
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from infimum.evidence import Bracket

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIGMAS = 5  # a two-sided normal test at 5 standard errors alarms falsely once in 1.7 million


class _Names(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules whose every name is an empty class."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        def missing(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = missing  # type: ignore[method-assign]


def example(title: str) -> ModuleType:
    """An example as a module.

    multivae imports torchvision for its image data sets and pictures, which nothing here uses; where it cannot be imported
    (its wheels need the CUDA build of torch) empty names take its place for the time of the import.
    """
    spec = importlib.util.spec_from_file_location(f"example_{title}", EXAMPLES / f"{title}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    finder = _Names()
    sys.meta_path.append(finder)  # last: an installed torchvision is found before
    try:
        spec.loader.exec_module(module)
    finally:
        sys.meta_path.remove(finder)
        for name in [key for key in sys.modules if key.split(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name].__loader__, _Names):
                del sys.modules[name]  # nobody else is to meet them
    return module


def z_of_mean_one(log_ratio: Tensor) -> float:
    """|z| of the hypothesis that exp(log_ratio) has mean one, over independent items."""
    ratio = log_ratio.double().exp()
    return float((ratio.mean() - 1).abs() / ratio.std() * math.sqrt(len(ratio)))


def assert_truth_inside(found: Bracket, truth: Tensor) -> None:
    """Certificates hold (false alarm: 1e-6 by Markov), and E p^ = p, E 1/p^ = 1/p (5 standard errors)."""
    mean, truth = found.mean(delta=1e-6), truth.double()
    assert mean.lower.certificate is not None and mean.upper.certificate is not None
    assert mean.lower.certificate <= float(truth.mean()) <= mean.upper.certificate
    assert z_of_mean_one(found.lower.value - truth) < SIGMAS
    assert z_of_mean_one(truth - found.upper.value) < SIGMAS


def z_between(one: list[float], other: list[float]) -> float:
    """|t| of the hypothesis that two lists of independent estimates have the same mean."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    return float((a.mean() - b.mean()).abs() / (a.var() / len(a) + b.var() / len(b)).sqrt())
