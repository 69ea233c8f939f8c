"""Data-dependent scaling: fixed (``Standardize``) and trained (``ActNorm``).

Both are set from training data, once and explicitly, by ``initialize`` (``fit`` calls it), and never by ``forward`` or
``inverse``. Whether that has happened is a buffer: a loaded layer is not set again.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, DataError, NonFiniteError, check
from bijectory.transforms.base import Transform


class Standardize(Transform):
    r"""Fixed scaling :math:`z = (x - \mu) / \sigma`, with :math:`\log|\det| = -\sum_i \log \sigma_i`; not trained.

    Args:
        features: Number of features.
        loc: :math:`\mu`; None: 0 until ``initialize`` sets it to the mean of the data.
        scale: :math:`\sigma > 0`; None: 1 until ``initialize`` sets it to the standard deviation.

    Raises:
        ConfigError: If only one of ``loc`` and ``scale`` is given, or their length or values do not fit.
        DataError, NonFiniteError: From ``initialize``, when the data do not determine a scale.

    Example:
        >>> layer = Standardize(2)
        >>> layer.initialize(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
        >>> layer.loc, layer.scale
        ((1.0, 20.0), (1.0, 10.0))
    """

    regions = ("forward", "inverse")
    _loc: Tensor
    _scale: Tensor
    initialised: Tensor

    def __init__(
        self, features: int, loc: Sequence[float] | Tensor | None = None, scale: Sequence[float] | Tensor | None = None
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check((loc is None) == (scale is None), ConfigError, "give both loc and scale, or neither.")
        self.features = features
        mean = torch.zeros(features) if loc is None else _vector(loc, features, "loc")
        deviation = torch.ones(features) if scale is None else _vector(scale, features, "scale")
        check(bool((deviation > 0).all()), ConfigError, f"every scale must be positive, got {deviation.tolist()}.")
        self.register_buffer("_loc", mean)
        self.register_buffer("_scale", deviation)
        self.register_buffer("initialised", torch.tensor(loc is not None))

    @property
    def loc(self) -> tuple[float, ...] | None:
        """The mean as plain numbers; None before ``initialize``."""
        return tuple(self._loc.tolist()) if self.initialised else None

    @property
    def scale(self) -> tuple[float, ...] | None:
        """The standard deviation as plain numbers; None before ``initialize``."""
        return tuple(self._scale.tolist()) if self.initialised else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self._loc) / self._scale, (-self._scale.log().sum()).expand(x.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self._scale + self._loc, self._scale.log().sum().expand(z.shape[:-1])

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        if not self.initialised:
            mean, deviation = moments(x)
            self._loc.copy_(mean)
            self._scale.copy_(deviation)
            self.initialised.fill_(True)  # noqa: FBT003


class ActNorm(Transform):
    r"""Trained scaling :math:`z = (x - \mu) e^{-s}` that starts at zero mean and unit variance of its input.

    The identity until ``initialize`` sets :math:`\mu` and :math:`s` from training data; both are trained from there.
    With ``event_dim=3`` there is one :math:`\mu` and :math:`s` for each channel of an image, and each pixel counts in the
    log-determinant :math:`-H W \sum_i s_i`.

    Args:
        features: Number of features, or of channels.
        event_dim: Dimensions of an event; the first of them is scaled. 1 for vectors, 3 for ``(channels, height, width)``.

    Raises:
        ConfigError: If ``features < 1`` or ``event_dim < 1``.
        DataError, NonFiniteError: From ``initialize``, when the data do not determine a scale.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, sec. 3.1.

    Example:
        >>> layer = ActNorm(1)
        >>> layer.initialize(torch.tensor([[1.0], [3.0]]))
        >>> layer(torch.tensor([3.0]))[0].item()
        1.0
    """

    regions = ("forward", "inverse")
    initialised: Tensor

    def __init__(self, features: int, *, event_dim: int = 1) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(event_dim >= 1, ConfigError, f"event_dim must be at least 1, got {event_dim}.")
        self.features = features
        self.event_dim = self.latent_event_dim = event_dim
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialised", torch.tensor(False))  # noqa: FBT003

    def extra_repr(self) -> str:
        return f"{self.features}, event_dim={self.event_dim}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self._spread(self.loc)) * self._spread((-self.log_scale).exp()), -self._total(x)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self._spread(self.log_scale.exp()) + self._spread(self.loc), self._total(z)

    def _spread(self, value: Tensor) -> Tensor:
        return value if self.event_dim == 1 else value.reshape(-1, *(1,) * (self.event_dim - 1))

    def _total(self, x: Tensor) -> Tensor:
        batch = x.dim() - self.event_dim
        return (math.prod(x.shape[batch + 1 :]) * self.log_scale.sum()).expand(x.shape[:batch])

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        if not self.initialised:
            mean, deviation = moments(x.movedim(-self.event_dim, -1))
            with torch.no_grad():
                self.loc.copy_(mean)
                self.log_scale.copy_(deviation.log())
            self.initialised.fill_(True)  # noqa: FBT003


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of every feature of ``(*batch, features)``, in float64.

    Raises:
        NonFiniteError: If a value is NaN or infinite.
        DataError: If there are fewer than two events, or a feature does not vary beyond the resolution of its dtype.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    check(len(rows) >= 2, DataError, f"a scale needs at least 2 events, got {len(rows)}; pass the whole training set.")
    finite = rows.isfinite()
    if not finite.all():
        row, feature = (~finite).nonzero()[0].tolist()
        bad = int((~finite).any(1).sum())
        raise NonFiniteError(
            f"{bad} of {len(rows)} events are not finite (first: row {row}, feature {feature}); drop them."
        )
    resolution = 4 * torch.finfo(x.dtype).eps * rows.abs().amax(0).double()
    rows = rows.double()
    deviation = rows.std(0, correction=0)
    flat = (deviation <= resolution).nonzero().flatten().tolist()
    check(
        not flat,
        DataError,
        f"features {flat} do not vary beyond the resolution of {x.dtype}; drop them, or pass explicit values.",
    )
    return rows.mean(0), deviation


def _vector(values: Sequence[float] | Tensor, features: int, name: str) -> Tensor:
    """Turn plain numbers into a vector of the default dtype; a tensor keeps its own dtype."""
    vector = (
        values.detach().clone()
        if isinstance(values, Tensor)
        else torch.tensor(list(values), dtype=torch.get_default_dtype())
    )
    ok = vector.shape == (features,) and bool(vector.isfinite().all())
    check(ok, ConfigError, f"{name} must be {features} finite numbers, got {vector.tolist()}.")
    return vector
