"""Pairs of parameters and simulated data: made, checked, and told about."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bijectory.apps.posterior.prior import Prior, as_prior
from bijectory.errors import ConfigError, DataError, FlowError, ShapeError, check

Simulator = Callable[[Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Simulations:
    """Parameters and what was simulated from them, rows without an answer left out.

    Attributes:
        theta: ``(n, features)``, float64.
        x: ``(n, *event)``, float64; may hold NaN where ``missing="indicate"`` was asked for.
        notes: What a reader of the results has to know.
        failed: Number of simulations that were left out.

    Example:
        >>> pairs = Simulations.of([0.0, 1.0, 2.0], [[1.0], [float("nan")], [0.5]])
        >>> len(pairs), pairs.failed
        (2, 1)
    """

    theta: Tensor
    x: Tensor
    notes: tuple[str, ...] = ()
    failed: int = 0

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one observation."""
        return self.x.shape[1:]

    @property
    def incomplete(self) -> bool:
        """Whether values are missing."""
        return bool(self.x.isnan().any())

    @classmethod
    def of(cls, theta: Any, x: Any, *, missing: str = "drop") -> "Simulations":
        """Check pairs.

        Args:
            theta: ``(n, features)`` or ``(n,)``: array, tensor or frame.
            x: ``(n, *event)`` or ``(n,)``.
            missing: "drop" leaves out every pair with a value that is not finite; "indicate" keeps those with some NaN
                (the posterior then is that given the other values and given which ones are missing: of vectors and
                series values, of sets elements); "raise" refuses.

        Raises:
            ShapeError: If the numbers of rows differ.
            DataError: If parameters are not finite, or fewer than two pairs are left.
        """
        check(missing in ("drop", "indicate", "raise"), ConfigError, f"missing={missing!r}; use 'drop' or 'indicate'.")
        theta, x = rows(theta, "theta"), rows(x, "x")
        theta, x = (theta[:, None] if theta.dim() == 1 else theta), (x[:, None] if x.dim() == 1 else x)
        check(theta.dim() == 2, ShapeError, f"theta has shape {tuple(theta.shape)}; expected (n, features).")
        check(
            len(theta) == len(x),
            ShapeError,
            f"theta has {len(theta)} rows, x has {len(x)}; the simulator must return one row for each row of theta.",
        )
        bad = ~theta.isfinite().all(1)
        check(not bad.any(), DataError, f"theta is not finite in {int(bad.sum())} rows; only x may fail.")
        flat = x.flatten(1)
        lost = flat.isinf().any(1) | flat.isnan().all(1) if missing == "indicate" else ~flat.isfinite().all(1)
        failed = int(lost.sum())
        check(failed == 0 or missing != "raise", DataError, f"x is not finite in {failed} of {len(x)} rows.")
        notes: list[str] = []
        if failed:
            notes.append(
                f"{failed} of {len(x)} simulations are not finite and are left out: the posterior is then that under the "
                "prior given that the simulation succeeds, p(theta) P(success | theta), not under the prior itself."
            )
        partly = int(flat[~lost].isnan().any(1).sum())
        if partly:
            notes.append(
                f"{partly} simulations have missing values: the posterior conditions on which ones are missing."
            )
        left = len(x) - failed
        check(
            left >= 2, DataError, f"{left} simulations with finite values are left of {len(x)}; at least 2 are needed."
        )
        return cls(theta[~lost], x[~lost], tuple(notes), failed)

    def join(self, other: "Simulations") -> "Simulations":
        """Both sets of pairs."""
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        pairs = ((self.theta, other.theta), (self.x, other.x))
        theta, x = (torch.cat(pair) for pair in pairs)
        return Simulations(theta, x, notes, self.failed + other.failed)


def simulate(
    prior: Any,
    simulator: Simulator,
    n: int,
    *,
    batch: int = 1000,
    missing: str = "drop",
    seed: int = 0,
) -> Simulations:
    """Draw parameters from the prior and simulate.

    The global generators of torch and numpy are seeded inside and as before afterwards, so that a simulator that draws
    from them gives the same data again.

    Args:
        prior: A ``Prior``, or what makes one.
        simulator: ``theta (m, features) -> x (m, *event)``, tensors or arrays, for any number ``m`` of rows.
        n: Number of simulations.
        batch: Most rows of one call.
        missing: See ``Simulations.of``.
        seed: Of parameters and simulator.

    Raises:
        ShapeError: If the simulator does not return one row for each row of parameters.
        DataError: If the simulator raises something, or fewer than two simulations are finite.

    Example:
        >>> from bijectory.apps.posterior import box_uniform
        >>> pairs = simulate(box_uniform([0.0], [1.0]), lambda theta: theta + torch.randn(len(theta), 3), 500)
        >>> pairs.theta.shape, pairs.x.shape
        (torch.Size([500, 1]), torch.Size([500, 3]))
    """
    check(n >= 2 and batch >= 1, ConfigError, f"n={n} must be at least 2 and batch={batch} at least 1.")
    known: Prior = as_prior(prior)
    return run(known.sample(n, seed=seed), simulator, batch=batch, missing=missing, seed=seed + 1)


