r"""Named parameters with their supports, and the map between them and the whole real space.

Inference works on unconstrained :math:`u \in \mathbb{R}^d`; the log-determinant of the map is counted, so a density of ``u``
is one of the parameters, and no draw ever leaves the support:

=================  ==================================  =======================
support            unconstrained                       of a
=================  ==================================  =======================
``"real"``         :math:`u = x`                       location
``"positive"``     :math:`u = \log x`                  scale
``(l, inf)``       :math:`u = \log(x - l)`             shifted scale
``(l, h)``         :math:`u = \log\frac{x-l}{h-x}`     probability
``"ordered"``      first, then logarithms of steps     cut points
=================  ==================================  =======================
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bijectory.bijections import Log, Logit
from bijectory.errors import ConfigError, check
from bijectory.transforms import Chain, Elementwise, Ordered, Partition, Standardize, Transform

WORDS = ("real", "positive", "ordered")
Support = str | tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The support and the size of one named parameter.

    Args:
        support: "real", "positive", "ordered" (an increasing vector), or a pair of bounds, which may be infinite.
        size: Number of values; None for a scalar, which is named without an index.

    Raises:
        ConfigError: If the support is none of these, or cannot be mapped.

    Example:
        >>> Parameter((0, 1)).support
        (0.0, 1.0)
    """

    support: Support = "real"
    size: int | None = None

    def __post_init__(self) -> None:
        check(self.size is None or self.size >= 1, ConfigError, f"size must be at least 1, got {self.size!r}.")
        object.__setattr__(self, "support", _support(self.support))
        vector = self.support != "ordered" or (self.size or 0) >= 2
        check(vector, ConfigError, 'an "ordered" parameter needs a size of at least 2: Parameter("ordered", 2).')

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.size or 1


