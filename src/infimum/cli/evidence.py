"""``infimum evidence CHECKPOINT``: what a model's held-out log-evidence is, and how far that can be trusted."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from infimum.cli.models import Items, check_device, check_target, held_out, open_model
from infimum.errors import UserError
from infimum.evidence import Bracket, Estimate, Plan, elbo, evaluate, iw_eubo, iwae, save_estimate
from infimum.evidence._tree import map_tree
from infimum.training.progress import Progress, on_terminal

__all__ = ["main"]


@dataclass(frozen=True)
class Evidence:
    """Held-out log-evidence of a checkpoint, with its side, standard error, diagnostics and certificate."""

    checkpoint: tyro.conf.Positional[str]
    """run directory or checkpoint folder"""
    simulate: int | None = None
    """bracket the evidence of this many items drawn from the model itself: their latents are posterior draws, which an upper
    bound needs"""
    data: str | None = None
    """file or folder of your own, preprocessed as the training data were (default: the held-out split)"""
    split: Literal["train", "valid", "test"] = "test"
    """split of the training data"""
    k: int = 5000
    """draws an item"""
    plan: Literal["iid", "antithetic", "stratified", "sobol"] = "iid"
    """how the draws of an item relate"""
    proposal: Literal["auto", "encoder", "defensive"] = "auto"
    """where draws come from; defensive: shared among the encoder, the encoder stretched, and the prior (auto, for VAEs)"""
    replicates: int = 8
    """independent repetitions of a stratified or Sobol plan: the unit of its standard error"""
    delta: float = 0.05
    """probability that the certificate fails"""
    unit: Literal["nats", "bits", "bits/dim"] = "nats"
    """of the printed numbers"""
    seed: int = 0
    """of the draws"""
    rows: int = 2**12
    """(draw, item) pairs through the network at a time"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""
    json: str | None = None
    """write the estimate, item by item, for infimum compare"""
    csv: str | None = None
    """write one line an item"""
    quiet: bool = False
    """print the result only"""


def _plan(options: Evidence) -> Plan:
    if not 1 <= options.k <= 1_000_000:
        raise UserError(f"--k is the number of draws an item, at least 1 and at most 1,000,000, got {options.k}")
    if not 0 <= options.seed < 2**63 - 1:
        raise UserError(f"--seed is {options.seed}, expected a whole number from 0 to 2^63 - 2")
    if options.rows < 1:
        raise UserError(f"--rows is the number of pairs at a time, at least 1, got {options.rows}")
    if options.plan == "iid":
        return Plan.iid(options.k)
    if options.plan == "antithetic":
        return Plan.antithetic(options.k)
    if options.replicates < 1 or options.k % options.replicates:
        raise UserError(f"--replicates {options.replicates} must divide --k {options.k}")
    block = options.k // options.replicates
    if options.plan == "sobol":
        return Plan.sobol(block, options.replicates)
    return Plan.stratified(block, replicates=options.replicates)


def _write_csv(path: str, estimate: Estimate, keys: torch.Tensor) -> None:
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    names = [name for name, values in estimate.diagnostics.items() if values.shape == estimate.value.shape]
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item", f"value_{estimate.unit}", f"stderr_{estimate.unit}", *names])
        columns = [keys.tolist(), estimate.value.tolist(), estimate.stderr.tolist()]
        columns += [estimate.diagnostics[name].tolist() for name in names]
        writer.writerows(zip(*columns, strict=True))
    temporary.replace(target)


def _proposal(model: Any, options: Evidence) -> Any:
    """The model with the proposal that was asked for."""
    from infimum.vae import defensive
    from infimum.vae.model import Autoencoder

    if isinstance(model, Autoencoder):
        return model if options.proposal == "encoder" else defensive(model)
    if options.proposal == "defensive":
        raise UserError(f"--proposal defensive is for VAEs, this is a {type(model).__name__}: use encoder")
    return model


