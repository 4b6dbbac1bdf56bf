"""``infimum evidence CHECKPOINT``: what a model's log-evidence is, and how far that can be trusted."""

from infimum.cli.evidence.command import main

__all__ = ["main"]
