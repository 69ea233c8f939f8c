"""Posterior draws as an xarray ``DataTree``, and as a netCDF file that ArviZ reads.

One node for each group of the InferenceData scheme (``posterior``, ``sample_stats``, ``log_likelihood``, ``prior``,
``posterior_predictive``, ``prior_predictive``, ``observed_data``); every variable of draws begins with the dimensions
``chain`` and ``draw``. ArviZ 1 works on the tree itself; ArviZ 0.x reads the file (``arviz.from_netcdf``) or converts the
tree (``arviz.InferenceData.from_datatree``).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import bijectory
from bijectory.apps import variational
from bijectory.apps.posterior import Posterior as Simulated
from bijectory.errors import ConfigError, ShapeError, check
from bijectory.interop.extras import need
from bijectory.io.fs import rename, temporary

Group = dict[str, NDArray[Any]]
Source = Literal["auto", "chains", "resampled", "weighted", "flow"]
SOURCES = ("auto", "chains", "resampled", "weighted", "flow")
INDEXED = re.compile(r"(.+)\[(\d+(?:, ?\d+)*)\]")


def to_datatree(
    draws: Any,
    *,
    source: Source = "auto",
    n: int = 4000,
    seed: int = 0,
    sample_stats: Any = None,
    log_likelihood: Any = None,
    prior: Any = None,
    posterior_predictive: Any = None,
    prior_predictive: Any = None,
    observed_data: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Draws and all that belongs to them as one tree.

    Args:
        draws: A posterior of ``fit_posterior``, its ``Chains``, a posterior of ``apps.posterior`` with an observation
            (``.at(x)``), a data frame (one row a draw; a column ``chain`` splits it), or a mapping of names to arrays
            ``(chain, draw, *shape)``. Columns ``theta[0], theta[1], ...`` become one vector.
        source: Of a posterior of ``fit_posterior``: its "chains"; its weighted draws "resampled" in proportion to their
            weights; these draws as they are, "weighted", with ``sample_stats.log_weight`` (ArviZ knows of no weights); or
            draws of the "flow". "auto" takes the chains if there are any, else "resampled".
        n: Number of draws where they are made here.
        seed: Of those draws.
        sample_stats: More statistics of the draws.
        log_likelihood: Of each observation at each draw: what model comparison needs.
        prior: Draws of the prior; that of a posterior of ``apps.posterior`` is filled in.
        posterior_predictive: Simulations from the draws.
        prior_predictive: Simulations from the prior.
        observed_data: Names with arrays of any shape; the observation of a posterior of ``apps.posterior`` is filled in.
        dims: Names of the dimensions behind chain and draw, by variable; ``theta_dim_0, ...`` if not given.
        coords: Labels of dimensions.
        attrs: Attributes of the tree.

    The groups may be given as ``draws`` may (frame or mapping), or as one array of rows ``(draw, *shape)``, named ``x``.

    Returns:
        ``xarray.DataTree``.

    Raises:
        MissingExtraError: If xarray is not installed.
        ConfigError, ShapeError: If draws cannot be read, or groups that belong to the draws have other numbers of them.

    Example:
        >>> from bijectory.interop import to_datatree
        >>> tree = to_datatree({"mu": np.zeros((4, 100)), "theta": np.zeros((4, 100, 8))})  # doctest: +SKIP
        >>> dict(tree["posterior"].sizes)  # doctest: +SKIP
        {'chain': 4, 'draw': 100, 'theta_dim_0': 8}
    """
    xarray = need("xarray", "arviz")
    check(source in SOURCES, ConfigError, f"there is no source {source!r}; use one of {', '.join(SOURCES)}.")
    groups, notes = _read(draws, source, n, seed)
    size = next(iter(groups["posterior"].values())).shape[:2]
    given = {"sample_stats": sample_stats, "log_likelihood": log_likelihood, "prior": prior}
    given |= {"posterior_predictive": posterior_predictive, "prior_predictive": prior_predictive}
    for group, values in given.items():
        if values is not None:
            groups[group] = {**groups.get(group, {}), **_variables(values, group)}
    for group in ("sample_stats", "log_likelihood"):
        for name, value in groups.get(group, {}).items():
            got, want = value.shape[:2], size
            check(got == want, ShapeError, f"{group} {name!r} has {got} chains and draws, the posterior {want}.")
    if observed_data is not None:
        groups["observed_data"] = {str(k): _array(v) for k, v in observed_data.items()}
    sets = {
        f"/{group}": _dataset(xarray, values, dict(dims or {}), dict(coords or {}), group)
        for group, values in groups.items()
        if values
    }
    tree = xarray.DataTree.from_dict(sets)
    library = {"inference_library": "bijectory", "inference_library_version": bijectory.__version__}
    tree.attrs.update({**library, **notes, **(attrs or {})})
    return tree


