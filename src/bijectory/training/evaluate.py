"""Loss outside the steps: validation, and the fingerprint that ties a checkpoint to its model."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from bijectory.objectives.batch import Batch, Objective
from bijectory.training import rng
from bijectory.training.data import Rows
from bijectory.transforms import Continuous


@contextlib.contextmanager
def quietly(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients, always the same noise; training goes on as if nothing had happened."""
    mode = model.training
    model.eval()
    try:
        with rng.isolated(seed), torch.no_grad():
            yield
    finally:
        model.train(mode)


def redraw(model: nn.Module) -> None:
    """Fresh probes for every continuous layer with an estimated trace, or it would learn to please the old ones."""
    for layer in model.modules():
        if isinstance(layer, Continuous):
            layer.redraw()


def mean_loss(loss: Objective, model: nn.Module, rows: Rows, batches: Iterable[Batch]) -> float:
    """Mean loss over batches of ``rows``, each weighing as much as its rows; call it ``quietly``."""
    total = torch.zeros(2, dtype=torch.float64, device=rows.x.device)
    for batch in batches:
        weight = rows.weigh(batch)
        total[0] += loss(model, batch) * weight
        total[1] += weight
    value, count = total.tolist()
    return value / count


def compiled(objective: Objective) -> Objective:
    """The objective under ``torch.compile``; the first failure falls back to eager execution with one warning."""
    fast: Objective = torch.compile(objective, dynamic=True)
    broken = False

    def call(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal broken
        if not broken:
            try:
                return fast(model, batch)
            except Exception as error:  # an error of the model itself comes again from the eager call
                broken = True
                first = str(error).strip().partition("\n")[0] or repr(error)
                warnings.warn(f"compile failed, going on without: {first}", stacklevel=2)
        return objective(model, batch)

    return call
