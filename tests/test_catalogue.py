"""The catalogue of bad inputs: for every row the exact class and the words of the message, the same under ``python -O``.

Modules here; estimators and files in ``test_catalogue_data.py``, the command line in ``cli/test_refusals.py``.
"""

import ast
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, DataError, DtypeError, FlowError, NonFiniteError, ShapeError
from laws.cases import DENSITIES, RECIPES, TRANSFORMS

Z = torch.zeros


def fails(error, words, call):
    """The call raises exactly this class, and every word is in its message."""
    with pytest.raises(FlowError) as info:
        call()
    assert type(info.value) is error, repr(info.value)
    for word in (words,) if isinstance(words, str) else words:
        assert word in str(info.value), str(info.value)


def wide(shape, by=1):
    """An event whose last dimension is too large."""
    return (*shape[:-1], shape[-1] + by)


def name(case):
    return case.name


# -- flows: every recipe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RECIPES, ids=name)
def test_flows_refuse(case):
    s = case.subject(max(case.contexts), torch.float32)
    flow, event = s.fresh(), s.event_shape
    x, c = s.x(6), s.side(6)
    size = f"features={event[-1]}." if len(event) == 1 else f"takes (*batch, {', '.join(map(str, event))})"
    for call in (flow.log_prob, flow.to_latent, flow):
        fails(ShapeError, size, lambda call=call: call(Z(6, *wide(event)), c))
        fails(ShapeError, ("x ", "(*batch, "), lambda call=call: call(torch.tensor(0.0), c))
        if event[-1] > 1:  # the event dimension is never broadcast
            fails(ShapeError, size, lambda call=call: call(Z(6, *event[:-1], 1), c))
        fails(DtypeError, "x is float64 but the flow is float32; use x.float()", lambda call=call: call(x.double(), c))
        fails(DtypeError, "x is float16 but the flow is float32", lambda call=call: call(x.half(), c))
        fails(DtypeError, ("x is int64", "use x.float()."), lambda call=call: call(x.long(), c))
        fails(DtypeError, ("x is bool", "use x.float()."), lambda call=call: call(x.bool(), c))
        fails(DtypeError, "x is complex64", lambda call=call: call(x.cfloat(), c))
        fails(DtypeError, ("numpy.ndarray", "torch.as_tensor(x)"), lambda call=call: call(x.numpy(), c))
        fails(DtypeError, "x is sparse (torch.sparse_coo); use x.to_dense()", lambda call=call: call(x.to_sparse(), c))
        fails(DtypeError, ("NoneType", "torch.as_tensor(x)"), lambda call=call: call(None, c))
        fails(DtypeError, ("x is on meta", "the flow is on cpu"), lambda call=call: call(x.to("meta"), c))
    latent = tuple(flow.base.event_shape)
    fails(ShapeError, "z ", lambda: flow.to_data(Z(6, *wide(latent)), c))
    fails(ShapeError, "x ", lambda: flow.initialize(Z(6, *wide(event)), c))
    for bad in (-1, 2.5, True, "3", (2, -1), (2, 0.5), None):
        fails(
            FlowError, ("shape must be a non-negative int or a tuple", repr(bad)), lambda bad=bad: flow.sample(bad, c)
        )
    if s.context:
        width = s.context
        fails(ContextError, f"built with context={width} but got context=None", lambda: flow.log_prob(x))
        fails(ContextError, "context=None", lambda: flow.sample(3))
        fails(
            ContextError,
            (f"context has {width + 1} features", f"expected {width}"),
            lambda: flow.log_prob(x, Z(6, width + 1)),
        )
        fails(ContextError, "context has no features", lambda: flow.log_prob(x, torch.tensor(0.0)))
        fails(ContextError, "context has 3 rows, x has 6; use 1 or 6", lambda: flow.log_prob(x, Z(3, width)))
        fails(DtypeError, "the context is torch.float64", lambda: flow.log_prob(x, c.double()))
        fails(DtypeError, "for the context, got ndarray", lambda: flow.log_prob(x, c.numpy()))
    else:
        fails(ContextError, "without context but got one of shape (6, 3)", lambda: flow.log_prob(x, Z(6, 3)))
        fails(ContextError, "without context but got one of shape (6, 3)", lambda: flow.sample(2, Z(6, 3)))