def run(theta: Tensor, simulator: Simulator, *, batch: int = 1000, missing: str = "drop", seed: int = 0) -> Simulations:
    """Simulate from given parameters; see ``simulate``."""
    return Simulations.of(theta, call(simulator, theta, batch=batch, seed=seed), missing=missing)


def call(simulator: Simulator, theta: Tensor, *, batch: int = 1000, seed: int = 0) -> Tensor:
    """What the simulator returns for rows of parameters, ``(n, *event)``, float64."""
    state, parts = np.random.get_state(), []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            for part in theta.split(batch):
                x = rows(_made(simulator, part.clone()), "what the simulator returned")
                check(
                    len(x) == len(part),
                    ShapeError,
                    f"the simulator returned {tuple(x.shape)} for {len(part)} rows of theta; it must return one row for "
                    "each, (m, *event).",
                )
                parts.append(x)
        finally:
            np.random.set_state(state)
    x = torch.cat(parts)
    return x[:, None] if x.dim() == 1 else x


def _made(simulator: Simulator, theta: Tensor) -> Any:
    """What the simulator returns; what it raises, as an error that says who raised it."""
    try:
        return simulator(theta)
    except FlowError:
        raise
    except Exception as error:
        raise DataError(
            f"the simulator raised {type(error).__name__}: {error} (theta {tuple(theta.shape)})."
        ) from error


def rows(value: Any, name: str) -> Tensor:
    """Anything with rows as a float64 tensor without gradients."""
    if not isinstance(value, Tensor):
        try:
            value = torch.from_numpy(np.array(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} cannot be read as numbers: {error}.") from None
    check(value.dim() >= 1, ShapeError, f"{name} is a single number; expected rows (n, ...).")
    return value.detach().cpu().double()


def pad_sets(sets: Sequence[Any], size: int | None = None) -> Tensor:
    """Sets of different sizes as one tensor ``(n, size, features)``, absent elements NaN.

    Use with ``missing="indicate"`` and ``embed="set"``; observations of fewer elements are padded in the same way.

    Args:
        sets: Arrays ``(elements, features)``, or ``(elements,)`` for one feature.
        size: Of the largest set; None takes that of those given.

    Raises:
        ShapeError: If a set is empty or larger than ``size``, or widths differ.

    Example:
        >>> pad_sets([[1.0, 2.0], [3.0]])[..., 0]
        tensor([[1., 2.],
                [3., nan]], dtype=torch.float64)
    """
    found = [rows(s, "a set") for s in sets]
    found = [s[:, None] if s.dim() == 1 else s for s in found]
    widths = {s.shape[1:] for s in found}
    ok = len(widths) == 1 and all(s.dim() == 2 and len(s) for s in found)
    check(ok, ShapeError, "every set must be (elements, features) with the same features and at least one element.")
    most = max(len(s) for s in found)
    size = most if size is None else size
    check(most <= size, ShapeError, f"a set has {most} elements, more than size={size}.")
    out = found[0].new_full((len(found), size, found[0].shape[1]), torch.nan)
    for k, s in enumerate(found):
        out[k, : len(s)] = s
    return out


def check_observation(x: Any, event_shape: torch.Size, *, many: bool = False, missing: str = "drop") -> None:
    """Raise unless ``x`` looks like one simulation, or with ``many`` several: before anything is trained.

    Raises:
        ShapeError: If its shape is another.
        DataError: If it is not finite, NaN excepted where simulations may have missing values.
    """
    value = rows(x, "the observation")
    shape = tuple(value.shape)
    fits = shape in (tuple(event_shape), (1, *event_shape)) or (many and shape[1:] == tuple(event_shape))
    check(fits, ShapeError, f"the observation has shape {shape}; the simulations have {tuple(event_shape)}.")
    finite = bool(value.isfinite().all()) or (missing == "indicate" and not bool(value.isinf().any()))
    message = (
        "the observation is not finite; values that are NaN need simulations that lack some, and missing='indicate'."
    )
    check(finite, DataError, message)
