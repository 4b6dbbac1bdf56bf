"""Choosing models by the evidence bound: principal components, mixtures, any model that has a bound."""

from infimum.selection.certificate import Certificate, certify, renyi_gaussian
from infimum.selection.comparators import Criteria, compare_criteria
from infimum.selection.ppca import VariationalPPCA
from infimum.selection.settings import PPCASettings

__all__ = [
    "Certificate",
    "Criteria",
    "PPCASettings",
    "VariationalPPCA",
    "certify",
    "compare_criteria",
    "renyi_gaussian",
]