@pytest.mark.parametrize("case", RECIPES, ids=name)
def test_flows_accept_one_event_no_event_and_no_draw(case):
    s = case.subject(max(case.contexts), torch.float32)
    flow = s.fresh()
    with torch.no_grad():
        assert flow.log_prob(s.x(), s.side()).shape == ()
        assert flow.log_prob(s.x(0), s.side(0)).shape == (0,)
        assert flow.sample(0, s.side()).shape == (0, *s.event_shape)


@pytest.mark.parametrize("case", [c for c in RECIPES if c.features == 1], ids=name)
def test_one_feature_needs_its_dimension(case):
    flow = case.subject(0, torch.float32).fresh()
    words = ("x has shape (6,)", "features=1", "x[:, None] (6 events)")
    fails(ShapeError, words, lambda: flow.log_prob(Z(6), None))


WHOLE_LINE = [
    c for c in RECIPES if isinstance(c.features, int) and c.name not in ("rfm_sphere", "rfm_torus", "ncsf", "ncsf-1d")
]


@pytest.mark.parametrize("case", WHOLE_LINE, ids=name)
def test_values_that_are_not_finite_are_never_hidden(case):
    """NaN in, NaN out, in that row alone; infinity and huge values give -inf, a number, or NaN, never a likely row."""
    s = case.subject(max(case.contexts), torch.float32)
    flow = s.trained()
    x, c = s.x(5), s.side(5)
    with torch.no_grad():
        x[1], x[2], x[3, 0] = math.nan, 1e30, math.inf
        got = flow.log_prob(x, c)
        assert got[1].isnan()
        assert got[[0, 4]].isfinite().all()
        assert got[2] < -1e3
        assert got[3].isnan() or got[3] < -1e3
        if s.context:
            c[4] = math.nan
            assert flow.log_prob(x, c)[4].isnan()
            assert flow.log_prob(x, c)[0].isfinite()


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
@pytest.mark.parametrize("case", WHOLE_LINE, ids=name)
def test_huge_values_have_a_number_or_none_at_all(case, fresh):
    """1e4 to 1e30 in one column, or with either sign in all: in float32 too never NaN for a number."""
    s = case.subject(max(case.contexts), torch.float32)
    flow = s.fresh() if fresh else s.trained()
    for huge in (1e4, 1e10, 1e20, 1e30):
        x, c = s.x(5), s.side(5)
        x[1, -1], x[2], x[3] = huge, -huge, huge
        with torch.no_grad():
            got = flow.log_prob(x, c)
        assert not got.isnan().any(), f"{huge:g}: {got.tolist()}"
        assert got[[0, 4]].isfinite().all()
        assert (got[1:4] < -5).all()


def test_a_flow_audits_finite_rows_only():
    flow = bj.real_nvp(2, layers=2, hidden=(8,))
    x = torch.randn(9, 2)
    x[4] = math.nan
    fails(NonFiniteError, "x has 1 non-finite rows", lambda: flow.check(x))


# -- densities and layers used alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DENSITIES, ids=name)
def test_densities_refuse(case):
    """A base or a target by itself broadcasts nothing and guesses nothing."""
    s = case.subject(max(case.contexts), torch.float32)
    p, event = s.fresh(), s.event_shape
    x, c = torch.full((6, *event), 0.5), s.side(6)
    fails(ShapeError, "x ", lambda: p.log_prob(Z(6, *wide(event)), c))
    fails(ShapeError, "x ", lambda: p.log_prob(torch.tensor(0.0), c))
    if event[-1] > 1:
        fails(ShapeError, "x ", lambda: p.log_prob(Z(6, *event[:-1], 1), c))
    fails(DtypeError, ("x is int64", "x.float()"), lambda: p.log_prob(x.long(), c))
    fails(DtypeError, "numpy.ndarray", lambda: p.log_prob(x.numpy(), c))
    fails(DtypeError, "x.to_dense()", lambda: p.log_prob(x.to_sparse(), c))
    for bad in (-1, 2.5, True, "3"):
        fails(FlowError, ("shape must be", repr(bad)), lambda bad=bad: p.sample(bad, c))
        fails(FlowError, ("shape must be", repr(bad)), lambda bad=bad: p.rsample_and_log_prob(bad, c))
    if s.context:
        for call in (lambda: p.log_prob(x), lambda: p.sample(3), lambda: p.rsample(3)):
            fails(ContextError, f"context={s.context} but got context=None", call)
        fails(ContextError, f"expected {s.context}", lambda: p.log_prob(x, Z(6, s.context + 1)))


