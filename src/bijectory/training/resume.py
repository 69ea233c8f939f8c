"""A run as tensors and scalars, and back: what makes a continued run equal to an uninterrupted one, bit for bit."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bijectory.errors import CheckpointError
from bijectory.training import rng
from bijectory.training.state import COUNTERS, Run


def pack(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Scalars (JSON-able) and tensors of a run."""
    tensors = {f"model/{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in run.best.items()}
    tensors |= {f"rng/{k}": v for k, v in rng.capture().items()}
    sums = torch.tensor([run.epoch_loss, run.epoch_rows], dtype=torch.float64)
    tensors |= {"order": run.order_state, "epoch_sums": sums}
    if run.ema is not None:
        tensors |= {f"ema/{k}": v for k, v in run.ema.shadow.items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
    scalars = run.counters() | {"ema_updates": run.ema.updates if run.ema else 0, "history": run.history}
    scalars["compiled"] = run.compiled
    return scalars, tensors


def unpack(run: Run, scalars: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Set a fresh run to a saved state.

    Raises:
        CheckpointError: If the tensors do not fit the model.
    """
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "rng": {}, "ema": {}, "optimizer": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if rest:
            groups[kind][rest] = value
    _check_fits(run.model.state_dict(), groups["model"])
    run.model.load_state_dict(groups["model"])
    _check_fits(run.model.state_dict(), groups["best"])
    run.best = {k: v.to(run.best[k].device) for k, v in groups["best"].items()}
    if run.ema is not None:
        for name, shadow in run.ema.shadow.items():
            shadow.copy_(groups["ema"][name])
        run.ema.updates = scalars["ema_updates"]
    state: dict[int, dict[str, Tensor]] = {}
    params = run.optimizer.param_groups[0]["params"]
    for name, value in groups["optimizer"].items():
        index, _, key = name.partition("/")
        like = params[int(index)]
        if value.shape not in (like.shape, torch.Size()):  # moments, or a number
            raise CheckpointError(
                f"cannot resume: the checkpoint belongs to another model: moments {tuple(value.shape)} of a parameter "
                f"{tuple(like.shape)}."
            )
        if value.shape == like.shape:  # in the strides of its parameter: fused kernels walk through memory, not indices
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    run.optimizer.load_state_dict({"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]})
    rng.restore(groups["rng"])
    run.order_state = tensors["order"]
    run.order.set_state(run.order_state)
    run.epoch_loss, run.epoch_rows = tensors["epoch_sums"].tolist()
    for name in COUNTERS:
        setattr(run, name, scalars[name])
    run.best_val = math.inf if scalars["best_val"] is None else scalars["best_val"]
    run.compiled = scalars.get("compiled")  # None in checkpoints from before that was kept
    run.history = list(scalars["history"])


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration, objective or data.

    Args:
        saved: Identity stored with the checkpoint: nested ``{"config": {...}, "data": {...}, "objective": name}``.
        now: Identity of the present call.

    Raises:
        CheckpointError: Naming everything that differs.
    """
    differ = []
    for key in sorted({*saved, *now}):
        old, new = saved.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            if key == "data":
                differ += [f"the data ({', '.join(names)})"] if names else []
            else:
                differ += [f"{k} was {old.get(k)!r}, is now {new.get(k)!r}" for k in names]
        elif old != new:
            differ.append(f"{key} was {old!r}, is now {new!r}")
    if differ:
        raise CheckpointError(
            f"cannot resume: {'; '.join(differ)}. Use the settings and data of the first part, or another folder."
        )


def finite(run: Run) -> bool:
    """Whether all that is trained (weights, average, moments) is finite, and no buffer holds NaN."""
    values = [*run.model.parameters(), *run.best.values(), *(run.ema.shadow.values() if run.ema else ())]
    values += [v for state in run.optimizer.state.values() for v in state.values()]
    floats = [v for v in values if v.is_floating_point()]
    names = {n for n, _ in run.model.named_parameters()}
    buffers = [b for n, b in run.model.named_buffers() if n not in names and b.is_floating_point()]
    ok = [v.isfinite().all() for v in floats] + [~b.isnan().any() for b in buffers]
    return bool(torch.stack(ok).all())


def _check_fits(model: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    show = lambda t: "absent" if t is None else f"{str(t.dtype).removeprefix('torch.')}{tuple(t.shape)}"  # noqa: E731
    for name in (*model, *saved):
        ours, theirs = model.get(name), saved.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise CheckpointError(
                f"cannot resume: the checkpoint belongs to another model: {name} was {show(theirs)}, is now {show(ours)}."
            )
