"""The rows of the recipe `multimodal-vae`: as JSON, as a table and as panels of a figure."""

import math
import statistics

from infimum.evidence import Estimate
from infimum.recipes.base import Metrics
from infimum.vae.multimodal import Judgement

__all__ = ["PANELS", "beside", "judgement_json", "panel", "table"]

PANELS = {
    "evidence": "log-evidence >=,\nnats a modality", "given_one": "coherence\ngiven 1", "joint": "coherence\njointly",
    "frechet": "Frechet distance", "probe_one": "probe of one code",
}  # fmt: skip
"""Measurements of the figure: key of a row, title."""


def judgement_json(verdict: Judgement) -> Metrics:
    """A `Judgement` as it stands in ``result.json``."""
    names = tuple(verdict.frechet)
    given = {str(size): one.value for size, one in verdict.conditional.items()}
    return {
        "conditional_coherence": given, "joint_coherence": verdict.joint.value, "label_entropy": verdict.joint.label_entropy,
        "coherence_stderr": [*(one.stderr for one in verdict.conditional.values()), verdict.joint.stderr],
        "frechet": statistics.fmean(verdict.frechet.values()), "frechet_each": verdict.frechet,
        "probe_one": statistics.fmean(verdict.probe[(name,)].value for name in names), "probe_all": verdict.probe[names].value,
    }  # fmt: skip


def panel(row: Metrics, key: str) -> float:
    """A measurement of a row of the table for the figure; NaN where it has none."""
    if key == "evidence":
        mean = row.get("sum_of_unimodal") or row["evidence"]["joint"]
        return mean["value"] / row["modalities"]
    if key == "given_one":
        return row.get("conditional_coherence", {}).get("1", math.nan)
    return row.get({"joint": "joint_coherence"}.get(key, key), math.nan)


def beside(singles: list[Metrics], delta: float) -> Metrics:
    """Unimodal VAEs as a model of all modalities: they are independent, so that evidences add up."""
    parts: list[Estimate] = [one["estimate"] for one in singles]
    mean = [part.mean(delta / len(parts)) for part in parts]
    certificates = [one.certificate for one in mean if one.certificate is not None]
    total = {"value": sum(one.value for one in mean), "stderr": math.hypot(*(one.stderr for one in mean)),
             "certificate": sum(certificates) if len(certificates) == len(mean) else None}  # fmt: skip
    return {"sum_of_unimodal": total, "modalities": len(singles), "frechet": statistics.fmean(s["frechet"] for s in singles),
            "probe_one": statistics.fmean(s["probe_one"] for s in singles)}  # fmt: skip


def table(rows: dict[str, Metrics]) -> str:
    """All models as a plain table; a dash where a model has no such number."""
    head = ["model", "evidence", "± MC", "certified >=", "given 1", "given M-1", "jointly", "label entropy", "Frechet", "probe 1",
            "probe all"]  # fmt: skip
    lines = [head]
    for name, one in rows.items():
        mean = one.get("sum_of_unimodal") or one["evidence"]["joint"]
        m, given = one["modalities"], one.get("conditional_coherence", {})
        per = [mean["value"], mean["stderr"], mean["certificate"]]
        cells = [None if v is None or math.isnan(v) else v / m for v in per]
        cells += [given.get("1"), given.get(str(m - 1)), one.get("joint_coherence"), one.get("label_entropy")]
        numbers = ["-" if v is None else f"{v:.3f}" for v in cells]
        last = [
            f"{one['frechet']:.1f}",
            f"{one['probe_one']:.3f}",
            f"{one['probe_all']:.3f}" if "probe_all" in one else "-",
        ]
        lines.append([name, *numbers, *last])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]  # fmt: skip
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])
