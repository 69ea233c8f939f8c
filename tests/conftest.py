"""One thread, one seed, reproducible examples: a test gives the same answer alone, in any order, on any worker."""

import signal

import pytest
import torch
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Scripts start what they put in the background deaf to Ctrl-C, and so would be all that tests of it start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
