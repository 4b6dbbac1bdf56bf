"""What every recipe shares: a configuration that is a dataclass, a run directory, and an honest evaluation."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from infimum.data import Dataset, load
from infimum.errors import UserError
from infimum.evidence import Estimate, Mean, Plan, elbo, evaluate, iwae, save_estimate
from infimum.training import Result, Run, train
from infimum.training.progress import Progress, on_terminal
from infimum.vae import VAELearner, defensive
from infimum.vae.model import Autoencoder

__all__ = ["Metrics", "Recipe", "evaluate_run", "fit", "likelihood_for", "load_data", "mean_json", "spec_json", "table"]

Metrics = dict[str, Any]

_TINY = 1e-300
_POSITIVE = (1, 2**31, "a whole number from 1 to 2^31")
_DRAWS = (1, 1_000_000, "a number of draws from 1 to 1,000,000")
_LIMITS: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys(("steps", "every", "accumulate", "patience", "components", "transforms"), _POSITIVE),
    **dict.fromkeys(("k", "eval_k"), _DRAWS),
    **dict.fromkeys(("batch", "latent"), (1, 10**6, "a whole number from 1 to 1,000,000")),
    "split_seed": (0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"),
    "lr": (_TINY, 1e6, "a positive number"),
    "clip": (_TINY, math.inf, "a positive number"),
    "delta": (_TINY, 1 - 1e-12, "a probability between 0 and 1"),
    "ema": (0, 1 - 1e-12, "a decay from 0 up to but not including 1"),
    "beta": (0, math.inf, "a number of at least 0"),
    "free_bits": (0, math.inf, "a number of at least 0"),
}
"""Ranges of the fields that recipes share, by name."""


@dataclass(frozen=True)
class Recipe:
    """A configuration that runs. Every field is a flag of ``infimum run``.

    Attributes:
        presets: named changes of the defaults: "gpu", "paper".
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def check(self) -> None:
        """Refuse what no run could use, before anything is written.

        Raises:
            UserError: names the flag, the value and what was expected.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            flag = f"--{field.name.replace('_', '-')}"
            if field.name in _LIMITS and value is not None:
                low, high, words = _LIMITS[field.name]
                if not low <= value <= high:
                    raise UserError(f"{flag} is {value}, expected {words}")

    def run(self, run: Run) -> Metrics:
        """Train, evaluate, and write everything into the run directory; returns what ``result.json`` holds."""
        raise NotImplementedError

    @classmethod
    def preset(cls, name: str) -> "Recipe":
        """The configuration of that name.

        Raises:
            UserError: there is no such preset.
        """
        if name == "cpu":
            return cls()
        if name not in cls.presets:
            raise UserError(f"--preset {name} is not offered: choose one of {', '.join(['cpu', *cls.presets])}")
        return cls(**cls.presets[name])


def load_data(
    data: str,
    *,
    kind: str | None,
    threshold: float | None,
    seed: int,
    id: str | None = None,
    labels: str | None = None,
) -> Dataset:
    """A data set by name or path, with its split."""
    return load(data, kind=kind, threshold=threshold, seed=seed, id=id, labels=labels)  # type: ignore[arg-type]


def spec_json(dataset: Dataset) -> dict[str, Any]:
    """The content of ``data.json``."""
    import json

    return dict(json.loads(dataset.spec.to_json()))


def fit(
    learner: VAELearner,
    dataset: Dataset,
    run: Run,
    *,
    steps: int,
    every: int,
    schedule: Any = None,
    ema: float = 0.0,
    patience: int | None = None,
    accumulate: int = 1,
    validation_k: int = 50,
) -> Result | None:
    """Train with the importance-weighted bound of the validation items as the measure; None if it was interrupted."""
    validate = None
    if len(dataset.valid):
        keys = dataset.valid_ids.to(run.device)
        x = items_for(learner.model, dataset.valid.to(run.device), dataset.valid_labels)

        def validate() -> Estimate:
            return evaluate(learner.model, x, Plan.iid(validation_k), iwae, keys=keys, seed=run.seed)

    result = train(
        learner,
        steps=steps,
        run=run,
        every=every,
        schedule=schedule,
        ema={"model": ema} if ema else None,
        validate=validate,
        patience=patience,
        accumulate=accumulate,
        data=spec_json(dataset),
    )
    return None if result.interrupted else result


def items_for(model: Any, x: Tensor, labels: Tensor | None) -> Any:
    """What the model takes as a batch: items, or (items, labels) for a conditional model."""
    if getattr(model, "target", "") != "log p(x|c)":
        return x
    if labels is None:
        raise UserError("a conditional model needs labels: choose labelled data, or name the column with --labels")
    return x, labels.to(x.device)


def mean_json(mean: Mean) -> dict[str, Any]:
    """A `Mean` as JSON; what is not a number becomes null."""
    content = dataclasses.asdict(mean)
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in content.items()}


def evaluate_run(
    model: Any, x: Any, keys: Tensor, run: Run, *, k: int, delta: float, label: str = ""
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Held-out ELBO of the encoder, and the importance-weighted bound, item by item into ``evidence.json``.

    The importance-weighted bound of a VAE shares its draws among the encoder, the encoder stretched, and the prior: any
    proposal gives a certified bound, and this one's weights have lighter tails.
    """
    if not run.quiet and run.writes:
        print(f"evaluating {len(keys)} held-out items{f' of {label}' if label else ''} with {k} draws each", flush=True)
    model, keys = model.eval(), keys.to(run.device)
    x = tuple(part.to(run.device) for part in x) if isinstance(x, tuple) else x.to(run.device)
    proposal = defensive(model) if isinstance(model, Autoencoder) else model
    with Progress(
        start=0, steps=len(keys), bar=on_terminal() and not run.quiet, silent=run.quiet or not run.writes
    ) as bar:
        lower = evaluate(model, x, Plan.iid(min(k, 500)), elbo, keys=keys, seed=run.seed)
        tight = evaluate(
            proposal, x, Plan.iid(k), iwae, keys=keys, seed=run.seed, progress=lambda done: bar.advance(done, {})
        )
    if run.writes:
        save_estimate(tight, run.path / "evidence.json")
    estimates = {"elbo": lower, "iwae": tight}
    return estimates, {name: mean_json(e.mean(delta)) for name, e in estimates.items()}


