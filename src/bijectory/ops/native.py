"""Native kernels in C++, compiled once for a machine with the compiler that is there, loaded without linking torch.

On a GPU the same calls run in Triton (``spline_triton.py``), where Triton is installed.

It takes a few seconds, where capturing and compiling the same kernels with ``torch.compile`` takes a minute and is called
through guards. Libraries lie in the user's cache (``BIJECTORY_CACHE_DIR``, else ``XDG_CACHE_HOME/bijectory``, else
``~/.cache/bijectory``) under a name made of the source, the compiler and the processor.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from bijectory.ops.eager import is_direct
from bijectory.ops.spline_bins import SplineGrid, raw_one

FOLDER = Path(__file__).with_name("kernels")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
FLAGS_LIBRARY = ("-fno-exceptions", "-fno-rtti", "-shared", "-fPIC")
TUNED = (
    ("-march=native", "-mprefer-vector-width=512"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)  # the first that is known
MOST_BINS = 64  # as in the source
MOST_BINS_TRITON = 32  # more take its compiler minutes
HALF = (torch.float16, torch.bfloat16)
TAILS = {"identity": 0, "linear": 1, "circular": 2}
REALS = {torch.float32: "float", torch.float64: "double"}
SHARE = 1 << 15  # elements that are worth another thread
_wanted: ContextVar[bool] = ContextVar("native", default=False)


@contextlib.contextmanager
def native() -> Iterator[None]:
    """Let splines run in native kernels inside."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def is_native(x: Tensor, phi: Tensor, grid: SplineGrid) -> bool:
    """Whether a call runs in a native kernel: asked for, in order of memory, of one type, and not transformed."""
    return (
        _wanted.get()
        and x.dtype in REALS
        and x.device == phi.device
        and phi.shape[1:] == x.shape
        and (_on_gpu(x, phi, grid) if on_gpu(x.device) else _on_cpu(x, phi, grid))
        and is_direct(x)
        and is_direct(phi)
    )


def _on_cpu(x: Tensor, phi: Tensor, grid: SplineGrid) -> bool:
    same = x.dtype == phi.dtype and (x.dtype == torch.float64 or not grid.double)
    return same and x.device.type == "cpu" and grid.bins <= MOST_BINS


def _on_gpu(x: Tensor, phi: Tensor, grid: SplineGrid) -> bool:
    known = phi.dtype == x.dtype or (x.dtype == torch.float32 and phi.dtype in HALF)
    return known and grid.bins <= MOST_BINS_TRITON and has_triton()


def on_gpu(device: torch.device) -> bool:
    """Whether a device is one that Triton has kernels for."""
    return device.type == "cuda"  # those of AMD go by the same name


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it comes with the CUDA builds of torch."""
    return importlib.util.find_spec("triton") is not None


def _triton() -> ModuleType:
    return importlib.import_module("bijectory.ops.spline_triton")


def prepare(device: torch.device, dtype: torch.dtype, grids: Set[SplineGrid]) -> None:
    """Compile the kernels that a module needs.

    Args:
        device: Where it runs.
        dtype: Of its weights.
        grids: Hyper-parameters of its splines, for which Triton compiles apart; what was compiled before costs nothing.

    Raises:
        OSError: If there is no compiler (on a GPU: no Triton), or it fails, or the cache cannot be written.
    """
    if not on_gpu(device):
        library(dtype)
        return
    if not has_triton():
        raise OSError("there is no Triton; install it, it comes with the CUDA builds of torch.")
    try:
        for grid in grids:
            if grid.bins <= MOST_BINS_TRITON:
                _triton().trial(grid, device, dtype)
    except Exception as error:  # of many kinds: of its compiler, of the driver, of the linker of its launcher
        first = str(error).strip().partition("\n")[0]
        raise OSError(f"Triton could not compile spline_triton.py: {type(error).__name__}: {first}") from error


def compiler() -> str | None:
    """The path of a C++ compiler, None if there is none: ``CXX``, or one of the usual names."""
    return next((found for name in (os.environ.get("CXX"), *COMPILERS) if name and (found := shutil.which(name))), None)


@functools.cache
def library(dtype: torch.dtype = torch.float32) -> ctypes.CDLL:
    """The kernels for a dtype, from the cache or compiled now.

    Raises:
        OSError: If there is no compiler, or it fails, or the cache cannot be written.
    """
    path = compiler()
    if path is None:
        raise OSError("there is no C++ compiler; install g++ or set CXX.")
    source = FOLDER / "kernels.cpp"
    text = b"".join(p.read_bytes() for p in sorted(FOLDER.iterdir()) if p.suffix in (".h", ".cpp"))
    version = subprocess.run([path, "--version"], capture_output=True, check=False).stdout
    facts = (
        text,
        version,
        repr((FLAGS, TUNED, FLAGS_LIBRARY, REALS[dtype], platform.machine(), _processor())).encode(),
    )
    folder = _cache()
    target = folder / f"kernels-{hashlib.sha256(b'|'.join(facts)).hexdigest()[:24]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / target.name
            for tuned in TUNED:
                words = [path, *FLAGS, *tuned, *FLAGS_LIBRARY, f"-DREAL={REALS[dtype]}", "-o", str(made), str(source)]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    break
            else:
                raise OSError(f"{path} could not compile {source.name}: {done.stderr.strip().splitlines()[-1:]}")
            made.replace(target)
    return ctypes.CDLL(str(target))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    named = os.environ.get("BIJECTORY_CACHE_DIR")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "bijectory"


def _processor() -> str:
    """What a folder shared by several machines must tell apart."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.processor()


