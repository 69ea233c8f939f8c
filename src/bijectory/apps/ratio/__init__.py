r"""Ratios of two densities known by their rows, :math:`r(x) = p(x) / q(x)`: estimates with standard errors, and uses.

Three estimators. **Two flows**: :math:`\log p(x) - \log q(x)`, each fitted by itself; errors of both add up where the two
are alike. **A classifier** that tells rows of p from rows of q: with :math:`P(p \mid x)` and :math:`n_p, n_q` rows,

.. math:: \log r(x) = \log\frac{P(p \mid x)}{P(q \mid x)} - \log\frac{n_p}{n_q},

on the columns or on the latents of a flow (a bijection leaves the ratio as it is, and makes the classifier's task rounder).
Where p and q hardly overlap every classifier is perfect and none knows the ratio. **Telescoping**: waymarks
:math:`x_k = \sqrt{1 - \alpha_k^2}\, x_0 + \alpha_k x_m` mix rows :math:`x_0 \sim p` and :math:`x_m \sim q`, neighbours
overlap, and :math:`\log r = \sum_k \log (p_k / p_{k+1})` is a sum of easy ratios.

Standard errors are the spread of members: posterior draws of logistic regressions and discriminants, whose shrinkage they
count, or bootstrap fits of trees and flows. ``classifier="auto"`` takes the classifier with the best likelihood of rows left
out and calibrates it by these. A classifier that cannot express the ratio is still wrong with confidence: ``check_ratio``
looks for that with fresh rows, :math:`E_q[r] = E_p[1/r] = 1`, and the log-ratio as a calibrated log-odds has slope 1 and
intercept 0; ``calibrate_ratio`` repairs what a slope, or a rising curve, can repair.

Uses: ``ratio_weights`` (importance weights, Pareto-smoothed, for covariate shift), ``two_sample_test``, ``compare_tables``
(all of these for two tables), and out-of-distribution scores: the log-ratio to a background table is one.

References:
    Density Ratio Estimation in Machine Learning, Sugiyama, Suzuki, Kanamori 2012, Cambridge University Press, ch. 4.
    Telescoping Density-Ratio Estimation, Rhodes, Xu, Gutmann 2020, arXiv:2006.12204, eq. 4-8.
"""

from bijectory.apps.ratio.calibration import CalibratedRatio, calibrate_ratio
from bijectory.apps.ratio.checks import RatioCheck, check_ratio
from bijectory.apps.ratio.estimators import ClassifierRatio, DensityRatio, FlowRatio, fit_ratio
from bijectory.apps.ratio.study import TableDifference, compare_tables
from bijectory.apps.ratio.two_sample import TwoSampleTest, two_sample_test
from bijectory.apps.ratio.weights import RatioWeights, ratio_weights

__all__ = [
    "CalibratedRatio",
    "ClassifierRatio",
    "DensityRatio",
    "FlowRatio",
    "RatioCheck",
    "RatioWeights",
    "TableDifference",
    "TwoSampleTest",
    "calibrate_ratio",
    "check_ratio",
    "compare_tables",
    "fit_ratio",
    "ratio_weights",
    "two_sample_test",
]