def table(rows: Mapping[str, Mean], exact: Mapping[str, float] | None = None) -> str:
    """Means side by side as a plain table; the figures are nats an item."""
    head = ["model", "bound", "value", "± MC", "certified >=", "Pareto k (median)", "items above limit"]
    lines = [head]
    for name, mean in rows.items():
        limit = "-" if mean.certificate is None else f"{mean.certificate:.3f}"
        error = "-" if math.isnan(mean.stderr) else f"{mean.stderr:.3f}"
        tail = (f"{mean.tail.median:.2f}", f"{mean.tail.unreliable:.0%}") if mean.tail else ("-", "-")
        lines.append([name, mean.name, f"{mean.value:.3f}", error, limit, *tail])
        if exact and name in exact:
            lines.append([name, "exact", f"{exact[name]:.3f}", "0", f"{exact[name]:.3f}", "-", "-"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def likelihood_for(dataset: Dataset, wanted: str) -> str:
    """The likelihood that fits the data's kind, or the wanted one if it fits.

    Raises:
        UserError: a likelihood of another kind of data.
    """
    fits = {"binary": ("bernoulli",), "integer": ("discretised-logistic", "categorical"), "real": ("gaussian",)}
    options = fits[dataset.spec.kind]
    if wanted == "auto":
        return options[0]
    if wanted not in options:
        raise UserError(f"--likelihood {wanted} does not fit {dataset.spec.kind} data: use {' or '.join(options)}")
    return wanted
