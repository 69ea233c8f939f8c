"""Facts about this installation, and a small flow that has to be right on it."""

import importlib.metadata
import os
import platform
import shutil
import time
from typing import NamedTuple

import torch

import bijectory as bj

PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "safetensors", "pydantic", "typer", "rich", "matplotlib")
OPTIONAL = {"pyarrow": "Parquet files: pip install 'bijectory[data]'"}
COMPILERS = ("c++", "g++", "clang++", "cl")


class Test(NamedTuple):
    """One line of the self test."""

    name: str
    ok: bool
    measured: str


def facts() -> dict[str, str]:
    """Versions, build, cores, compiler, extras."""
    compiler = next((path for path in map(shutil.which, COMPILERS) if path), None)
    cuda = f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices" if torch.version.cuda else "CPU only"
    found = {
        "bijectory": bj.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__} ({cuda}, {torch.backends.cpu.get_cpu_capability()})",
        "cores": f"{usable_cores()} usable of {os.cpu_count()}, {torch.get_num_threads()} torch threads",
        "compiler": compiler or "none (torch.compile needs a C++ compiler; everything else works without)",
    }
    found |= {name: version(name) or "MISSING: install bijectory again" for name in PACKAGES}
    return found | {name: version(name) or f"not installed ({use})" for name, use in OPTIONAL.items()}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def self_test() -> list[Test]:
    """Train a small flow on a known density and compare it with what it must be."""
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(2000, 2, dtype=torch.float64)
        x = torch.stack([x[:, 0], 0.5 * x[:, 1] + x[:, 0].square()], -1)  # a banana; its entropy is known
        entropy = 1 + torch.log(torch.tensor(2 * torch.pi)).item() + torch.log(torch.tensor(0.5)).item()
        flow = bj.real_nvp(2, layers=4, hidden=(32,)).double()
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
        for step in range(200):
            batch = x[step * 250 % 2000 :][:250]
            loss = -flow.log_prob(batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            z, ladj = flow.to_latent(x)
            trip = (flow.to_data(z)[0] - x).abs().max().item()
            gap = -flow.log_prob(x).mean().item() - entropy
        jacobian = torch.func.jacrev(lambda v: flow.to_latent(v)[0])(x[0].clone())
        error = (torch.linalg.slogdet(jacobian).logabsdet - ladj[0]).abs().item()
    return [
        Test("round trip data -> latent -> data, float64", trip < 1e-9, f"{trip:.1e} (at most 1e-09)"),
        Test("log-determinant against autodiff, float64", error < 1e-10, f"{error:.1e} (at most 1e-10)"),
        Test("a banana learned: nats above its entropy", abs(gap) < 0.2, f"{gap:.3f} (at most 0.2)"),
        Test("seconds", (took := time.perf_counter() - began) < 60, f"{took:.1f} (at most 60)"),
    ]
