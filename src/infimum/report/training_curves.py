"""The charts of a training: bounds of the training batches and of the validation items against the step."""

from collections.abc import Sequence

from infimum.report.charts import Chart, Curve, chart, windows
from infimum.report.reading import Metrics
from infimum.report.words import clip

__all__ = ["learning_charts"]

BOUNDS = ("elbo", "iwae", "renyi", "validation")
"""Metrics on the scale of the evidence."""
MOST_CHARTS = 8

STEP = "optimizer step"
BAND = (
    "Training curves are means over windows of successive steps; the shaded band is ± 2 standard errors of a window's mean over "
    "its random batches and draws."
)
HELD = "Dots: importance-weighted bound of the validation items."
BARS = "Bars on them: ± 2 standard errors."


def _errors(metrics: Metrics, name: str) -> list[float] | None:
    """Standard errors that the run logged beside a metric, where each point has one."""
    known = dict(metrics.get(f"{name}_stderr", []))
    steps = [step for step, _ in metrics[name]]
    return [known[step] for step in steps] if all(step in known for step in steps) else None


def _curve(metrics: Metrics, name: str, label: str, colour: int, dash: int) -> Curve:
    if name == "validation":
        points = [(float(step), value) for step, value in metrics[name]]
        return Curve(label, points, _errors(metrics, name), dots=True, colour=colour, dash=dash)
    means, errors = windows(metrics[name])
    return Curve(label, means, errors, colour=colour, dash=dash)


def _caption(metrics: Sequence[Metrics], names: Sequence[str]) -> str:
    parts = [BAND] if any(name != "validation" for name in names) else []
    if "validation" in names:
        parts.append(HELD)
        parts += [BARS] if any("validation_stderr" in m for m in metrics) else []
    return " ".join(parts)


def learning_charts(models: Sequence[tuple[str, Metrics]], unit: str) -> list[Chart]:
    """One chart of all bounds for a single model; for several, a chart for each metric with the models overlaid.

    Args:
        models: names and metrics.
        unit: of the bounds: "nats an item"; empty where it is not known.
    """
    names = list(dict.fromkeys(name for _, metrics in models for name in metrics if not name.endswith("_stderr")))
    bounds = sorted((name for name in names if name in BOUNDS), key=("validation", *BOUNDS).index)
    others = [name for name in names if name not in BOUNDS]
    groups = [bounds] if len(models) == 1 else [[name] for name in bounds]
    found = [_group(models, group, unit or "value") for group in groups if group]
    found += [_group(models, [name], _title(name).lower()) for name in others]
    return [c for c in found if c is not None][:MOST_CHARTS]


def _group(models: Sequence[tuple[str, Metrics]], names: Sequence[str], unit: str) -> Chart | None:
    curves = []
    for i, (model, metrics) in enumerate(models):
        for j, name in enumerate(names):
            if name in metrics:
                place = "validation" if name == "validation" else f"{_title(name)}, training"
                label = clip(model) if len(models) > 1 else place
                colour, dash = (i, i) if len(models) > 1 else (j, j)
                curves.append(_curve(metrics, name, label, colour, 0 if name == "validation" else dash))
    title = "Bounds" if len(names) > 1 else _title(names[0])
    if names == ["validation"] or (len(models) > 1 and names[0] in BOUNDS):
        title = "Validation" if names[0] == "validation" else f"{_title(names[0])} of the training batches"
    return chart(
        title,
        curves,
        caption=_caption([m for _, m in models], names),
        x_label=STEP,
        y_label=unit,
        settled=True,
        legend=len(models) > 1 or len(curves) > 1,
    )


def _title(name: str) -> str:
    known = {"elbo": "ELBO", "iwae": "IWAE", "renyi": "Rényi bound", "grad_norm": "Gradient norm"}
    return known.get(name, clip(name))
