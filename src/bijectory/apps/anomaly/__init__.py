r"""Anomaly and out-of-distribution detection: scores of a flow, p-values calibrated on held-out rows, reasons.

A density alone does not say what is abnormal. In many dimensions typical rows do not sit where the density is highest, and a
flow of images can give foreign images a *higher* likelihood than its own (Nalisnick+ 2018, arXiv:1810.09136). So there are
several scores, each larger for rows that are more abnormal: the negative log-likelihood, its distance from the entropy
(typicality), the likelihood ratio to a background flow, the radius in latent space, the norm of the score
:math:`\nabla \log p`, the density of these statistics, the log-likelihood corrected for the complexity of an image, and
Fisher's combination of the last two, which is what images are judged by unless told otherwise.

A score becomes a decision by rows that were held out of training. With :math:`n` held-out scores :math:`s_i`, a new row has
the conformal p-value

.. math:: p(x) = \frac{1 + \#\{i : s_i \ge s(x)\}}{n + 1},

and a row that comes from where the held-out rows come from has :math:`P(p \le \alpha) \le \alpha`, whatever the score and
however wrong the flow. The rate is an average over held-out sets as well as new rows: given one held-out set the rate of
false alarms is itself random, Beta-distributed with the mean :math:`\lfloor \alpha (n+1) \rfloor / (n+1)`.

References:
    Testing for Outliers with Conformal p-values, Bates, Candès, Lei, Romano, Sesia 2021, arXiv:2104.08279.
"""

from bijectory.apps.anomaly.background import perturb_pixels, perturb_rows
from bijectory.apps.anomaly.calibration import (
    auroc,
    benjamini_hochberg,
    conformal_p_values,
    false_alarm_rate,
    rows_needed,
)
from bijectory.apps.anomaly.contributions import Explanation, explain_rows
from bijectory.apps.anomaly.detector import METHODS, Detector
from bijectory.apps.anomaly.findings import Evaluation, Findings, read_labels
from bijectory.apps.anomaly.patches import PatchExplanation, explain_images
from bijectory.apps.anomaly.states import StateDensity, Surprise
from bijectory.apps.anomaly.statistics import code_length, latent_radius, log_likelihood, score_norm

__all__ = [
    "METHODS",
    "Detector",
    "Evaluation",
    "Explanation",
    "Findings",
    "PatchExplanation",
    "StateDensity",
    "Surprise",
    "auroc",
    "benjamini_hochberg",
    "code_length",
    "conformal_p_values",
    "explain_images",
    "explain_rows",
    "false_alarm_rate",
    "latent_radius",
    "log_likelihood",
    "perturb_pixels",
    "perturb_rows",
    "read_labels",
    "rows_needed",
    "score_norm",
]
