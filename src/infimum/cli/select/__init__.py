"""``infimum select FILE``: how many components a table supports, by the evidence bound and by what is used instead."""

from infimum.cli.select.command import main

__all__ = ["main"]
