"""Answers: a value with its side, its standard error, and a certificate or the reason why there is none."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.diagnostics import pareto_threshold

__all__ = ["Bracket", "BracketMean", "Estimate", "Mean", "Tail", "closed_form", "same_question"]

Side = Literal["lower", "upper", "exact", "none"]
Unit = Literal["nats", "bits", "bits/dim"]
Unbiased = Literal["evidence", "inverse evidence", "elbo", "log evidence"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """One number an item, in nats unless ``unit`` says otherwise.

    Attributes:
        value: shape (B,), float64, differentiable.
        stderr: between-replicate Monte Carlo standard error, shape (B,); NaN where there is one replicate.
        side: where E[value] stands relative to the target, at this number of draws.
        certified: E exp(value) <= p item by item (for an upper side E exp(-value) <= 1/p).
        unbiased_for: what exp(value), exp(-value) or the value itself estimates without bias.
        name: of the bound, with its number of draws.
        target: what is bounded.
        keys: item keys; None where items have none.
        calls: network evaluations spent, in (draw, item) pairs.
        diagnostics: further numbers an item: "pareto_k", "ess", "max_weight".
        copies: independent copies averaged in log space: the slack of a certificate over N items is
            log(1/delta) / (copies N). Infinite for deterministic values.
        obstacle: why there is no certificate, where there is none.
        draws: draws an item behind the value.
        unit: "nats", "bits" or "bits/dim".
        ceiling: what the target cannot exceed for any item: 0 for log p(x) of discrete data; None: unknown.
    """

    value: Float[Tensor, "B"]
    stderr: Float[Tensor, "B"]
    side: Side
    certified: bool
    unbiased_for: Unbiased | None
    name: str
    target: str = "log p(x)"
    keys: Tensor | None = None
    calls: int = 0
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    copies: float = 1
    obstacle: str = ""
    draws: int = 0
    unit: str = "nats"
    ceiling: float | None = None

    def mean(self, delta: float = 0.05) -> "Mean":
        """The average over items, with both standard errors and a certificate that holds with probability 1 - delta.

        The certificate (00-bounds 3.1 d, e) is Markov's inequality on the product over independent items: no assumption
        on tails or on the quality of the proposal enters.

        Raises:
            UserError: no items, or a delta outside (0, 1).
        """
        if not 0 < delta < 1:
            raise UserError(f"delta is the probability that the certificate fails, in (0, 1), got {delta}")
        n = self.value.shape[0]
        if n == 0:
            raise UserError("the estimate holds no items: there is nothing to average")
        value = self.value.detach()
        obstacle = self._obstacle()
        certificate = None
        if not obstacle:
            slack = -math.log(delta) / (self.copies * n) * self.nat()
            certificate = float(value.mean()) + (slack if self.side == "upper" else -slack)
        return Mean(
            value=float(value.mean()),
            stderr=float(self.stderr.detach().square().sum().sqrt()) / n,
            population_stderr=float(value.std()) / math.sqrt(n) if n > 1 else math.nan,
            certificate=certificate,
            obstacle=obstacle,
            delta=delta,
            items=n,
            side=self.side,
            name=self.name,
            target=self.target,
            unit=self.unit,
            tail=Tail.of(self),
        )

    def nat(self) -> float:
        """One nat in this estimate's unit."""
        return float(self.diagnostics["unit_per_nat"].flatten()[0]) if self.unit != "nats" else 1.0

    def _obstacle(self) -> str:
        if self.obstacle:
            return self.obstacle
        if not self.certified or self.side == "none":
            return f"{self.name} is not certified"
        if self.keys is not None and self.keys.unique().numel() != self.keys.numel():
            return "items share keys, so their draws are not independent: give every item a key of its own"
        return ""

    def to_unit(self, unit: Literal["bits", "bits/dim"], dims: int | None = None) -> "Estimate":
        """The same estimate in bits, or in bits per dimension of an item with ``dims`` dimensions. The sign stays."""
        if self.unit != "nats":
            raise UserError(f"the estimate is in {self.unit} already: convert the one in nats")
        if unit == "bits/dim" and (dims is None or dims < 1):
            raise UserError(f"bits/dim needs dims, the number of dimensions of an item, got {dims}")
        scale = 1 / math.log(2) / (dims if unit == "bits/dim" and dims else 1)
        ceiling = None if self.ceiling is None else self.ceiling * scale
        extra = {**self.diagnostics, "unit_per_nat": torch.tensor(scale, dtype=torch.float64)}
        return dataclasses.replace(
            self, value=self.value * scale, stderr=self.stderr * scale, unit=unit, diagnostics=extra, ceiling=ceiling
        )

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Difference item by item. It has no side: the model with the better proposal looks better.

        Its standard error is that of independent draws; where both share draws, use `difference` of their tables.
        """
        same_question(self, other)
        return Estimate(
            self.value - other.value,
            (self.stderr.square() + other.stderr.square()).sqrt(),
            "none",
            False,
            None,
            f"{self.name} - {other.name}",
            f"{self.target}, difference",
            self.keys,
            self.calls + other.calls,
            {name: value for name, value in self.diagnostics.items() if name == "unit_per_nat"},
            obstacle="a difference of two bounds bounds nothing",
            unit=self.unit,
        )

    @staticmethod
    def cat(parts: "Sequence[Estimate]") -> "Estimate":
        """Estimates of several batches of items as one.

        Raises:
            UserError: no parts, or parts that are not the same bound of the same target.
        """
        if not parts:
            raise UserError("Estimate.cat needs at least one part")
        first = parts[0]
        for part in parts[1:]:
            for name in ("side", "certified", "name", "target", "unit", "copies", "ceiling"):
                if getattr(part, name) != getattr(first, name):
                    raise UserError(f"parts differ in {name}: {getattr(first, name)!r} and {getattr(part, name)!r}")
        keys = [part.keys for part in parts if part.keys is not None]
        names = set.intersection(*(set(part.diagnostics) for part in parts))
        return dataclasses.replace(
            first,
            value=torch.cat([part.value for part in parts]),
            stderr=torch.cat([part.stderr for part in parts]),
            keys=torch.cat(keys) if len(keys) == len(parts) else None,
            calls=sum(part.calls for part in parts),
            diagnostics={
                name: torch.cat([p.diagnostics[name] for p in parts])
                if first.diagnostics[name].ndim
                else first.diagnostics[name]
                for name in names
            },
        )


@dataclass(frozen=True)
class Tail:
    """Pareto k of the items' weights: its median, its largest, and the share of items above the reliable limit."""

    median: float
    largest: float
    unreliable: float
    limit: float

    @staticmethod
    def of(estimate: Estimate) -> "Tail | None":
        """The summary, where the estimate carries Pareto k."""
        k = estimate.diagnostics.get("pareto_k")
        if k is None or k.numel() == 0 or bool(k.isnan().all()):
            return None
        limit = pareto_threshold(estimate.draws)
        return Tail(float(k.nanmedian()), float(k[~k.isnan()].max()), float((k > limit).double().mean()), limit)

    def __str__(self) -> str:
        return f"Pareto k {self.median:.2f} (largest {self.largest:.2f}, {self.unreliable:.0%} of items above {self.limit:.2f})"


