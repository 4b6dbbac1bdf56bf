"""Figures: learning curves, brackets of the evidence, images. matplotlib is imported here and nowhere else."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from torch import Tensor

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from infimum.evidence import Mean

__all__ = ["bracket", "curves", "densities", "images", "pairs"]

BLUE, ORANGE, GREY = "#2f6fab", "#d9822b", "#8a8f98"
GAP, WIDTH = 0.45, 640
"""Grey between images, and about the width of a sheet in pixels."""


def save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, bbox_inches="tight", format="png")
    plt.close(figure)
    temporary.replace(path)
    return path


def curves(metrics: Path, path: Path) -> Path:
    """The training bound and the validation bound against the step, from ``metrics.jsonl``."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure, axis = plt.subplots(figsize=(6, 3.4))
    names = [
        n
        for n in dict.fromkeys(name for row in rows for name in row)
        if n not in ("step", "validation", "validation_stderr", "grad_norm")
    ]
    for name, colour in zip(names, (GREY, BLUE, ORANGE), strict=False):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        width = max(1, len(points) // 100)
        smooth = torch.tensor([p[1] for p in points], dtype=torch.float64).unfold(0, width, width).mean(1)
        axis.plot(
            [p[0] for p in points][width - 1 :: width][: len(smooth)],
            smooth,
            color=colour,
            label=f"{name} (training)",
            lw=1.2,
        )
    held = [(row["step"], row["validation"]) for row in rows if row.get("validation") is not None]
    if held:
        axis.plot(*zip(*held, strict=True), "o-", color="black", ms=4, label="validation (importance-weighted)")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("nats an item")
    if rows:
        axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def bracket(
    rows: Mapping[str, tuple[Mean, Mean]],
    path: Path,
    exact: Mapping[str, float] | None = None,
    upper: Mapping[str, Mean] | None = None,
) -> Path:
    """Held-out evidence: ELBO, importance-weighted bound with its standard error, certificates, exact value if known."""
    figure, axis = plt.subplots(
        figsize=(6.4, 1.2 + (0.7 if len(rows) <= 4 else 0.32) * len(rows)), layout="constrained"
    )
    for height, (elbo, tight) in enumerate(rows.values()):
        axis.plot([elbo.value, tight.value], [height, height], color=BLUE, lw=6, alpha=0.25, solid_capstyle="butt")
        axis.plot(elbo.value, height, "|", color=BLUE, ms=16, mew=2, label="ELBO" if height == 0 else None)
        error = 0.0 if math.isnan(tight.stderr) else 2 * tight.stderr
        axis.errorbar(
            tight.value, height, xerr=error, fmt="o", color=BLUE, ms=5, capsize=3,
            label=f"{tight.name} ± 2 standard errors" if height == 0 else None,
        )  # fmt: skip
        if tight.certificate is not None:
            label = f"certified lower limit, {1 - tight.delta:.0%}" if height == 0 else None
            axis.plot(tight.certificate, height, ">", color=ORANGE, ms=7, label=label)
    for height, name in enumerate(rows):
        if upper and name in upper:
            mean = upper[name]
            axis.plot(mean.value, height, "s", color=ORANGE, ms=5, label=mean.name if height == 0 else None)
            if mean.certificate is not None:
                label = f"certified upper limit, {1 - mean.delta:.0%}" if height == 0 else None
                axis.plot(mean.certificate, height, "<", color=ORANGE, ms=7, label=label)
        if exact and name in exact:
            axis.plot(exact[name], height, "kx", ms=8, mew=2, label="exact (enumeration)" if height == 0 else None)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("held-out log p(x), nats an item")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def densities(
    at: Float[Tensor, "n"],
    values: Mapping[str, Float[Tensor, "n"]],
    path: Path,
    label: str,
    strong: Collection[str] = (),
) -> Path:
    """Densities over one axis; those named ``strong`` in colour, the others grey, each with a dash of its own."""
    figure, axis = plt.subplots(figsize=(6, 3.4))
    dashes, colours = iter(((), (4, 2), (1, 1.5), (6, 2, 1, 2), (2, 3))), iter((BLUE, ORANGE, "black"))
    for name, value in values.items():
        style: dict[str, Any] = {"color": next(colours), "lw": 2} if name in strong else {"color": GREY, "lw": 1.2}
        (line,) = axis.plot(at.cpu(), value.detach().cpu(), label=name, **style)
        line.set_dashes(() if name in strong else next(dashes))
    axis.set_xlabel(label)
    axis.set_ylabel("density")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def _grid(x: Float[Tensor, "N C H W"], columns: int) -> Float[Tensor, "rows cols C"]:
    n, c, h, w = x.shape
    rows = -(-n // columns)
    sheet = x.new_full((rows * columns, c, h + 1, w + 1), GAP)
    sheet[:n, :, :h, :w] = x
    return (
        sheet.reshape(rows, columns, c, h + 1, w + 1)
        .permute(0, 3, 1, 4, 2)
        .reshape(rows * (h + 1), columns * (w + 1), c)
    )


def images(x: Float[Tensor, "N C H W"], path: Path, columns: int = 8) -> Path:
    """Images on a sheet, grey levels scaled to the data's largest value; each pixel is a square of equal size."""
    sheet = _grid(x.float().cpu() / max(float(x.max()), 1e-9), columns).clamp(0, 1)
    zoom = max(1, WIDTH // sheet.shape[1])
    sheet = sheet.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    pixels = (sheet if sheet.shape[-1] == 3 else sheet[..., :1].expand(-1, -1, 3)).contiguous().numpy()
    plt.imsave(temporary, pixels, format="png")
    temporary.replace(path)
    return path


def pairs(x: Float[Tensor, "N C H W"], again: Float[Tensor, "N C H W"], path: Path, columns: int = 8) -> Path:
    """Rows of items, each above the row of their reconstructions."""
    columns = min(columns, x.shape[0])
    both = [torch.cat([part.cpu(), part.new_zeros(-len(part) % columns, *part.shape[1:]).cpu()]) for part in (x, again)]
    rows = [part.unflatten(0, (-1, columns)) for part in both]
    return images(torch.stack(rows, 1).flatten(0, 2), path, columns)
