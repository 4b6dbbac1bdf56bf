"""What does a density gap buy at equal likelihood? Active units and information beside beta-VAEs and free bits, on one text."""

import tempfile
from pathlib import Path

import numpy as np

from common import difference, options, save
from infimum.recipes.dg_vae import DgVae
from infimum.training import Run

FAMILIES = {
    "density gap": ("dg-2", "dg-8", "dg"),
    "beta": ("vae", "beta-.4", "beta-.2", "beta-.1"),
    "free bits": ("fb-4", "fb", "fb-16"),
    "batch norm": ("bn", "bn-.9", "bn-1.2"),
}
KEYS = ("active", "information")


def at(level: float, curve: list[tuple[float, float]]) -> float | None:
    """A family's value at a likelihood, linear between its settings; None outside of them."""
    curve = sorted(curve)
    if not curve[0][0] <= level <= curve[-1][0]:
        return None
    return float(np.interp(level, *zip(*curve, strict=True)))


def compared(found: dict[str, dict[str, list[float]]], seeds: int) -> dict[str, dict[str, dict]]:
    """Density gap less each other family at its own likelihood, seed by seed, where that lies in the family's range."""
    answers: dict[str, dict[str, dict]] = {}
    for setting in FAMILIES["density gap"]:
        answers[setting] = {}
        for family, names in FAMILIES.items():
            if family == "density gap":
                continue
            row: dict[str, dict] = {}
            for key in KEYS:
                ours, theirs = [], []
                for seed in range(seeds):
                    level = found[setting]["prior_ll"][seed]
                    other = at(level, [(found[name]["prior_ll"][seed], found[name][key][seed]) for name in names])
                    if other is not None:
                        ours.append(found[setting][key][seed])
                        theirs.append(other)
                row[key] = {"seeds": len(ours), **(difference(ours, theirs) if len(ours) > 1 else {})}
            answers[setting][family] = row
    return answers


def verdict(found: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """The goal: the most active units at a likelihood no worse than the best baseline's, within one standard error."""

    def mean(name: str, key: str) -> tuple[float, float]:
        each = np.asarray(found[name][key], dtype=float)
        return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)

    names = [name for family in FAMILIES.values() for name in family]
    others = [name for name in names if name not in FAMILIES["density gap"]]
    most = max(mean(name, "active")[0] for name in names)
    best, error = max(mean(name, "prior_ll") for name in others)
    met = [name for name in FAMILIES["density gap"]
           if mean(name, "active")[0] >= most - 1e-9 and mean(name, "prior_ll")[0] >= best - error]  # fmt: skip
    return {"most_active": most, "best_baseline_prior_ll": best, "its_standard_error": error, "met_by": met}


def main() -> None:
    args = options(__doc__ or "")
    seeds = 2 if args.quick else 5
    models = tuple(name for family in FAMILIES.values() for name in family)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"epochs": 2}
        if args.quick:
            text = Path(folder, "some.txt")
            text.write_text(
                "\n".join(f"the {a} {b} {c}" for a in "pqrs" for b in "tuvw" for c in "xyz"), encoding="utf-8"
            )
            sizes = {
                "data": str(text),
                "epochs": 1,
                "batch": 8,
                "items": 4,
                "hidden": 8,
                "embedding": 4,
                "latent": 2,
                "eval_k": 2,
            }  # type: ignore[dict-item]
        metrics = DgVae(models=models, seeds=seeds, **sizes).run(Run(Path(folder, "run"), quiet=True))  # type: ignore[arg-type]
    shown = ("prior_ll", "post_ll", "divergence", "information", "active", "consistent", "hole")
    found = {name: {key: metrics[name][key]["values"] for key in shown} for name in models}
    result = {
        "families": FAMILIES, "seeds": seeds, "information_cap": metrics["information cap"], "found": found,
        "density_gap_less_others": compared(found, seeds), "goal": verdict(found),
    }  # fmt: skip
    save("dg", args, result)


if __name__ == "__main__":
    main()
