"""What the suite found, check by check."""

from dataclasses import dataclass

from infimum.errors import UserError

__all__ = ["Check", "Failed", "Report", "Skipped"]


class Failed(Exception):
    """A check that failed: one sentence with what was seen, what was expected and the remedy."""


class Skipped(Exception):
    """A check that does not apply or cannot tell, and why."""


@dataclass(frozen=True)
class Check:
    """One demand of the contract.

    Attributes:
        name: the same in every version: what a test may look up.
        passed: None where the check does not apply or was not run.
        detail: what was seen; for a failure also what was expected and the remedy.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """The checks of one model, in the order in which they were run. ``print(report)`` shows a table."""

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> Check:
        """The check of that name.

        Raises:
            KeyError: the suite for this kind of model has no such check.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}: the checks are {', '.join(check.name for check in self.checks)}")

    def raise_if_failed(self) -> None:
        """Raise if a check failed.

        Raises:
            UserError: names every failed check and its finding.
        """
        if self.failures:
            found = "; ".join(f"{check.name}: {check.detail}" for check in self.failures)
            raise UserError(f"{self.model} fails {len(self.failures)} of {len(self.checks)} checks: {found}")

    def __str__(self) -> str:
        word = {True: "passed", False: "FAILED", None: "-"}
        width = max(len(check.name) for check in self.checks)
        lines = [f"{check.name:<{width}}  {word[check.passed]:<6}  {check.detail}" for check in self.checks]
        good, bad = sum(check.passed is True for check in self.checks), len(self.failures)
        rest = len(self.checks) - good - bad
        return "\n".join([f"{self.model}: {good} passed, {bad} failed, {rest} not applicable or not run", *lines])
