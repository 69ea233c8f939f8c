r"""Through latent space and back: round trips, interpolation, directions, counterfactuals.

A flow is a bijection, so :math:`x = f^{-1}(f(x; c); c)` exactly, up to rounding: nothing is lost in the latent, and whatever
is done there comes back as data. Decoding under another context answers "what would this row be, had the context been
:math:`c'`": :math:`x' = f^{-1}(f(x; c); c')`. With one feature and a rising map that keeps the row's quantile, whatever the
flow. With several it depends on how the flow parts the noise: two flows with the same density can give different
counterfactuals, and neither is causal unless the order of the features and the context are (Pawlowski 2020,
arXiv:2006.06485).

Functions take a ``TableFlow`` (rows are frames, the context its given columns) or a ``Flow`` (rows, contexts are tensors).
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, ContextError, DataError, check
from bijectory.tables import to_frame

Model = TableFlow | Flow


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """How well rows come back from latent space.

    Attributes:
        error: Largest difference of each column, in standard deviations of the rows (or units, where they do not vary).
        worst: Number of the worst row.
        ok: Whether no difference is above the tolerance.
    """

    error: np.ndarray
    worst: int
    ok: bool


def round_trip(model: Model, rows: Any, *, given: Any = None, tolerance: float = 1e-4) -> RoundTrip:
    """Encode rows, decode them, and compare.

    Dequantized columns come back on their lattice; constant ones are no part of the latent.

    Args:
        model: The flow.
        rows: Rows; of a table with their given columns.
        given: Context of a ``Flow``.
        tolerance: In standard deviations.

    Example:
        >>> from bijectory import real_nvp
        >>> round_trip(real_nvp(2), torch.randn(50, 2)).ok
        True
    """
    z, c = _encode(model, rows, given)
    back, rows = _values(model, _decode(model, z, c)), _values(model, rows)
    spread = rows.std(0)
    gap = np.abs(back - rows) / np.where(spread > 0, spread, 1.0)
    gap = np.where(np.isnan(gap), np.inf, gap)
    return RoundTrip(gap.max(0), int(gap.max(1).argmax()), bool((gap <= tolerance).all()))


def interpolate(
    model: Model, a: Any, b: Any, steps: int = 8, *, given: Any = None, spherical: bool | None = None
) -> Any:
    """Rows on the way from ``a`` to ``b`` through latent space, both included: ``steps`` of them.

    Args:
        model: The flow.
        a: One row; of a conditional table with its given columns.
        b: Another one.
        steps: Number of rows, at least 2.
        given: Context of the way; of a table that of ``a`` and ``b`` if they agree.
        spherical: Along a great circle; None for a normal base, see ``latent_path``.

    Raises:
        ContextError: If ``a`` and ``b`` have different contexts and none is given for the way.

    Example:
        >>> from bijectory import real_nvp
        >>> interpolate(real_nvp(2), torch.zeros(2), torch.ones(2), steps=5).shape
        torch.Size([5, 2])
    """
    check(steps >= 2, ConfigError, f"steps must be at least 2, got {steps}.")
    ends = [_encode(model, row, given) for row in (a, b)]
    check(all(len(z) == 1 for z, _ in ends), DataError, "a and b must be one row each.")
    (z0, c0), (z1, c1) = ends
    if isinstance(model, TableFlow) and model.schema.givens:
        same = given is not None or bool((c0.to_numpy() == c1.to_numpy()).all())
        check(
            same, ContextError, "a and b have different given columns; pass given= for the way, or use counterfactual."
        )
        c0 = c0 if given is None else to_frame(given)
    normal = isinstance((model.flow if isinstance(model, TableFlow) else model).base, StandardNormal)
    path = latent_path(z0[0], z1[0], steps, spherical=normal if spherical is None else spherical)
    return _decode(model, path, c0)


def mean_direction(model: Model, having: Any, lacking: Any, *, given: Any = None) -> np.ndarray:
    """Direction of an attribute in latent space: the mean latent of rows that have it minus that of others, ``(d,)``.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, sec. 5.3.

    Example:
        >>> from bijectory import real_nvp
        >>> mean_direction(real_nvp(2), torch.ones(5, 2), torch.zeros(5, 2)).shape
        (2,)
    """
    first, second = (_encode(model, rows, given)[0] for rows in (having, lacking))
    check(len(first) > 0 and len(second) > 0, DataError, "a direction needs at least one row on either side.")
    return first.mean(0) - second.mean(0)


def shift(model: Model, rows: Any, direction: Any, amount: float = 1.0, *, given: Any = None) -> Any:
    """Move rows along a latent direction; amount 0 gives them back.

    Example:
        >>> from bijectory import real_nvp
        >>> shift(real_nvp(2), torch.zeros(3, 2), [1.0, 0.0], amount=0.5).shape
        torch.Size([3, 2])
    """
    z, c = _encode(model, rows, given)
    step = np.asarray(direction, dtype=np.float64)
    check(step.shape == z.shape[1:], ConfigError, f"direction has shape {step.shape}, expected {z.shape[1:]}.")
    return _decode(model, z + amount * step, c)


def counterfactual(model: Model, rows: Any, *, given: Any, context: Any = None) -> Any:
    """Keep the latent of rows, change their context. See the module for what that does and does not mean.

    Args:
        model: A conditional flow.
        rows: Rows; of a table with the given columns that they were seen with.
        given: The new context: of a table columns to change (the others stay), one value or one for each row.
        context: The context that the rows of a ``Flow`` were seen with.

    Raises:
        ContextError: If the flow is not conditional, or a changed column is not a given one.

    Example:
        >>> from bijectory import real_nvp
        >>> flow = real_nvp(2, context=1)
        >>> counterfactual(flow, torch.zeros(3, 2), context=torch.zeros(3, 1), given=torch.ones(3, 1)).shape
        torch.Size([3, 2])
    """
    z, c = _encode(model, rows, context)
    if not isinstance(model, TableFlow):
        check(model.context > 0 or model.embed is not None, ContextError, "this flow reads no context to change.")
        return _decode(model, z, given)
    names = [column.name for column in model.schema.givens]
    changes = to_frame(given)
    strange = [str(name) for name in changes.columns if name not in names]
    ok, listing = bool(names) and not strange, ", ".join(names) or "none"
    check(ok, ContextError, f"{strange} cannot be changed: the given columns of this density are: {listing}.")
    fits = len(changes) in (1, len(z))
    check(fits, ContextError, f"given has {len(changes)} rows, the data {len(z)}; use 1 or {len(z)}.")
    new = {name: np.resize(changes[name].to_numpy(), len(z)) for name in changes.columns}
    return _decode(model, z, c.assign(**new))


def latent_path(a: np.ndarray, b: np.ndarray, steps: int, *, spherical: bool) -> np.ndarray:
    """Latents from ``a`` to ``b``, ``(d,)`` each, both included: ``(steps, d)``.

    Args:
        a: Start.
        b: End.
        steps: Number of latents.
        spherical: Along a great circle, on which latents of a normal base keep the length of typical ones; else straight.

    References:
        Animating rotation with quaternion curves, Shoemake 1985, SIGGRAPH (slerp); Sampling generative networks, White 2016,
        arXiv:1609.04468.
    """
    t = np.linspace(0.0, 1.0, steps)[:, None]
    return slerp(a, b, t) if spherical else (1 - t) * a + t * b


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Great circle from ``a`` to ``b``, ``(d,)``, at ``t``, ``(steps, 1)``; a straight line where they are parallel."""
    cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300)
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if math.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / math.sin(angle)


