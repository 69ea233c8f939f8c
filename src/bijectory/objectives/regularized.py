r"""Maximum likelihood of continuous flows whose paths shall be easy to follow (RNODE).

Many fields carry the data to the same latent. Of these, the one of least kinetic energy moves every point on a straight line
at constant speed: the solution of an optimal transport problem, and one that a solver follows in few steps. The Jacobian's
norm does the same for the neighbourhood of the path, where the data are no more.
"""

import dataclasses
import math

from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.errors import ConfigError, DtypeError, check
from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import nll, weighted_mean
from bijectory.ops.shape import expand_to_context
from bijectory.transforms import Continuous, forward_with_costs


@dataclasses.dataclass(frozen=True)
class RegularizedLikelihood:
    r"""Negative log-likelihood plus the kinetic energy and the Jacobian norm of the paths of continuous layers.

    .. math::
        -\log p(x) + \lambda_K \int_0^1 |v|^2\, dt +
        \lambda_J \int_0^1 \Bigl\| \frac{\partial v}{\partial z} \Bigr\|_F^2\, dt

    in nats per event. The paper divides all terms by the number of dimensions, so its weights are these. Both costs are
    gathered in the solve of the log-determinant, see ``Continuous.forward_with_costs``. In evaluation mode it is ``nll``,
    so that validation compares likelihoods.

    Args:
        kinetic: :math:`\lambda_K`.
        jacobian: :math:`\lambda_J`.

    Raises:
        ConfigError: If a weight is negative or not finite; when called, if the flow has no continuous layer, or one that is
            not a link of its chain.
        DtypeError: When called on something else than a flow.

    References:
        How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization, Finlay, Jacobsen, Nurbekyan,
        Oberman 2020, arXiv:2002.02798.

    Example:
        >>> import torch
        >>> from bijectory import rnode
        >>> RegularizedLikelihood(0.01, 0.01)(rnode(2), Batch(torch.zeros(5, 2))).shape
        torch.Size([])
    """

    kinetic: float = 0.01
    jacobian: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("kinetic", self.kinetic), ("jacobian", self.jacobian)):
            ok = math.isfinite(value) and value >= 0
            check(ok, ConfigError, f"{name} must be a finite number of at least 0, got {value!r}.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean over the rows, in nats."""
        if not isinstance(model, Flow):
            raise DtypeError(f"paths are those of a Flow, got {type(model).__name__}.")
        if not model.training:
            return nll(model, batch)
        followed = any(isinstance(m, Continuous) for m in model.transform.modules())
        beyond = any(isinstance(m, Continuous) for m in model.base.modules())
        remedy = "it must have Continuous layers, all of them in its own chain and none in its base."
        check(followed and not beyond, ConfigError, f"this flow has no path to regularise, or a hidden one; {remedy}")
        c = batch.c if batch.c is None or model.embed is None else model.embed(batch.c)
        c = c if model.context else None
        x = expand_to_context(batch.x, c, model.transform.event_dim)
        z, ladj, costs = forward_with_costs(model.transform, x, c)
        loss = self.kinetic * costs["kinetic"] + self.jacobian * costs["jacobian"] - model.base.log_prob(z, c) - ladj
        return weighted_mean(loss, batch.weight)