@dataclass(frozen=True)
class Mean:
    """The average of an estimate over items.

    Attributes:
        value: average, in ``unit`` an item.
        stderr: Monte Carlo standard error: what other draws for the same items would change. NaN for one replicate.
        population_stderr: sampling error: what other items would change (contains the Monte Carlo part).
        certificate: the limit that the items' exact average respects with probability 1 - delta, or None.
        obstacle: why there is no certificate.
        delta: probability that the certificate fails.
        items: how many.
        side: of the value.
        name: of the bound.
        target: what is bounded.
        unit: of all numbers here.
        tail: summary of Pareto k, where weights were at hand.
    """

    value: float
    stderr: float
    population_stderr: float
    certificate: float | None
    obstacle: str
    delta: float
    items: int
    side: Side
    name: str
    target: str
    unit: str
    tail: Tail | None

    def __str__(self) -> str:
        sign = {"lower": " <= ", "upper": " >= ", "exact": " = ", "none": " ~ "}[self.side]
        error = (
            "stderr unknown: use replicates=2 or more"
            if math.isnan(self.stderr)
            else f"± {self.stderr:.2g} Monte Carlo"
        )
        text = f"{self.name} {self.value:.4f}{sign}{self.target} [{self.unit}, {self.items} items]: {error}"
        if not math.isnan(self.population_stderr):
            text += f", ± {self.population_stderr:.2g} population"
        if self.certificate is not None:
            relation = "<=" if self.side == "upper" else ">="
            text += f"; certified mean {relation} {self.certificate:.4f} with probability {1 - self.delta:g}"
        else:
            text += f"; no certificate: {self.obstacle}"
        return text + (f"; {self.tail}" if self.tail else "")