def _encode(model: Model, rows: Any, given: Any) -> tuple[np.ndarray, Any]:
    """Latents ``(n, d)``, float64, and the context in the form that ``_decode`` takes."""
    if isinstance(model, TableFlow):
        frame = to_frame(rows)
        names = [column.name for column in model.schema.columns if column.role == "given"]
        if given is not None:
            known = to_frame(given)
            frame = frame.assign(**{k: np.resize(known[k].to_numpy(), len(frame)) for k in known.columns if k in names})
        z = model.transform(frame).to_numpy()
        return z, frame[names] if names else None
    x = torch.atleast_2d(rows)
    c = None if given is None else torch.as_tensor(given)
    with torch.no_grad():
        z = model.to_latent(x, c)[0]
    return z.double().cpu().numpy(), c


def _decode(model: Model, z: np.ndarray, c: Any) -> Any:
    if isinstance(model, TableFlow):
        found = model.inverse_transform(z, given=c)
        if c is None:
            return found
        rows: pd.DataFrame = c.iloc[np.resize(np.arange(len(c)), len(z))].set_axis(found.index)
        return pd.concat([found, rows], axis=1)[model.schema.names]
    like: Tensor = next(iter(model.state_dict().values()), torch.empty(0))
    with torch.no_grad():
        return model.to_data(torch.tensor(z, dtype=like.dtype, device=like.device), c)[0]


def _values(model: Model, rows: Any) -> np.ndarray:
    if isinstance(model, TableFlow):
        return to_frame(rows)[[c.name for c in model.schema.targets]].to_numpy(dtype=np.float64)
    return torch.atleast_2d(rows).detach().double().cpu().numpy()