def _support(value: Any) -> Support:
    if isinstance(value, str):
        known = ", ".join(f'"{w}"' for w in WORDS)
        check(value in WORDS, ConfigError, f"support {value!r} is none of {known}, nor a pair of bounds.")
        return value
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise ConfigError(f"support {value!r} is not a pair of bounds (low, high).") from None
    check(low < high, ConfigError, f"support {value!r}: the lower bound must be below the upper one.")
    one_sided = low == -math.inf and high < math.inf
    check(not one_sided, ConfigError, f"support {value!r} has only an upper bound; use minus the parameter instead.")
    return "real" if low == -math.inf else "positive" if (low, high) == (0.0, math.inf) else (low, high)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Every parameter of a model, in the order of the columns of ``x``.

    Args:
        entries: Names and what each is; see ``declare`` for shorter ways to write them.

    Example:
        >>> p = Parameters.declare({"mu": "real", "tau": "positive", "p": (0, 1), "theta": Parameter(size=2)})
        >>> p.columns
        ('mu', 'tau', 'p', 'theta[0]', 'theta[1]')
        >>> list(p.named(torch.zeros(7, 5))), p.named(torch.zeros(7, 5))["theta"].shape
        (['mu', 'tau', 'p', 'theta'], torch.Size([7, 2]))
    """

    entries: tuple[tuple[str, Parameter], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        check(bool(names), ConfigError, "declare at least one parameter.")
        twice = sorted({n for n in names if names.count(n) > 1})
        check(not twice, ConfigError, f"parameters {twice} are declared more than once.")

    @classmethod
    def declare(
        cls,
        parameters: "Parameters | Mapping[str, Any] | Iterable[str] | int",
        *,
        bounded: Mapping[str, tuple[float, float]] | None = None,
        positive: Iterable[str] = (),
    ) -> "Parameters":
        """Parameters from short words.

        Args:
            parameters: Names with supports (a support, or a ``Parameter``); or names alone, each a real scalar; or how many.
            bounded: Bounds of parameters by name, as in ``fit_table``.
            positive: Names of positive parameters.

        Raises:
            ConfigError: If a support is not one, or a name is unknown.
        """
        if isinstance(parameters, Parameters):
            found = dict(parameters.entries)
        elif isinstance(parameters, int) and not isinstance(parameters, bool):
            check(parameters >= 1, ConfigError, f"there must be at least one parameter, got {parameters}.")
            found = {f"x{i}": Parameter() for i in range(parameters)}
        elif isinstance(parameters, Mapping):
            made = {n: p if isinstance(p, Parameter) else _parameter(n, p) for n, p in parameters.items()}
            found = {str(n): p for n, p in made.items()}
        else:
            ok = isinstance(parameters, Iterable) and not isinstance(parameters, str)
            check(ok, ConfigError, f"parameters must be names, names with supports, or a number; got {parameters!r}.")
            names = [str(n) for n in parameters]  # type: ignore[union-attr]
            check(len(set(names)) == len(names), ConfigError, f"parameters {names} repeat a name.")
            found = {n: Parameter() for n in names}
        changes: dict[str, Any] = {**dict.fromkeys([positive] if isinstance(positive, str) else positive, "positive")}
        changes |= dict(bounded or {})
        strange = sorted(set(changes) - set(found))
        check(not strange, ConfigError, f"{strange} are not declared; the parameters are {sorted(found)}.")
        for name, support in changes.items():
            found[name] = dataclasses.replace(found[name], support=_parameter(name, support).support)
        return cls(tuple(found.items()))

    @property
    def width(self) -> int:
        """Number of columns of ``x``."""
        return sum(p.width for _, p in self.entries)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: ``mu``, or ``theta[0], theta[1], ...`` of a vector."""
        return tuple(
            column
            for name, p in self.entries
            for column in ([name] if p.size is None else [f"{name}[{i}]" for i in range(p.size)])
        )

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """The columns of ``x``, ``(*batch, width)``, by name: scalars ``(*batch,)``, vectors ``(*batch, size)``."""
        parts = x.split([p.width for _, p in self.entries], -1)
        return {
            name: part.squeeze(-1) if p.size is None else part
            for (name, p), part in zip(self.entries, parts, strict=True)
        }

    def unconstrain(self) -> Chain:
        """The transform from the parameters onto the real space, without weights."""
        low, parts, groups = [0.0] * self.width, [], []
        position = 0
        for _, p in self.entries:
            group = list(range(position, position + p.width))
            position += p.width
            if isinstance(p.support, tuple) and p.support[1] == math.inf:
                for k in group:
                    low[k] = p.support[0]
            part = _map(p)
            if part is not None:
                parts.append(part)
                groups.append(group)
        if not parts:
            return Chain()
        free = sorted(set(range(self.width)) - {k for group in groups for k in group})
        if free:
            parts.append(Chain())
            groups.append(free)
        shift = Standardize(self.width, torch.tensor(low, dtype=torch.float64), [1.0] * self.width)
        return Chain(*([shift] if any(low) else []), Partition(*parts, groups=groups))

    def limits(self) -> list[tuple[float, float]]:
        """Where unconstrained values stay meaningful: beyond, rounding puts the parameter on its bound."""
        out: list[tuple[float, float]] = []
        for _, p in self.entries:
            if p.support == "real":
                out += [(-math.inf, math.inf)] * p.width
            elif p.support == "ordered":
                out += [(-math.inf, math.inf)] + [(-100.0, 100.0)] * (p.width - 1)
            else:
                out += [
                    (-100.0, 100.0) if p.support == "positive" or p.support[1] == math.inf else (-30.0, 30.0)
                ] * p.width
        return out

    def to_list(self) -> list[list[Any]]:
        """As plain data, for storage."""
        return [[n, list(p.support) if isinstance(p.support, tuple) else p.support, p.size] for n, p in self.entries]

    @classmethod
    def from_list(cls, entries: Sequence[Sequence[Any]]) -> "Parameters":
        """From what ``to_list`` gave."""
        return cls(tuple((n, Parameter(s if isinstance(s, str) else tuple(s), size)) for n, s, size in entries))


def _parameter(name: str, support: Any) -> Parameter:
    try:
        return Parameter("real" if support is None else support)
    except ConfigError as error:
        raise ConfigError(f"parameter {name!r}: {error}") from None


def _map(p: Parameter) -> Transform | None:
    if p.support == "real":
        return None
    if p.support == "ordered":
        return Ordered(p.width)
    if p.support == "positive" or p.support[1] == math.inf:
        return Elementwise(Log(), p.width)
    return Elementwise(Logit(float(p.support[0]), float(p.support[1])), p.width)
