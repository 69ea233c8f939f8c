r"""Flows in Pyro: as a distribution under ``pyro.sample``, as a guide, and as the map of NeuTra.

``at(flow, c)`` is ``flow.at(c)`` with what Pyro asks of a distribution. ``FlowGuide`` fits a flow over all latent variables
of a model, mapped onto the real space, by ``pyro.infer.SVI``:

.. math:: q(x) = p_Z(f(u)) \,|\det \partial f / \partial u|, \qquad x = b(u)

with Pyro's bijections ``b`` for the supports. A trained guide is what ``pyro.infer.reparam.NeuTraReparam`` takes: NUTS then
runs on the latent :math:`z = f(u)`, which is nearly standard normal.

References:
    NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport, Hoffman+ 2019, arXiv:1903.03704.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from bijectory.densities import Flow, FlowDistribution
from bijectory.errors import ConfigError, ShapeError, check, check_type
from bijectory.interop.distributions import FlowTransform
from bijectory.interop.extras import need
from bijectory.recipes import find_recipe
from bijectory.transforms import Chain, Standardize

pyro: Any = need("pyro", "pyro")
need("pyro.infer.reparam", "pyro")
Continuous: Any = need("pyro.infer.autoguide", "pyro").AutoContinuous
Mixin: Any = need("pyro.distributions.torch_distribution", "pyro").TorchDistributionMixin

__all__ = ["FlowGuide", "PyroFlow", "at", "neutra"]


class PyroFlow(FlowDistribution, Mixin):
    """What ``at`` returns: ``FlowDistribution`` with ``to_event``, ``mask``, ``expand_by`` and a call that draws.

    Example:
        >>> from bijectory import real_nvp
        >>> at(real_nvp(2, 3), torch.zeros(7, 3)).to_event(1).event_shape
        torch.Size([7, 2])
    """

    has_enumerate_support = False


def at(flow: Flow, c: Tensor | None = None, *, support: constraints.Constraint | None = None) -> PyroFlow:
    """A flow at a context, ``p(x | c)``, for ``pyro.sample``.

    Its weights learn with the model if it is a part of a ``PyroModule`` or was passed to ``pyro.module``.

    Args:
        flow: The flow.
        c: Context; its batch shape is that of the distribution, and lies under the plates.
        support: As in ``flow.at``: where the density lives, vectors of real numbers if None.

    Example:
        >>> from bijectory import real_nvp
        >>> flow = real_nvp(2, context=3)
        >>> with pyro.plate("rows", 7):
        ...     x = pyro.sample("x", at(flow, torch.zeros(7, 3)))
        >>> x.shape
        torch.Size([7, 2])
    """
    check_type(flow, Flow, "flow")
    plain = flow.at(c, support=support)
    return PyroFlow(flow, c, plain.batch_shape, support=support)


class FlowGuide(Continuous):
    """A flow over all continuous latent variables of a Pyro model, as an automatic guide.

    Works wherever Pyro's automatic guides do: ``SVI``, ``Predictive``, ``NeuTraReparam``, ``EasyGuide`` blocks. The model's
    structure must be fixed, and the guide does not depend on its arguments: it is a posterior for one set of data.

    Args:
        model: The model.
        recipe: Name of a recipe, or a function ``features -> Flow`` of vectors without context. Recipes that are slow
            from latent to data (``maf``) are slow here; ``nsf``, ``real_nvp`` and ``iaf`` are not.
        recipe_args: Arguments of the recipe.
        init_loc_fn: Pyro's initial value of each site; the median if None.
        init_scale: Standard deviation of the first draws around it, in unconstrained units.

    Attributes:
        flow: The flow over unconstrained values, once the guide has seen the model.

    Raises:
        ConfigError: If ``init_scale`` is not positive, or the recipe does not return a flow.
        ShapeError: If the flow does not have the number of features that the model has.

    Example:
        >>> from pyro.distributions import Normal
        >>> def model():
        ...     mu = pyro.sample("mu", Normal(0.0, 10.0))
        ...     pyro.sample("y", Normal(mu, 1.0), obs=torch.tensor(3.0))
        >>> pyro.clear_param_store()
        >>> guide = FlowGuide(model, "real_nvp", {"layers": 2, "hidden": (8,)})
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        >>> isinstance(svi.step(), float), guide()["mu"].shape
        (True, torch.Size([]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        recipe: str | Callable[..., Flow] = "nsf",
        recipe_args: Mapping[str, Any] | None = None,
        *,
        init_loc_fn: Callable[..., Any] | None = None,
        init_scale: float = 0.1,
    ) -> None:
        check(init_scale > 0, ConfigError, f"init_scale must be positive, got {init_scale!r}.")
        start = init_loc_fn or pyro.infer.autoguide.init_to_median
        super().__init__(model, init_loc_fn=start)
        self._recipe = find_recipe(recipe).build if isinstance(recipe, str) else recipe
        self._recipe_args, self._init_scale = dict(recipe_args or {}), float(init_scale)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        loc = self._init_loc()
        inner = self._recipe(self.latent_dim, **self._recipe_args)
        check_type(inner, Flow, "what the recipe returned")
        want, got = (self.latent_dim,), tuple(inner.event_shape)
        fits = got == want and not inner.context
        check(
            fits,
            ShapeError,
            f"the model needs a flow of events {want} without context; got {got}, context {inner.context}.",
        )
        first = Standardize(self.latent_dim, loc, torch.full_like(loc, self._init_scale))
        flow = Flow(Chain(first, inner.transform), inner.base).to(dtype=loc.dtype, device=loc.device)
        self.flow = flow  # PyroModule registers its weights

    def get_base_dist(self) -> Any:
        """The base, as Pyro's NeuTra wants it: a distribution of latents."""
        return at(Flow(Chain(), self.flow.base))

    def get_transform(self, *args: Any, **kwargs: Any) -> FlowTransform:
        """Latents to unconstrained values; the same for all arguments."""
        return FlowTransform(self.flow)

    def get_posterior(self, *args: Any, **kwargs: Any) -> PyroFlow:
        """The flow over unconstrained values."""
        return at(self.flow)


def neutra(
    model: Callable[..., Any], guide: FlowGuide
) -> tuple[Callable[..., Any], Callable[[Tensor], dict[str, Tensor]]]:
    """The model in the latent space of a trained guide, for NUTS, and the way back for its draws.

    Args:
        model: The model that the guide was trained on.
        guide: The guide. Its weights stay as they are.

    Returns:
        The model with one latent vector in place of all its variables, and a function from draws of that vector
        ``(*batch, features)`` to draws of the variables by name.

    Raises:
        ConfigError: If the guide is not a ``FlowGuide``, or was never trained.

    Example:
        >>> kernel = pyro.infer.NUTS(neutra(model, guide)[0])  # doctest: +SKIP
    """
    check_type(guide, FlowGuide, "guide")
    check(
        guide.prototype_trace is not None, ConfigError, "the guide has not seen the model yet; train it by SVI first."
    )
    reparam = pyro.infer.reparam.NeuTraReparam(guide)
    latent: Callable[..., Any] = reparam.reparam(model)

    def back(z: Tensor) -> dict[str, Tensor]:
        # The batch of z goes to the left of the plates of the model.
        nesting = max((-plate.dim for plate in guide.plates.values()), default=0)
        batch = z.shape[:-1]
        with torch.no_grad():
            reparam.transform = guide.get_transform()
            found = reparam.transform_sample(z.reshape(*batch, *(1,) * nesting, z.shape[-1]))
        nodes = guide.prototype_trace.nodes
        return {name: value.reshape(*batch, *nodes[name]["value"].shape) for name, value in found.items()}

    return latent, back
