"""What the words of a page mean: only those that the page uses are explained on it."""

from collections.abc import Sequence

from infimum.evidence import Mean

__all__ = ["SIDES", "explain"]

SIDES = {"lower": "lower bound", "upper": "upper bound", "exact": "exact", "none": "no bound"}

EVIDENCE = (
    "Log-evidence, log p(x)",
    (
        "The logarithm of the probability (of a density for real-valued data) that the model gives to an item with its latent "
        "variables integrated out, averaged over items that were not trained on. Larger is better. 1 nat = 1.4427 bits."
    ),
)
BY_NAME = {
    "ELBO": "The evidence lower bound: the mean log-weight, log p(x, z) − log q(z | x). It is below log p(x) by the divergence "
    "of the encoder's posterior from the true one.",
    "IWAE": "The importance-weighted bound: the logarithm of the mean of K weights, averaged over items. Below log p(x) in "
    "expectation, and the closer the larger K is. A dash and a number give K.",
    "IW-EUBO": "An upper bound: one of the K draws comes from the exact posterior. Above log p(x) in expectation.",
    "AIS": "Annealed importance sampling: weights of chains that are led from the encoder's distribution to the exact posterior. A "
    "lower bound; the more temperatures, the closer.",
    "reverse AIS": "The same chains run backwards from an exact posterior draw, which simulated items have. An upper bound.",
    "log-sum": "The exact evidence: the sum over all states of the latent variables.",
}
MONTE_CARLO = (
    "Monte Carlo error",
    "One standard error of what other random draws for the same items would change. Bars in figures are two of them.",
)
POPULATION = ("Population error", "One standard error of what other items from the same source would change.")
CERTIFICATE = (
    "Certified limit",
    (
        "A limit that the exact mean evidence of these very items respects with the stated probability, whatever the quality "
        "of the proposal and however heavy the tails of the weights (Markov's inequality on the product over items)."
    ),
)
PARETO = (
    "Pareto k",
    (
        "The shape of the tail of an item's importance weights. Below the limit, min(1 − 1/log₁₀ K, 0.7), the item's estimate and "
        "its standard error can be trusted; above, it may be too low by more than the error says. The certificate holds either way."
    ),
)
ESS = (
    "Effective sample size (ESS)",
    "How many independent draws from the exact posterior the K weighted draws are worth for an item.",
)


def explain(means: Sequence[Mean], *, weights: bool) -> list[tuple[str, str]]:
    """Terms and meanings."""
    found = [EVIDENCE] if means else []
    for name, text in BY_NAME.items():
        used = [m.name for m in means if m.name == name or m.name.startswith(f"{name}-")]
        if used:
            found.append((", ".join(dict.fromkeys(used)), text))
    found += [MONTE_CARLO, POPULATION] if means else []
    found += [CERTIFICATE] if any(m.certificate is not None and m.side != "exact" for m in means) else []
    found += [PARETO] if weights or any(m.tail for m in means) else []
    return found + ([ESS] if weights else [])
