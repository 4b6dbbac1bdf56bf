"""``infimum run NAME``: every field of the recipe is a flag."""

import dataclasses
import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infimum.errors import UserError
from infimum.recipes import RECIPES

__all__ = ["main"]


@dataclass(frozen=True)
class Options:
    """Where and how to run.

    Attributes:
        out: run directory (default: runs/NAME-DATE-TIME)
        seed: of weights, batches and draws
        device: cpu, cuda, cuda:1, mps
        precision: of the networks
        resume: go on from the checkpoint in --out
        quiet: print the result only
        trackers: tensorboard
    """

    out: str | None = None
    seed: int = 0
    device: str = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    resume: bool = False
    quiet: bool = False
    trackers: tuple[str, ...] = ()


def _recipe(name: str) -> Any:
    if name not in RECIPES:
        import difflib

        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ":"
        raise UserError(f"there is no recipe {name!r}{hint} the recipes are {', '.join(RECIPES)}")
    module, _, attribute = RECIPES[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _take(words: list[str], flag: str) -> str | None:
    """Remove ``flag VALUE`` or ``flag=VALUE`` from the words."""
    for i, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return words.pop(i).removeprefix(f"{flag}=")
        if word == flag:
            if i + 1 == len(words):
                raise UserError(f"{flag} needs a value after it")
            words.pop(i)
            return words.pop(i)
    return None


def _stored(path: str) -> tuple[str, Any, Options]:
    """Recipe name, configuration and options of a run's config.json."""
    from infimum.training import from_json

    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {file} cannot be read ({error}): give a run's config.json") from None
    except ValueError:
        raise UserError(f"--config {file} is not JSON: give a run's config.json") from None
    config = head.get("config") if isinstance(head, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), str):
        raise UserError(f"--config {file} names no recipe: give the config.json of a run, not of a checkpoint")
    config = dict(config)
    name = config.pop("recipe")
    cls = _recipe(name)
    known = {
        "seed": head.get("seed", 0),
        "device": head.get("device", "cpu"),
        "precision": head.get("precision", "float32"),
    }
    return name, from_json(cls, config, str(file)), from_json(Options, known, str(file))


def main(words: Sequence[str]) -> int:
    """Parse the flags, run the recipe, write the result."""
    rest = list(words)
    if not rest or rest[0] in ("-h", "--help"):
        print("usage: infimum run NAME [--flags]                  flags of a recipe: infimum run NAME --help")
        print("       infimum run NAME --preset cpu|gpu|paper     a named configuration; flags change it")
        print("       infimum run --config RUN/config.json        a run again, from its own file; flags change it")
        print(f"\nrecipes: {', '.join(RECIPES)}        infimum list")
        return 0
    config = _take(rest, "--config")
    preset = _take(rest, "--preset")
    if config is not None:
        if preset is not None:
            raise UserError("--config and --preset both set every field: give one of them")
        name, recipe, options = _stored(config)
        if rest and not rest[0].startswith("-"):
            raise UserError(f"--config names the recipe itself ({name}): leave {rest[0]!r} out")
    else:
        name = rest.pop(0)
        if name.startswith("-"):
            raise UserError(f"the recipe's name comes first, got {name!r}: infimum run NAME [--flags]")
        recipe, options = _recipe(name).preset(preset or "cpu"), Options()
    recipe, options = _parse(name, recipe, options, rest)
    recipe.check()
    return _run(name, recipe, options)


def _parse(name: str, recipe: Any, options: Options, rest: list[str]) -> tuple[Any, Options]:
    import tyro

    from infimum.cli.parsing import parse

    both = dataclasses.make_dataclass(
        "Both",
        [
            ("recipe", tyro.conf.OmitArgPrefixes[type(recipe)], dataclasses.field(default=recipe)),  # type: ignore[misc]
            ("options", tyro.conf.OmitArgPrefixes[Options], dataclasses.field(default=options)),
        ],
        frozen=True,
    )
    parsed: Any = parse(both, rest, f"infimum run {name}", description=type(recipe).__doc__)
    return parsed.recipe, parsed.options


def _discard(path: Path) -> None:
    """Take back a run directory in which nothing has happened yet, so that the mended command can use it."""
    if not path.is_dir():
        return
    inside = [file for file in path.rglob("*") if file.is_file()]
    if all(file.name == "config.json" and (file.parent / "checkpoint").exists() is False for file in inside):
        for file in inside:
            file.unlink()
        for folder in sorted((f for f in path.rglob("*") if f.is_dir()), reverse=True):
            folder.rmdir()
        path.rmdir()


def _run(name: str, recipe: Any, options: Options) -> int:
    from infimum.cli.models import check_device
    from infimum.report import cost, environment
    from infimum.training import Run

    check_device(options.device)
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}, expected a whole number from 0 to 2^63 - 1")
    if options.resume and (options.out is None or not (Path(options.out) / "config.json").exists()):
        raise UserError(f"--resume needs the --out of a run that was begun, got {options.out}: there is no config.json")
    out = options.out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    config = {"recipe": name, **dataclasses.asdict(recipe)}
    existed, run = Path(out).exists(), None
    try:
        run = Run(
        out, seed=options.seed, device=options.device, precision=options.precision, resume=options.resume,
        quiet=options.quiet, trackers=options.trackers, config=config,
        )  # fmt: skip
        started = time.monotonic()
        metrics = recipe.run(run)
    except UserError:
        if not existed:
            _discard(Path(out))
        if run is not None and run.writes:
            _report(run.path)
        raise
    if not metrics.get("interrupted"):
        seconds = time.monotonic() - started
        machine = {"environment": environment(run.device), "cost": cost(run.device)}
        run.finish({"recipe": name, "wall_seconds": seconds, **metrics, **machine})
    if run.writes:
        _report(run.path)
    if metrics.get("interrupted"):
        return 130
    if run.writes:
        print(f"\nrun directory: {run.path}")
    return 0


def _report(path: Path) -> None:
    """The page of a run that has logged something, however it ended."""
    from infimum.report import write_report

    if any(path.rglob("metrics.jsonl")):
        write_report([path])
