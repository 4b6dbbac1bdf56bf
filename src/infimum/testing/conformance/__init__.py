"""The conformance suite: any user's model put through the engine's contract."""

from infimum.testing.conformance.report import Check, Report
from infimum.testing.conformance.suite import check_model

__all__ = ["Check", "Report", "check_model"]
