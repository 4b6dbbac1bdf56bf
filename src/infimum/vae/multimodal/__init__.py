"""Multimodal VAEs: MVAE, MMVAE, MoPoE and all between them as one family, with exact accounts of what sub-sampling costs."""

from infimum.vae.multimodal.bounds import RandomSubsetELBO, SubsampledELBO, subset_elbos
from infimum.vae.multimodal.classifiers import PictureClassifier, train_classifiers
from infimum.vae.multimodal.conditional import ConditionalEvidence, conditional_evidence, evidence_of
from infimum.vae.multimodal.config import Modality, MultimodalConfig, mmvae, mopoe, mvae
from infimum.vae.multimodal.experts import product_of_experts
from infimum.vae.multimodal.gaps import linear_moments, subset_gaps
from infimum.vae.multimodal.information import best_encoder_gap, information_bound, subsampling_ceiling
from infimum.vae.multimodal.items import Items, from_multivae
from infimum.vae.multimodal.judging import Judgement, judge
from infimum.vae.multimodal.learner import MultimodalLearner
from infimum.vae.multimodal.metrics import Coherence, agreement, frechet_distance, joint_coherence, linear_probe
from infimum.vae.multimodal.model import MultimodalVAE
from infimum.vae.multimodal.objectives import MultimodalObjective, looser_rule, stratified_dreg

__all__ = [
    "Coherence",
    "ConditionalEvidence",
    "Items",
    "Judgement",
    "Modality",
    "MultimodalConfig",
    "MultimodalLearner",
    "MultimodalObjective",
    "MultimodalVAE",
    "PictureClassifier",
    "RandomSubsetELBO",
    "SubsampledELBO",
    "agreement",
    "best_encoder_gap",
    "conditional_evidence",
    "evidence_of",
    "frechet_distance",
    "from_multivae",
    "information_bound",
    "joint_coherence",
    "judge",
    "linear_moments",
    "linear_probe",
    "looser_rule",
    "mmvae",
    "mopoe",
    "mvae",
    "product_of_experts",
    "stratified_dreg",
    "subsampling_ceiling",
    "subset_elbos",
    "subset_gaps",
    "train_classifiers",
]
