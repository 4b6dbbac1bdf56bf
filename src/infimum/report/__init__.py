"""Figures and the HTML page of a run."""

from infimum.report.machine import cost, environment
from infimum.report.page import render, write_report
from infimum.report.reading import RunRecord, read_run

__all__ = ["RunRecord", "cost", "environment", "read_run", "render", "write_report"]