@functools.cache
def function(dtype: torch.dtype, name: str, arguments: tuple[Any, ...], result: Any = None) -> Callable[..., Any]:
    """A kernel for a dtype, with the ``ctypes`` of its arguments and its result."""
    found = getattr(library(dtype), name)
    found.argtypes, found.restype = arguments, result
    return found


@functools.cache
def _numbers(grid: SplineGrid) -> tuple[Any, ...]:
    return grid.bins, TAILS[grid.tails], grid.bound, grid.min_bin, grid.min_slope, raw_one(grid)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "bijectory-native")


Result = TypeVar("Result")


def in_threads(part: Callable[[int, int], Result], count: int, least: int = 1) -> list[Result]:
    """Call ``part(first, last)`` for shares of ``range(count)``, in as many threads as torch has.

    Args:
        part: Called at least once.
        count: How many there are to share.
        least: Of which a thread takes at least so many; shares are multiples of it, so they fall on the same borders.
    """
    threads = min(torch.get_num_threads(), count // least)
    if threads <= 1:
        return [part(0, count)]
    share = -(-count // threads // least) * least
    shares = [(first, min(first + share, count)) for first in range(0, count, share)]
    return [done.result() for done in [_pool(threads).submit(part, *ends) for ends in shares]]


def _call(name: str, tensors: tuple[Tensor, ...], grid: SplineGrid, *more: int) -> None:
    """Run a kernel over all elements."""
    sizes = [ctypes.c_longlong] * 3 + [ctypes.c_int] * 2 + [ctypes.c_double] * 4 + [ctypes.c_int] * len(more)
    call = function(tensors[0].dtype, name, (*[ctypes.c_void_p] * len(tensors), *sizes))
    pointers, n = [t.data_ptr() for t in tensors], tensors[0].numel()
    in_threads(lambda a, b: call(*pointers, n, a, b, *_numbers(grid), *more), n, SHARE)


def spline(x: Tensor, phi: Tensor, grid: SplineGrid, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Either direction: result and ladj, shaped like ``x``."""
    if on_gpu(x.device):
        return _triton().spline(x, phi, grid, inverse=inverse)
    x, phi = x.contiguous(), phi.contiguous()
    y, ladj = torch.empty_like(x), torch.empty_like(x)
    _call("spline_inverse" if inverse else "spline_forward", (x, phi, y, ladj), grid)
    return y, ladj


def pull(
    x: Tensor, phi: Tensor, g_out: Tensor, g_ladj: Tensor, grid: SplineGrid, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Cotangents of the input and of ``phi``, at the data point ``x``; see ``ops.spline``."""
    if on_gpu(x.device):
        return _triton().pull(x, phi, g_out, g_ladj, grid, inverse=inverse)
    x, phi, g_out, g_ladj = x.contiguous(), phi.contiguous(), g_out.contiguous(), g_ladj.contiguous()
    g_x, g_phi = torch.empty_like(x), torch.empty_like(phi)
    _call("spline_pull", (x, phi, g_out, g_ladj, g_x, g_phi), grid, int(inverse))
    return g_x, g_phi


def is_first_order(*cotangents: Tensor) -> bool:
    """Whether a backward pass is not itself recorded."""
    return not torch.is_grad_enabled() and all(g.dtype in REALS and is_direct(g) for g in cotangents)
