"""Choosing models by the evidence bound: principal components, mixtures, any model that has a bound."""

from infimum.selection.certificate import Certificate, certify, renyi_gaussian
from infimum.selection.comparators import Criteria, compare_criteria
from infimum.selection.from_sklearn import RepairedBound, from_sklearn
from infimum.selection.mixture import VariationalGaussianMixture
from infimum.selection.multinomial import VariationalMultinomialMixture
from infimum.selection.ppca import VariationalPPCA
from infimum.selection.selector import EvidenceSelector, Selection, select
from infimum.selection.settings import PPCASettings

__all__ = [
    "Certificate",
    "Criteria",
    "EvidenceSelector",
    "PPCASettings",
    "RepairedBound",
    "Selection",
    "VariationalGaussianMixture",
    "VariationalMultinomialMixture",
    "VariationalPPCA",
    "certify",
    "compare_criteria",
    "from_sklearn",
    "renyi_gaussian",
    "select",
]