def closed_form(
    value: Float[Tensor, "B"],
    side: Literal["exact", "lower", "upper"] = "exact",
    *,
    name: str = "closed form",
    target: str = "log p(x)",
    keys: Tensor | None = None,
) -> Estimate:
    """A value without Monte Carlo error: standard error 0, certified as it stands."""
    unbiased: Unbiased | None = {"exact": "evidence", "lower": "elbo"}.get(side)  # type: ignore[assignment]
    value = value.double()
    return Estimate(value, torch.zeros_like(value.detach()), side, True, unbiased, name, target, keys, copies=math.inf)


def same_question(a: Estimate, b: Estimate) -> None:
    if a.target != b.target:
        raise UserError(
            f"the two estimates bound different targets, {a.target!r} and {b.target!r}: they cannot be compared"
        )
    if a.unit != b.unit:
        raise UserError(f"the two estimates have different units, {a.unit!r} and {b.unit!r}: convert both to one")
    if a.value.shape != b.value.shape:
        raise UserError(f"the two estimates are of {a.value.shape[0]} and {b.value.shape[0]} items: use the same items")
    if a.keys is not None and b.keys is not None and not torch.equal(a.keys, b.keys):
        raise UserError("the two estimates are of different items (their keys differ): evaluate both on the same items")


@dataclass(frozen=True, eq=False)
class Bracket:
    """The same items' evidence from both sides."""

    lower: Estimate
    upper: Estimate

    def __post_init__(self) -> None:
        """Refuse sides that are not what they are put in for."""
        if self.lower.side not in ("lower", "exact"):
            raise UserError(
                f"a bracket's lower side needs a lower bound, got {self.lower.name} of side {self.lower.side!r}"
            )
        if self.upper.side not in ("upper", "exact"):
            raise UserError(
                f"a bracket's upper side needs an upper bound, got {self.upper.name} of side {self.upper.side!r}"
            )
        same_question(self.lower, self.upper)

    def mean(self, delta: float = 0.05) -> "BracketMean":
        """Both averages; delta is split, so that both limits hold together with probability 1 - delta."""
        return BracketMean(self.lower.mean(delta / 2), self.upper.mean(delta / 2))

    @property
    def gap(self) -> Float[Tensor, "B"]:
        """Upper minus lower, item by item: at least the bias of either in expectation."""
        return self.upper.value - self.lower.value


@dataclass(frozen=True)
class BracketMean:
    """The averages of a bracket; together their certificates hold with probability 1 - lower.delta - upper.delta."""

    lower: Mean
    upper: Mean

    def __str__(self) -> str:
        return f"[{self.lower.value:.4f}, {self.upper.value:.4f}] {self.lower.unit}\n  {self.lower}\n  {self.upper}"
