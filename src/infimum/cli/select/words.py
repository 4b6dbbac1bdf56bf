"""What an estimator says, in the words of the command: flags for parameters, names for numbers of columns."""

import re
from collections.abc import Sequence

__all__ = ["in_flags", "named"]

_FLAGS = (
    (r"max_components=(\d+)", r"--max-components \1"),
    (r"max_components", "--max-components"),
    (r"with n_samples=(\d+) and n_features=(\d+)", r"with \1 rows and \2 columns"),
    (r"rows, n_samples=(\d+)", r"rows, \1"),
    (r"noise='known'( with a noise_variance)?", "--noise known with --noise-variance"),
    (r"orbit=True", "--orbit"),
    (r", use covariance_type='(\w+)', or give covariance_prior", r" or use --covariance \1"),
    (r"after max_iter=(\d+) sweeps", r"after \1 sweeps"),
    (r"raise max_iter or tol", "lower --max-components"),
)


def in_flags(text: str) -> str:
    """A sentence of an estimator with flags for its parameters; what no flag sets is left out."""
    for pattern, words in _FLAGS:
        text = re.sub(pattern, words, text)
    return text


def named(text: str, columns: Sequence[str]) -> str:
    """A sentence about "column 3" or "columns 3, 4" with the names of the table instead."""
    head = re.match(r"columns? (\d+(?:, \d+)*)", text)
    if head is None:
        return text
    names = ", ".join(repr(columns[int(number)]) for number in head[1].split(", "))
    return text[: head.start(1)] + names + text[head.end() :]