@pytest.mark.parametrize("case", [c for c in TRANSFORMS if max(c.contexts)], ids=name)
def test_a_conditional_layer_never_goes_without_its_context(case):
    """The peers' silent fault: without its context the layer would be another map with a finite answer."""
    s = case.subject(max(case.contexts), torch.float32)
    layer = s.fresh()
    words = f"this {type(layer).__name__} was built with context={s.context} but got context=None"
    for call, rows in (
        (layer.forward, s.x),
        (layer.inverse, s.z),
        (layer.encode, s.x),
        (layer.decode, s.z),
        (layer, s.x),
    ):
        fails(ContextError, words, lambda call=call, rows=rows: call(rows(3)))


def test_a_layer_of_your_own_is_guarded_too():
    class Mine(bj.Transform):
        context = 2

        def forward(self, x, c=None):
            return x, x.sum(-1) * 0

        inverse = forward

    fails(ContextError, "this Mine was built with context=2", lambda: Mine()(Z(3, 2)))
    assert Mine()(Z(3, 2), Z(2))[0].shape == (3, 2)


# -- construction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        # The eight arguments that distrax refuses in its rational-quadratic spline, and kin.
        (lambda: bj.RationalQuadratic(bins=0), ("bins", "0")),
        (lambda: bj.RationalQuadratic(bins=2.5), ("bins", "2.5")),
        (lambda: bj.RationalQuadratic(bound=0.0), ("bound", "0.0")),
        (lambda: bj.RationalQuadratic(bound=math.inf), ("bound", "inf")),
        (lambda: bj.RationalQuadratic(tails="lower_identity"), ("tails", "lower_identity")),
        (lambda: bj.RationalQuadratic(bins=8, min_bin=0.2), ("min_bin", "0.2")),
        (lambda: bj.RationalQuadratic(min_bin=-0.1), ("min_bin", "-0.1")),
        (lambda: bj.RationalQuadratic(min_slope=0.0), ("min_slope", "0.0")),
        (lambda: bj.RationalQuadratic(min_slope=2.0), ("min_slope", "2.0")),
        (lambda: bj.RationalQuadratic(precision="half"), ("precision", "half")),
        (lambda: bj.SoftClip(3.0, -2.0), "lower=3.0, upper=-2.0"),
        (lambda: bj.Logit(1.0, 1.0), "lower=1.0, upper=1.0"),
        (lambda: bj.LeakyReLU(0.0), ("slope", "0.0")),
        (lambda: bj.Coupling(bj.Affine(), (True, True)), "mask"),
        (lambda: bj.Coupling(bj.Affine(), (True,)), "coupling needs at least 2 features, got 1; use an autoregressive"),
        (lambda: bj.Permutation((0, 0, 1)), "order"),
        (lambda: bj.Standardize(2, (0.0, 0.0), (1.0, 0.0)), "scale"),
        (lambda: bj.StudentT(2, -1.0), "-1.0"),
        (lambda: bj.BoxUniform(2, 1.0, 0.0), "lower=1.0, upper=0.0"),
        (lambda: bj.LU(0), "features"),
        (lambda: bj.ActNorm(0), "features"),
    ],
    ids=range(21),
)
def test_arguments_out_of_range_are_named(build, words):
    fails(ConfigError, words, build)


def test_a_mask_is_named():
    for mask in ((True, True), (False, False)):
        fails(ConfigError, "mask", lambda mask=mask: bj.Coupling(bj.Affine(), mask))


@pytest.mark.parametrize("build", [bj.ActNorm, bj.Standardize])
@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (torch.ones(1, 2), DataError, "at least 2 events, got 1; pass the whole training set"),
        (torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]), DataError, "features [0] do not vary"),
        (
            torch.tensor([[1.0, 2.0], [math.nan, 3.0]]),
            NonFiniteError,
            "1 of 2 events are not finite (first: row 1, feature 0)",
        ),
        (torch.tensor([[1.0, 2.0], [math.inf, 3.0]]), NonFiniteError, "1 of 2 events are not finite"),
        (torch.ones(0, 2), DataError, "at least 2 events, got 0"),
    ],
    ids=["one row", "constant", "nan", "inf", "none"],
)
def test_data_dependent_layers_are_set_once_from_sound_data(build, rows, error, words):
    layer = build(2)
    fails(error, words, lambda: layer.initialize(rows))
    assert not layer.initialised
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    layer.eval()(torch.randn(5, 2) * 7)  # neither evaluation, nor training, nor sampling sets them
    layer.train()(torch.randn(5, 2) * 7)
    layer.train().inverse(torch.randn(5, 2) * 7)
    assert all(torch.equal(t, before[n]) for n, t in layer.state_dict().items())


