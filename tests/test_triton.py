"""Splines in Triton: equal to the plain operations in every tail, direction and dtype.

Without a GPU the kernels run in Triton's interpreter, which carries out the same program through numpy; whether the compiler
takes it is tested by compiling for a GPU that need not be there.
"""

import functools
import os
import subprocess
import sys

import pytest
import torch

import bijectory as bj
import spline_support
from bijectory.ops import native as native_module
from bijectory.ops.native import MOST_BINS_TRITON, has_triton, is_native, native
from bijectory.ops.spline import rational_quadratic
from bijectory.transforms import chain as chain_module
from bijectory.transforms.chain import has_native, use_native
from bijectory.transforms.regions import RegionWarning
from spline_support import BOTH, check_extremes, check_float64, float32_errors, results, small

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def _gpu(monkeypatch):
    """A GPU, or the interpreter in its place."""
    if DEVICE == "cuda":
        return
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for module in (native_module, chain_module):
        monkeypatch.setattr(module, "on_gpu", lambda device: True)
    from bijectory.ops import spline_triton

    if type(spline_triton._map).__name__ != "InterpretedFunction":
        pytest.skip("Triton was imported before without its interpreter")


case = functools.partial(spline_support.case, device=DEVICE)


@needs_triton
@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize("tails", ["identity", "linear", "circular"])
@pytest.mark.parametrize("bins", [2, 5])
def test_equal_to_the_plain_operations(f, tails, bins, monkeypatch):
    """In float64 to rounding; in float32 as close to float64 as the plain operations, within a factor."""
    from bijectory.ops import spline_triton

    calls = []
    launch = spline_triton._launch
    monkeypatch.setattr(
        spline_triton, "_launch", lambda kernel, *a, **k: (calls.append(kernel), launch(kernel, *a, **k))
    )
    truth = check_float64(f, *case(tails, bins, torch.float64))
    assert calls == [spline_triton._map, spline_triton._pull]
    for ours, plain in float32_errors(f, *case(tails, bins, torch.float32), truth):
        assert ours.mean() < 2 * plain.mean() + 1e-7
        assert ours.max() < 10 * plain.max() + 1e-6  # of one element, where rounding is luck


@needs_triton
@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("f", BOTH)
def test_parameters_in_half_precision_are_read_as_they_are(f, dtype):
    """What autocast hands over: the same as after a conversion to float32, and gradients in the dtype of the parameters."""
    x, phi, grid = case("identity", 4, torch.float32)
    phi = phi.to(dtype)
    with native():
        assert is_native(x, phi, grid)
        ours, same = results(f, x, phi, grid), results(f, x, phi.float(), grid)
    assert [t.dtype for t in ours] == [torch.float32] * 3 + [dtype]
    for a, b in zip(ours, same, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype))


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_arithmetic_in_double_where_it_is_asked_for():
    x, phi, grid = case("identity", 4, torch.float32)
    grid = grid._replace(double=True)
    exact = results(rational_quadratic, x.double(), phi.double(), grid)
    with native():
        for a, b in zip(results(rational_quadratic, x, phi, grid), exact, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b.float(), rtol=1e-6, atol=1e-6)


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_extremes():
    check_extremes(DEVICE)


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_second_derivatives_are_those_of_the_plain_operations():
    x, phi, grid = case("linear", 2, torch.float64, rows=2)
    x = (x.clamp(-1.9, 1.9) * 0.9).contiguous()
    with native():
        for f in BOTH:
            inputs = (x[:1, :2].clone().requires_grad_(), phi[:, :1, :2].clone().requires_grad_())
            assert torch.autograd.gradgradcheck(lambda a, p, f=f: f(a, p, grid), inputs)


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_what_has_no_kernel_takes_the_plain_operations():
    x, phi, grid = case("identity", 3, torch.float32)
    with native():
        assert is_native(x, phi, grid)
        assert not is_native(x, phi[..., :1], grid)  # broadcast
        assert not is_native(x, phi.double(), grid)
        assert not is_native(x.half(), phi.half(), grid)
        bins = MOST_BINS_TRITON + 1
        assert not is_native(x, torch.zeros(3 * bins - 1, *x.shape, device=DEVICE), grid._replace(bins=bins))
        f = lambda v, p: rational_quadratic(v, p, grid)[0]
        torch.testing.assert_close(torch.func.vmap(f, in_dims=(0, 1))(x, phi), f(x, phi), rtol=1e-5, atol=1e-5)
    assert not is_native(x, phi, grid)


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_a_compiled_flow_is_the_flow():
    flow = small().to(DEVICE)
    bj.testing.randomize(flow, seed=0, scale=0.3)
    assert has_native(flow)
    fast, x = flow.compiled(), torch.randn(50, 3, device=DEVICE)
    assert fast.transform._kernels
    for a, b in zip(fast.to_latent(x) + fast.to_data(x), flow.to_latent(x) + flow.to_data(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for f in (flow, fast):
        f.log_prob(x).mean().backward()
    for p, q in zip(flow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)


def test_without_triton(monkeypatch):
    """One warning, and the plain operations."""
    for module in (native_module, chain_module):
        monkeypatch.setattr(module, "on_gpu", lambda device: True)
        monkeypatch.setattr(module, "has_triton", lambda: False)
    flow, x = small().to(DEVICE), torch.randn(5, 3, device=DEVICE)
    assert not has_native(flow)
    with pytest.warns(RegionWarning, match="going on without: there is no Triton; install it") as seen:
        fast = flow.compiled()
    assert len(seen) == 1
    assert torch.equal(fast.log_prob(x), flow.log_prob(x))
    with native():
        assert not is_native(*case("identity", 3, torch.float32))


@needs_triton
@pytest.mark.usefixtures("_gpu")
def test_a_compiler_that_fails(monkeypatch):
    from bijectory.ops import spline_triton

    def fails(*_, **__):
        raise RuntimeError("no ptxas\nlong trace")

    monkeypatch.setattr(spline_triton, "_launch", fails)
    with pytest.raises(OSError, match=r"Triton could not compile spline_triton.py: RuntimeError: no ptxas$"):
        use_native(small().to(DEVICE))


COMPILE = """
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bijectory.ops import spline_triton as s

for kernel in (s._map, s._pull):
    for tails in (0, 1, 2):
        for inverse, half in ((0, False), (1, True)):
            values = dict(INVERSE=inverse, BINS=4, TAILS=tails, BOUND=5.0, MIN_BIN=1e-3, MIN_SLOPE=1e-3, RAW_ONE=0.5)
            values |= dict(TERMS=8, T=tl.float32, BLOCK=s.BLOCK)
            kinds = {"n": "i64"} | {name: "constexpr" for name in values}
            kinds |= {name: "*bf16" for name in ("phi", "g_phi") if half}
            signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
            made = triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 80, 32))
            assert made.asm["cubin"]
"""


@needs_triton
@pytest.mark.slow  # half a minute of CPU time
def test_the_compiler_takes_the_kernels(tmp_path):
    """To machine code of a GPU that need not be there; in a process of its own, without the interpreter."""
    triton = pytest.importorskip("triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("the interface of the compiler was another one")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