def save_netcdf(tree: Any, path: str | Path) -> Path:
    """Write a tree to a netCDF file with groups, all or nothing; ``arviz.from_netcdf`` and ``xarray.open_datatree`` read it.

    Args:
        tree: What ``to_datatree`` returned.
        path: The file, ``.nc`` by custom; replaced if it exists.

    Returns:
        The path.

    Raises:
        MissingExtraError: If h5netcdf is not installed.

    Example:
        >>> from bijectory.interop import save_netcdf
        >>> save_netcdf(tree, "posterior.nc")  # doctest: +SKIP
    """
    need("h5netcdf", "arviz")
    path = Path(path)
    temp = temporary(path)
    try:
        tree.to_netcdf(temp, engine="h5netcdf")
        rename(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    return path


def _read(draws: Any, source: Source, n: int, seed: int) -> tuple[dict[str, Group], dict[str, Any]]:
    """Groups and attributes of what has draws."""
    if isinstance(draws, variational.VariationalPosterior):
        return _fitted(draws, source, n, seed)
    check(source == "auto", ConfigError, f"source={source!r} is for a posterior of fit_posterior.")
    if isinstance(draws, variational.Chains):
        return {"posterior": _split(draws.draws, draws.columns)}, _facts(draws)
    if isinstance(draws, Simulated):
        return _simulated(draws, n, seed)
    return {"posterior": _variables(draws, "draws")}, {}


def _fitted(
    posterior: variational.VariationalPosterior, source: Source, n: int, seed: int
) -> tuple[dict[str, Group], dict[str, Any]]:
    if source == "auto":
        source = "chains" if posterior.chains is not None else "resampled"
    notes: dict[str, Any] = {"source": source, "verdict": posterior.diagnostics.verdict}
    stats: dict[str, Tensor] = {}
    if source == "chains":
        check(posterior.chains is not None, ConfigError, 'there are no chains; call polish(), or source="resampled".')
        x = torch.from_numpy(posterior.chains.draws)  # type: ignore[union-attr]
        notes |= _facts(posterior.chains)
    elif source == "flow":
        x = torch.from_numpy(posterior.sample(n, seed=seed).to_numpy(copy=True))[None]
    else:
        weights = posterior.draws.weights
        notes |= {"pareto_k": weights.khat, "effective_sample_size": weights.ess}
        every = torch.arange(len(posterior.draws.x))
        chosen = every if source == "weighted" else weights.resample(n, generator=torch.Generator().manual_seed(seed))
        x = posterior.draws.x[chosen][None]
        if source == "weighted":
            stats["log_weight"] = weights.log_weights[None]
    flat = x.flatten(0, 1)
    with torch.no_grad():
        stats["log_q"] = posterior.flow.log_prob(flat).reshape(x.shape[:2])
        if posterior.log_density is not None:
            stats["lp"] = posterior.log_density(flat).reshape(x.shape[:2])
    columns = posterior.parameters.columns
    groups = {"posterior": _split(x.numpy(), columns), "sample_stats": {k: v.numpy() for k, v in stats.items()}}
    return groups, notes


def _simulated(posterior: Simulated, n: int, seed: int) -> tuple[dict[str, Group], dict[str, Any]]:
    check(posterior.x is not None, ConfigError, "which observation? Use to_datatree(posterior.at(x)).")
    theta = posterior.sample(n, seed=seed)
    names = posterior.prior.names
    groups = {
        "posterior": _split(theta[None].numpy(), names),
        "sample_stats": {"lp": posterior.log_prob(theta)[None].numpy()},
        "prior": _split(posterior.prior.sample(n, seed=seed)[None].numpy(), names),
        "observed_data": {"x": _array(posterior.x)},
    }
    return groups, {"source": type(posterior).__name__}


def _facts(chains: variational.Chains | None) -> dict[str, Any]:
    if chains is None:
        return {}
    return {"sampler": chains.method, "acceptance": chains.acceptance, "divergences": chains.divergences}


def _variables(values: Any, group: str) -> Group:
    """Names with arrays ``(chain, draw, *shape)``."""
    if isinstance(values, pd.DataFrame):
        return _framed(values)
    if isinstance(values, Mapping):
        found = {str(k): _array(v) for k, v in values.items()}
        for name, value in found.items():
            shape = value.shape
            remedy = "expected (chain, draw, *shape); for one chain pass value[None]"
            check(value.ndim >= 2, ShapeError, f"{group} {name!r} has shape {shape}; {remedy}.")
        sizes = {v.shape[:2] for v in found.values()}
        check(len(sizes) == 1, ShapeError, f"{group} has variables of different chains and draws: {sorted(sizes)}.")
        return found
    rows = _array(values)
    ok = rows.ndim >= 1 and rows.dtype.kind in "fiub"
    kind = type(values).__name__
    check(ok, ConfigError, f"{group} cannot be read from a {kind}; give a frame, a mapping, or an array of rows.")
    check(group != "draws", ConfigError, "draws need names: a data frame, or a mapping of names to arrays.")
    return {"x": rows[None]}


def _framed(frame: pd.DataFrame) -> Group:
    columns = [c for c in frame.columns if c not in ("chain", "draw")]
    check(bool(columns) and len(frame) > 0, ConfigError, "the data frame holds no draws.")
    if "chain" not in frame.columns:
        return _split(frame[columns].to_numpy(dtype=np.float64)[None], [str(c) for c in columns])
    chains = [part[columns].to_numpy(dtype=np.float64) for _, part in frame.groupby("chain", sort=True)]
    lengths = sorted({len(c) for c in chains})
    check(len(lengths) == 1, ShapeError, f"chains have different numbers of draws, {lengths}; cut them to one.")
    return _split(np.stack(chains), [str(c) for c in columns])


def _split(x: NDArray[Any], columns: Sequence[str]) -> Group:
    """Columns ``(chain, draw, width)`` by name; ``theta[0], theta[1]`` together, where every index is there."""
    found: dict[str, list[tuple[tuple[int, ...], int]]] = {}
    for k, column in enumerate(columns):
        match = INDEXED.fullmatch(column)
        name, index = (match[1], tuple(int(i) for i in match[2].split(","))) if match else (column, ())
        found.setdefault(name, []).append((index, k))
    out: Group = {}
    for name, entries in found.items():
        entries.sort()
        shape = tuple(i + 1 for i in entries[-1][0])
        if [i for i, _ in entries] == list(np.ndindex(shape)):
            out[name] = x[..., [k for _, k in entries]].reshape(*x.shape[:2], *shape)
        else:
            out |= {columns[k]: x[..., k] for _, k in entries}
    return out


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _dataset(xarray: Any, values: Group, dims: dict[str, Sequence[str]], coords: dict[str, Any], group: str) -> Any:
    lead = () if group == "observed_data" else ("chain", "draw")
    variables, used = {}, set(lead)
    for name, value in values.items():
        own = value.ndim - len(lead)
        names = tuple(dims.get(name) or (f"{name}_dim_{k}" for k in range(own)))
        check(len(names) == own, ShapeError, f"{name!r} has {own} dimensions, dims names {len(names)}: {list(names)}.")
        variables[name] = ((*lead, *names), value)
        used |= set(names)
    sizes = {d: size for names, v in variables.values() for d, size in zip(names, v.shape, strict=True)}
    labels = {d: coords.get(d, np.arange(sizes[d])) for d in used}
    for d, label in labels.items():
        check(len(label) == sizes[d], ShapeError, f"dimension {d!r} has {sizes[d]} entries, coords gives {len(label)}.")
    return xarray.Dataset(variables, coords=labels)
