"""Where autocast must not reach: the data's own way through a layer keeps its digits, only networks may lose some."""

import contextlib

import torch


def full_precision(device: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off inside; nothing at all where it is off already, so that a captured graph is the same."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()
