"""``infimum select``: read, fit, compare, say."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infimum.cli.parsing import parse
from infimum.cli.select.options import Options
from infimum.errors import UserError

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Parse the flags, then choose and print."""
    arguments = list(words) or ["--help"]
    options = parse(Options, arguments, "infimum select")
    options.check()
    content = _demo(options) if options.demo else _select(options)
    if options.json is not None:
        from infimum.training.files import write_json

        write_json(Path(options.json), content)
    return 0


def _demo(options: Options) -> dict[str, Any]:
    from infimum.recipes.selection_worlds import hit_rates, hit_table

    rates = hit_rates(options.replicates, seed=options.seed)
    print(hit_table(rates))
    if options.plot is not None:
        from infimum.report.selection import hits

        hits(rates, Path(options.plot))
    return {"demo": options.demo, "replicates": options.replicates, "seed": options.seed, "worlds": rates}


def _select(options: Options) -> dict[str, Any]:
    from infimum.cli.select.show import content, shown
    from infimum.cli.select.table import read_table
    from infimum.cli.select.words import in_flags, named

    assert options.file is not None
    table = read_table(options.file, options.columns)
    table.require_numbers(options.family)
    table = table.scaled(options.standardize)
    from infimum.selection import VariationalGaussianMixture, VariationalMultinomialMixture, VariationalPPCA

    families = {
        "ppca": VariationalPPCA,
        "mixture": VariationalGaussianMixture,
        "multinomial": VariationalMultinomialMixture,
    }
    estimator: Any = families[options.family](**options.settings())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(table.values)
        except UserError as error:
            raise UserError(f"{table.title}: {in_flags(str(error))}") from None
    said = [named(in_flags(str(w.message)), table.columns) for w in caught if issubclass(w.category, UserWarning)]
    others: dict[str, tuple[Any, Any]] = {}
    if options.comparators:
        from infimum.cli.select.others import others_of

        others = others_of(options.family, table.values, estimator, options.seed)
    found = content(table, options.family, options.settings(), estimator, others, said)
    print(shown(found))
    if options.plot is not None:
        from infimum.report.selection import criterion

        criterion(found, Path(options.plot))
    return found
