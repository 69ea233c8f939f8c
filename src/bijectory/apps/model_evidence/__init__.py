"""Evidence of a model by four estimators, each with a standard error, one verdict, and the comparison of models."""

from bijectory.apps.model_evidence.annealed import annealed_evidence
from bijectory.apps.model_evidence.bridge import bridge_evidence
from bijectory.apps.model_evidence.estimate import EvidenceEstimate, EvidenceWarning
from bijectory.apps.model_evidence.evidence import evidence
from bijectory.apps.model_evidence.harmonic import harmonic_evidence
from bijectory.apps.model_evidence.importance import importance_evidence
from bijectory.apps.model_evidence.models import ModelComparison, compare_models
from bijectory.apps.model_evidence.study import EvidenceStudy, study_evidence, write_evidence
from bijectory.apps.model_evidence.verdict import Evidence

__all__ = [
    "Evidence",
    "EvidenceEstimate",
    "EvidenceStudy",
    "EvidenceWarning",
    "ModelComparison",
    "annealed_evidence",
    "bridge_evidence",
    "compare_models",
    "evidence",
    "harmonic_evidence",
    "importance_evidence",
    "study_evidence",
    "write_evidence",
]