# -- python -O -----------------------------------------------------------------------------------------------------------

SOURCES = sorted((pathlib.Path(bj.__file__).parent).rglob("*.py"))


def test_nothing_in_the_library_depends_on_optimisation():
    """No assertion, and nothing that asks for ``-O``: the compiled code is the same."""
    for path in SOURCES:
        text = path.read_text()
        tree = ast.parse(text if "assert" in text or "__debug__" in text else "")
        assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)], path
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert "__debug__" not in names, path


HANDFUL = """
import json, sys, warnings
import numpy as np, torch
import bijectory as bj
from bijectory.apps import FlowDensity
from bijectory.cli import main
from bijectory.io.config import Config
warnings.simplefilter("ignore")
Z = torch.zeros
f, fc = bj.nsf(4, layers=2, hidden=(8,)), bj.maf(4, 3, layers=2, hidden=(8,))
calls = [
    lambda: f.log_prob(Z(6, 5)), lambda: f.log_prob(Z(6, 1)), lambda: f.log_prob(Z(6, 4).double()),
    lambda: f.log_prob(np.zeros((6, 4))), lambda: f.log_prob(Z(6, 4).long()), lambda: f.log_prob(Z(6, 4), Z(6, 3)),
    lambda: fc.log_prob(Z(6, 4)), lambda: fc.log_prob(Z(6, 4), Z(6, 2)), lambda: fc.log_prob(Z(6, 4), Z(3, 3)),
    lambda: fc.transform(Z(6, 4)), lambda: f.sample(-1), lambda: f.sample(2.5),
    lambda: bj.StandardNormal(4).log_prob(Z(6, 1)),
    lambda: bj.RationalQuadratic(bins=0), lambda: bj.RationalQuadratic(bound=-1.0), lambda: bj.nsf(4, layrs=3),
    lambda: bj.Flow(None, bj.StandardNormal(2)), lambda: bj.ActNorm(2).initialize(torch.ones(1, 2)),
    lambda: f.check(torch.full((9, 4), float("nan"))), lambda: bj.Logit().forward(torch.full((1,), 2.0), Z(0, 1))[0],
    lambda: FlowDensity("nope").fit(np.zeros((9, 2))), lambda: FlowDensity().fit(np.full((9, 2), np.nan)),
    lambda: FlowDensity().fit(np.zeros((1, 2))), lambda: FlowDensity(lr=-1).fit(np.eye(9)), lambda: bj.load("nowhere"),
    lambda: main(["score", "nowhere", "rows.csv"]), lambda: main(["fit"]),
]
said = []
for call in calls:
    try:
        said.append(str(call()))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


@pytest.mark.slow  # a minute where Python compiles every library anew
def test_a_handful_of_bad_inputs_under_python_O(tmp_path):
    """Not one answer depends on an assertion."""
    said = []
    for flags in ((), ("-O",)):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *flags, "-c", HANDFUL]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        said.append((done.stdout, done.stderr))
    assert said[0] == said[1]
    answers = json.loads(said[0][0].splitlines()[-1])
    assert len(answers) == 27
    assert sum("Error: " in answer for answer in answers) == 24
    assert [a for a in answers if "Error: " not in a] == ["tensor([nan])", "4", "2"]
    assert not any(a.startswith(("AssertionError", "RuntimeError", "TypeError", "IndexError")) for a in answers)


def test_numpy_is_not_a_tensor_anywhere():
    flow = bj.real_nvp(2, layers=2, hidden=(8,))
    for call in (flow.log_prob, flow.to_latent, flow.to_data, bj.StandardNormal(2).log_prob):
        fails(DtypeError, "use torch.as_tensor", lambda call=call: call(np.zeros((3, 2))))
