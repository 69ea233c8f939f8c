"""Non-finite steps: skipped, counted, and after too many in a row answered with the best weights and half the rate.

A step that is skipped changes no parameter, so one bad batch costs one step. Ten in a row mean that the *weights* are in
a bad place: the best weights so far (the initial ones before the first validation) come back with fresh moments and half
the learning rate. After three such restores the fit stops and says where the first non-finite value appeared.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bijectory.objectives import Batch
from bijectory.training.state import Run

MAX_STREAK, MAX_RESTORES = 10, 3


def values(loss: Tensor, norm: Tensor) -> tuple[float, float]:
    """Loss and gradient norm as numbers, in one device sync; the step is good if both are finite.

    The norm sums squares, so it overflows before the squares in Adam's moments do.
    """
    if loss.is_cpu:
        return loss.item(), norm.item()
    first, second = torch.stack((loss.detach(), norm.detach().to(loss.dtype))).tolist()
    return first, second


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def skip(run: Run, batch: Batch, loss: Tensor) -> str | None:
    """Count a bad step and restore the best weights after too many; a report if that did not help."""
    run.skipped += 1
    run.epoch_skipped += 1
    run.bad_streak += 1
    repair_buffers(run)
    if run.bad_streak < MAX_STREAK:
        return None
    if run.restores == MAX_RESTORES:
        return diagnose(run, batch, loss)
    restore_best(run)
    return None


@torch.no_grad()
def repair_buffers(run: Run) -> None:
    """Put buffers that a bad forward pass spoiled (running statistics) back to the best state's values."""
    for name, buffer in run.model.named_buffers():
        good = run.best.get(name)
        if good is not None and buffer.is_floating_point() and not bool((buffer - good).isfinite().all()):
            buffer.copy_(good)


def restore_best(run: Run) -> None:
    """Bring the best weights back, with fresh moments and half the learning rate."""
    run.model.load_state_dict(run.best)
    run.optimizer.state.clear()
    if run.ema is not None:
        run.ema.reset()
    run.lr_scale *= 0.5
    run.bad_streak = 0
    run.restores += 1


def diagnose(run: Run, batch: Batch, loss: Tensor) -> str:
    """Say where the first non-finite value of a bad step was."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not found and any(isinstance(t, Tensor) and not bool(t.isfinite().all()) for t in tensors):
                found.append(f"{name or 'model'} ({type(module).__name__})")

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in run.model.named_modules()]
    try:
        with torch.no_grad():
            run.model(batch.x, batch.c)
    except Exception as error:  # the report must not replace the stop
        found.append(f"none: the forward pass raised {type(error).__name__}: {error}")
    finally:
        for handle in handles:
            handle.remove()
    bad = [n for n, p in run.model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    where = f"first non-finite output in {found[0]}" if found else "every forward output was finite"
    grads = f"{len(bad)} non-finite gradients (first: {bad[0]})" if bad else "finite gradients"
    return f"step {run.step}, {len(batch.x)} rows, loss {float(loss.detach()):.4g}: {where}; {grads}"
