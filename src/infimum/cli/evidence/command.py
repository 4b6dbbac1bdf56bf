"""The command: read the model and the items, estimate, print, write."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from infimum.cli.evidence.conditional import conditional_of
from infimum.cli.evidence.methods import bracket_of, estimates_of
from infimum.cli.evidence.options import Evidence, check, for_texts, on_simulated_only
from infimum.cli.evidence.tables import write_tables
from infimum.cli.language import LANGUAGE
from infimum.cli.models import held_out, open_model
from infimum.cli.parsing import parse
from infimum.cli.texts import per_token
from infimum.evidence import Bracket, Estimate, save_estimate

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Evaluate and print."""
    options = parse(Evidence, words, "infimum evidence")
    check(options)
    model, spec, folder = open_model(options.checkpoint, options.adapter)
    model.to(options.device)
    name, dims = type(model).__name__, math.prod(spec.shape)
    if options.given:
        print(conditional_of(model, spec, options))
        return 0
    if not on_simulated_only(options):
        items = held_out(model, spec, options.data, options.split or "test", chat=options.chat)
        if spec.name == LANGUAGE:
            options = for_texts(options, items.x["tokens"].shape[1])
        if not options.quiet:
            with_adapter = f" with {options.adapter}" if options.adapter else ""
            print(f"{name} of {folder}{with_adapter} on {items.title}")
        found = estimates_of(model, items, options)
        estimates = [_in_unit(estimate, options, dims) for estimate in found]
        for estimate in estimates:
            print(estimate.mean(options.delta))
        if spec.name == LANGUAGE:
            print(per_token(found[-1], items.x))
        if spec.log_scale():
            print(
                "these are densities of the standardised data; for densities in the data's own units add "
                f"{spec.log_scale():+.4f} nats"
            )
        if options.json:
            save_estimate(found[-1], options.json)
        write_tables(estimates[-1], items.keys, csv=options.csv, parquet=options.parquet)
        if options.method != "bdmc":
            return 0
    if not options.quiet:
        print(f"{name} of {folder} on {options.simulate or 100} items of its own")
    bracket = bracket_of(model, options)
    shown = Bracket(_in_unit(bracket.lower, options, dims), _in_unit(bracket.upper, options, dims))
    print(shown.mean(options.delta))
    print(_gap(shown, calibrates=not on_simulated_only(options)))
    if on_simulated_only(options):
        write_tables(shown, torch.arange(len(shown.gap)), csv=options.csv, parquet=options.parquet)
    return 0


def _in_unit(estimate: Estimate, options: Evidence, dims: int) -> Any:
    return estimate if options.unit == "nats" else estimate.to_unit(options.unit, dims)


def _gap(bracket: Bracket, *, calibrates: bool) -> str:
    """The gap, and what may be concluded from it."""
    gap, unit = bracket.gap, bracket.lower.unit
    error = f" ± {float(gap.std()) / math.sqrt(len(gap)):.2g}" if len(gap) > 1 else ""
    text = f"gap {float(gap.mean()):.4f}{error} {unit} an item: in expectation at least the bias of either side"
    if float(gap.mean()) < 0:
        text += "\nit is negative by Monte Carlo noise, and the certified limits stand: raise --k or --simulate"
    if calibrates:
        text += (
            "\nno posterior draws of the data above are to be had, so only their forward side stands; the gap says how far below "
            "the evidence it may be, as far as the data are like the model's own items"
        )
    return text
