"""Score models: networks trained by denoising, with the likelihood of their probability flow."""

from collections.abc import Sequence
from typing import Literal

import torch

from bijectory.densities import Flow, StandardNormal
from bijectory.nets import (
    ProbabilityFlow,
    Schedule,
    SubVariancePreserving,
    TimeMLP,
    VarianceExploding,
    VariancePreserving,
)
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Continuous, Standardize


@recipe(
    paper="Score-Based Generative Modeling through Stochastic Differential Equations, Song, Sohl-Dickstein, Kingma, "
    "Kumar, Ermon, Poole, arXiv:2011.13456",
    year=2020,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
    objective="score_matching",
)
def score_sde(
    features: int,
    context: int = 0,
    *,
    sde: Literal["vp", "sub_vp", "ve"] = "vp",
    beta_max: float = 20.0,
    sigma_max: float = 50.0,
    hidden: Sequence[int] = (128, 128),
    activation: str = "silu",
    frequencies: int = 4,
    method: str = "tsit5",
    steps: int | None = 32,
) -> Flow:
    """A score model of one of the three stochastic equations, as the continuous flow of its probability flow.

    Trained by ``ScoreMatching``, without solving an equation. ``log_prob`` and ``sample`` solve the ordinary one;
    ``sde_sample`` draws by the stochastic one. The density is that of the ordinary equation from the path's first time to 1
    over the base: normalised by itself, whatever the network. It models data with the noise of the first time (0.01, 1e-4
    and 0.01 standard deviations of standardised data for vp, sub_vp and ve), and its base leaves out the little that is
    left of the data at the last time: both are errors of the fit, not of the likelihood.

    The paper's networks are those of images. Here it is a perceptron whose trace has a closed form; it predicts "v", see
    ``nets.ProbabilityFlow``, and starts as the normal of unit variance, so standardise the data.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        sde: Variance-preserving, sub-VP, or variance-exploding.
        beta_max: Last rate of the noise of "vp" and "sub_vp".
        sigma_max: Last standard deviation of the noise of "ve"; the diameter of the data is a good one.
        hidden: Hidden widths of the network.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> score_sde(4).sample(2).shape
        torch.Size([2, 4])
    """
    path: Schedule
    if sde == "ve":
        path = VarianceExploding(sigma_max=sigma_max)
    else:
        path = (VariancePreserving if sde == "vp" else SubVariancePreserving)(beta_max=beta_max)
    power = 1.0 if sde == "ve" else 2.0  # fine structure is made in the first tenth of VP and sub-VP paths
    net = TimeMLP(features, context, hidden, activation, frequencies)
    layer = Continuous(ProbabilityFlow(net, path, "v", power), method, steps)
    base = StandardNormal(features)
    if sde != "ve":
        return Flow(layer, base)
    end = torch.ones(())
    size = torch.hypot(path.alpha(end), path.sigma(end)).float().item()  # a float32: the same number in any precision
    return Flow(Chain(layer, Standardize(features, [0.0] * features, [size] * features)), base)