def _bracket(model: Any, plan: Plan, options: Evidence) -> Bracket:
    """Certified bounds from both sides, on items simulated from the model (bidirectional Monte Carlo, 1511.02543)."""
    if not hasattr(model, "simulate"):
        raise UserError(
            f"--simulate needs a model that can be drawn from, and a {type(model).__name__} has no simulate(n, seed)"
        )
    n = options.simulate or 0
    if n < 1:
        raise UserError(f"--simulate is how many items to draw, at least 1, got {n}")
    with torch.no_grad():
        z, x = model.simulate(n, options.seed)
    z, x = (part.to(options.device) for part in (z, x))
    proposal = _proposal(model, options)
    lower = evaluate(proposal, x, plan, iwae, seed=options.seed, rows=options.rows)
    once = Plan(levels=options.k)
    upper = evaluate(proposal, x, once, iw_eubo, seed=options.seed + 1, rows=options.rows, latents=z)
    return Bracket(lower, upper)


def _splits(n: int, k: int) -> int:
    """Groups whose bounds are averaged for few items: R = ceil(100 / N) with K / R >= 100 (00-bounds 3.1 e), a divisor of K."""
    wanted = min(math.ceil(100 / n), k // 100)
    return next((r for r in range(wanted, 0, -1) if k % r == 0), 1)


def _bounds(model: Any, items: Items, plan: Plan, options: Evidence) -> list[Estimate]:
    """All that the model offers: exact evidence, importance-weighted bounds, or an ELBO."""
    if not (hasattr(model, "log_joint") or hasattr(model, "terms") or hasattr(model, "log_evidence")):
        raise UserError(f"this model has no evidence (it is a {type(model).__name__}): nothing to estimate")
    found: list[Estimate] = []
    x, keys = map_tree(lambda t: t.to(options.device), items.x), items.keys.to(options.device)
    splits = _splits(len(keys), options.k) if options.plan == "iid" else 1
    tight = [iwae] if splits == 1 else [lambda w: iwae(w, splits=splits), iwae]
    if hasattr(model, "log_evidence"):
        try:
            with torch.no_grad():
                found.append(model.log_evidence(x))
        except UserError as error:
            print(f"no exact evidence: {error}")
    if hasattr(model, "log_joint") or hasattr(model, "terms"):
        weighted = hasattr(model, "log_joint")
        proposal = _proposal(model, options)
        common: dict[str, Any] = {"keys": keys, "seed": options.seed, "rows": options.rows}
        with Progress(start=0, steps=len(keys), bar=on_terminal() and not options.quiet, silent=options.quiet) as bar:
            common["progress"] = lambda done: bar.advance(done, {})
            if weighted and proposal is not model:  # the ELBO is the encoder's own
                found.append(evaluate(model, x, Plan.iid(min(options.k, 500)), elbo, **common))
                found += evaluate(proposal, x, plan, tight, **common)
            else:
                found += evaluate(model, x, plan, [elbo, *tight] if weighted else [elbo], **common)
    return found


def main(words: Sequence[str]) -> int:
    """Evaluate and print."""
    options = tyro.cli(Evidence, args=list(words), prog="infimum evidence", config=(tyro.conf.OmitArgPrefixes,))
    if not 0 < options.delta < 1:
        raise UserError(f"--delta is the probability that the certificate fails, in (0, 1), got {options.delta}")
    plan = _plan(options)
    check_device(options.device)
    check_target("--json", options.json)
    check_target("--csv", options.csv)
    model, spec, folder = open_model(options.checkpoint)
    model.to(options.device)
    if options.simulate is not None:
        print(f"{type(model).__name__} of {folder} on {options.simulate} items of its own")
        print(_bracket(model, plan, options).mean(options.delta))
        return 0
    items = held_out(model, spec, options.data, options.split)
    estimates = _bounds(model, items, plan, options)
    best = estimates[-1]
    dims = math.prod(spec.shape)
    if not options.quiet:
        print(f"{type(model).__name__} of {folder} on {items.title}")
    for estimate in estimates:
        shown = estimate if options.unit == "nats" else estimate.to_unit(options.unit, dims)
        print(shown.mean(options.delta))
    if spec.log_scale():
        print(
            f"these are densities of the standardised data; for densities in the data's own units add {spec.log_scale():+.4f} nats"
        )
    if options.json:
        save_estimate(best, options.json)
    if options.csv:
        _write_csv(options.csv, best if options.unit == "nats" else best.to_unit(options.unit, dims), items.keys)
    return 0
