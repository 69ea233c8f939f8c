"""Random states: seeded for the fit, given back to the caller afterwards, saved for resume."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python inside, and leave them untouched outside."""
    outside = torch.get_rng_state(), np.random.get_state(), random.getstate()  # as they are: capture() takes half a ms
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # the same, without a look at every kind of device that is not there
    np.random.seed(seed % 2**32)  # the legacy global generator, which objectives and callbacks may use
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(outside[0])
        np.random.set_state(outside[1])
        random.setstate(outside[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


def capture() -> dict[str, Tensor]:
    """The states of all global generators, as tensors."""
    legacy = np.random.get_state(legacy=False)
    version, words, gauss_next = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["has_gauss"]]),
        "numpy_gauss": torch.tensor(legacy["gauss"], dtype=torch.float64),
        "python": torch.tensor([version, *words]),
        "python_gauss": torch.tensor([] if gauss_next is None else [gauss_next], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Set all global generators to captured states."""
    torch.set_rng_state(states["torch"])
    *keys, position, has_gauss = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, states["numpy_gauss"].item()))
    version, *words = states["python"].tolist()
    gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda{i}" in states:
                torch.cuda.set_rng_state(states[f"cuda{i}"], i)
