"""Evidence of a model by four estimators, each with a standard error, one verdict, and the comparison of models."""

from bijectory.apps.evidence.annealed import annealed_evidence
from bijectory.apps.evidence.bridge import bridge_evidence
from bijectory.apps.evidence.estimate import EvidenceEstimate, EvidenceWarning
from bijectory.apps.evidence.harmonic import harmonic_evidence
from bijectory.apps.evidence.importance import importance_evidence

__all__ = [
    "EvidenceEstimate",
    "EvidenceWarning",
    "annealed_evidence",
    "bridge_evidence",
    "harmonic_evidence",
    "importance_evidence",
]
