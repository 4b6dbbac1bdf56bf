"""``infimum sample CHECKPOINT``: items from the model, as a picture or as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from infimum.cli.language import LANGUAGE
from infimum.cli.models import check_target, open_model
from infimum.cli.parsing import parse
from infimum.cli.writing import write_texts
from infimum.data import DataSpec, Standardise
from infimum.diffusion import GaussianDiffusion, Sampler
from infimum.diffusion import sample as diffuse
from infimum.discrete import Cache, Order
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.vae import ConditionalVAE

__all__ = ["main"]

OF_LANGUAGE = ("prompt", "chat", "length", "block_length", "temperature", "order", "threshold", "cache", "device")
"""Flags that only language models take."""


@dataclass(frozen=True)
class Sample:
    """Draw items from a checkpoint's model."""

    checkpoint: tyro.conf.Positional[str]
    """run directory or checkpoint folder"""
    adapter: str | None = None
    """folder of low-rank adapters of a language model, as Adapter.save or peft writes them"""
    out: str | None = None
    """.png (a sheet of images), .npy or .csv (the data's own units), .txt (sentences), .jsonl (of a language model); samples.png
    for images, samples.txt for text, samples.csv for tables if not given; texts of a language model are printed"""
    n: int | None = None
    """how many; 64 if not given, and 1 of a language model"""
    condition: int | None = None
    """label, for a conditional model of classes"""
    guidance: float | None = None
    """of a diffusion model towards the label, of a language model towards the prompt, 0 or more; 0 if not given"""
    sampler: Sampler | None = None
    """of a diffusion model; ancestral if not given"""
    steps: int | None = None
    """of the sampler of a diffusion model; its own steps, or 250 in continuous time, if not given; of a language model: of all
    blocks together, one a token if not given"""
    prompt: str | None = None
    """what a language model writes behind"""
    chat: bool = False
    """put the prompt into the chat template of a language model's tokenizer"""
    length: int | None = None
    """tokens that a language model writes; 64 if not given"""
    block_length: int | None = None
    """tokens of a block of a language model, written from the left to the right; all at once if not given"""
    temperature: float | None = None
    """of a language model; 0, the most probable token, if not given"""
    order: Order | None = None
    """in which a language model fills places in; confidence if not given"""
    threshold: float | None = None
    """probability above which --order threshold writes a token of a language model; 0.9 if not given"""
    cache: Cache | None = None
    """keys and values that a language model of LLaDA's architecture keeps while it fills a block: prefix, or dual (and what stands
    on the right); faster, not exact; none if not given"""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, for a language model; cpu if not given"""
    seed: int = 0
    """of the draws"""


def _raw_units(x: torch.Tensor, spec: DataSpec) -> np.ndarray:
    """Undo the standardisation; binary and integer items are what they are."""
    values = x.double().numpy()
    for step in reversed(spec.steps):
        if isinstance(step, Standardise):
            shape = spec.shape
            values = values * np.asarray(step.std).reshape(shape) + np.asarray(step.mean).reshape(shape)
    return values


def _write(x: torch.Tensor, spec: DataSpec, out: Path) -> None:
    temporary = out.with_name(f".{out.name}.tmp")
    values = _raw_units(x, spec)
    if out.suffix == ".npy":
        with temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
    else:
        flat = values.reshape(len(values), -1)
        header = ",".join(spec.columns or [f"x{i}" for i in range(flat.shape[1])])
        np.savetxt(temporary, flat, delimiter=",", header=header, comments="", fmt="%.9g")
    temporary.replace(out)


def _drawn(model: Any, draws: Draws, labels: torch.Tensor | None, options: Sample) -> Any:
    """Items, by the sampler that was asked for."""
    if not isinstance(model, GaussianDiffusion):
        for name in ("guidance", "sampler", "steps"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is for diffusion models, and this is a {type(model).__name__}: leave it out")
        return model.generate(draws, *(() if labels is None else (labels,)))
    steps = options.steps if options.steps is not None else model.config.depth or 250
    return diffuse(
        model,
        draws,
        sampler=options.sampler or "ancestral",
        steps=steps,
        labels=labels,
        guidance=options.guidance or 0.0,
    )


def main(words: Sequence[str]) -> int:
    """Draw and write."""
    options = parse(Sample, words, "infimum sample")
    count = 64 if options.n is None else options.n
    if not 1 <= count <= 1_000_000:
        raise UserError(f"--n is how many items to draw, from 1 to 1,000,000, got {count}")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}, expected a whole number from 0 to 2^63 - 1")
    model, spec, _ = open_model(options.checkpoint, options.adapter)
    if spec.name == LANGUAGE:
        check_target("--out", options.out)
        return write_texts(model, options)
    for name in OF_LANGUAGE:
        if getattr(options, name) is not None and getattr(options, name) is not False:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is for language models, and this is a {type(model).__name__}: leave it out")
    characters = getattr(model.config, "characters", "")
    text = bool(characters) or hasattr(model, "vocabulary")
    out = Path(options.out or ("samples.png" if len(spec.shape) == 3 else "samples.txt" if text else "samples.csv"))
    check_target("--out", str(out))
    endings = (".txt", ".npy", ".csv") if text else (".png", ".npy", ".csv")
    if out.suffix not in endings:
        raise UserError(f"--out {out} has the ending {out.suffix!r}: use {endings[0]}, .npy or .csv")
    if not hasattr(model, "generate"):
        raise UserError(f"a {type(model).__name__} generates nothing: it has no generate(draws)")
    if out.suffix == ".png" and len(spec.shape) != 3:
        raise UserError(f"--out {out} is a picture, but items have shape {spec.shape}: use .npy or .csv")
    draws = Plan.iid(1).draws(torch.arange(count), seed=options.seed, salt="sample")
    conditional = isinstance(model, ConditionalVAE) or (
        isinstance(model, GaussianDiffusion) and model.config.classes > 0
    )
    if conditional != (options.condition is not None):
        what = "needs --condition LABEL" if conditional else "takes no --condition"
        raise UserError(f"a {type(model).__name__} {what}, got {options.condition}")
    labels = None if options.condition is None else torch.full((count,), options.condition)
    with torch.no_grad():
        drawn = _drawn(model, draws, labels, options)
        if isinstance(drawn, Mapping):  # several modalities, stored side by side
            drawn = model.join(drawn)
        x = drawn[0].reshape(count, *spec.shape)
    if out.suffix == ".png":
        from infimum.report import figures

        figures.images(x / max((spec.levels or 2) - 1, 1), out)
    elif out.suffix == ".txt":
        temporary = out.with_name(f".{out.name}.tmp")
        lines = ["".join(characters[int(i)] for i in row) for row in x] if characters else model.vocabulary.decode(x)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(out)
    else:
        _write(x, spec, out)
    print(f"{count} items of {spec.name} written to {out}")
    return 0
