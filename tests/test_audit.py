"""``Flow.check`` passes sound flows and flags planted faults, naming the layer."""

import copy
import json

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.densities.audit import FAIL, INFO, OK, UNKNOWN
from bijectory.densities.proposal import Proposal
from bijectory.errors import ContextError, NonFiniteError, ShapeError
from laws.cases import randomize


def sound(features=3, context=0, dtype=torch.float32):
    flow = randomize(bj.real_nvp(features, context, layers=4, hidden=(16,)), scale=0.2).to(dtype)
    g = torch.Generator().manual_seed(0)
    c = torch.randn(400, context, generator=g).to(dtype) if context else None
    return flow, flow.sample(() if context else 400, c, generator=g), c


def test_large_events_are_audited_by_what_can_be_measured():
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 600), bj.StandardNormal(600))
    audit = flow.check(flow.sample(70))
    assert audit.ok
    assert audit["mass minus one"].verdict == audit["log-det against autodiff"].verdict == UNKNOWN
    broken = bj.Flow(bj.Chain(bj.Elementwise(bj.Logit(), 600)), bj.StandardNormal(600))
    assert "round trip of data" in failed(broken.check(torch.rand(70, 600).index_fill(1, torch.tensor([3]), 1.5)))


def failed(audit):
    return {row.name for row in audit.rows if row.verdict == FAIL}


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sound_flows_pass(features, context, dtype):
    flow, x, c = sound(features, context, dtype)
    before = copy.deepcopy(flow.state_dict())
    audit = flow.check(x, c)
    assert audit.ok, str(audit)
    assert {row.verdict for row in audit.rows} <= {OK, INFO}
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())
    assert str(flow.check(x, c)) == str(audit)


def test_many_seeds_give_no_false_alarm():
    flow, x, _ = sound()
    assert all(flow.check(x, seed=seed).ok for seed in range(10))


def test_a_bad_fit_is_information_not_failure():
    flow, x, _ = sound()
    audit = flow.check(x * 3 + 1)
    assert audit.ok
    assert audit["KS of the latents of the data (p)"].value < 1e-6


def test_many_features_are_not_measurable_rather_than_wrong():
    flow = bj.real_nvp(60, layers=4, hidden=(16,))
    randomize(flow)
    audit = flow.check(flow.sample(200, generator=torch.Generator().manual_seed(0)))
    assert audit.ok
    assert audit["mass minus one"].verdict == UNKNOWN


def test_offsets_and_units_do_not_matter():
    scale = bj.Standardize(3, (1e4, 0.0, -2e-5), (1.0, 1e5, 1e-6))
    flow, x, _ = sound()
    flow = bj.Flow(bj.Chain(scale, *flow.transform), flow.base)
    assert flow.check(scale.inverse(x)[0]).ok


class Faulty(bj.Transform):
    """A layer with a planted fault."""

    def __init__(self, transform, fault):
        super().__init__()
        self.transform, self.fault, self.context = transform, fault, transform.context

    def forward(self, x, c=None):
        z, ladj = self.transform.forward(x, c)
        return (z.roll(1, -1) if self.fault == "permutation" else z), ladj * (1.1 if self.fault == "ladj" else 1)

    def inverse(self, z, c=None):
        z = z.roll(1, -1) if self.fault == "permutation" else z
        x, ladj = self.transform.inverse(z, c)
        return x * (1.02 if self.fault == "inverse" else 1), ladj * (1.1 if self.fault == "ladj" else 1)


def plant(fault):
    flow, x, _ = sound()
    steps = list(flow.transform)
    steps[2] = Faulty(steps[2], fault)
    return bj.Flow(bj.Chain(*steps), flow.base).check(x)


def test_log_det_off_by_a_tenth():
    assert "log-det against autodiff" in failed(plant("ladj"))


@pytest.mark.parametrize("fault", ["inverse", "permutation"])
def test_wrong_inverse_names_its_layer(fault):
    audit = plant(fault)
    names = {"round trip of data", "round trip of latents", "round trip of the worst layer"}
    assert failed(audit) >= names
    assert audit["round trip of the worst layer"].note == "layer 2 of 4, Faulty"


def test_layer_that_lost_its_invertibility_is_named():
    free = bj.Affine(max_log_scale=60.0)  # a bound so wide that it is none
    masks = ((True, False, False), (False, True, True))
    flow = bj.Flow(bj.Chain(*(bj.Coupling(free, masks[k % 2], hidden=(16,)) for k in range(6))), bj.StandardNormal(3))
    randomize(flow)
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    assert flow.check(x).ok
    with torch.no_grad():
        for p in flow.transform[3].parameters():
            p.mul_(4)
    audit = flow.check(x)
    assert not audit.ok
    assert audit["round trip of the worst layer"].verdict == FAIL
    assert "layer 3 of 6, Coupling" in audit["round trip of the worst layer"].note


def test_context_unplugged():
    flow, x, c = sound(context=2)
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if name.endswith("context_weight"):
                p[:, 1] = 0
    audit = flow.check(x, c)
    assert failed(audit) == {"context dimensions without effect"}
    assert audit["context dimensions without effect"].note == "[1]"


def test_nan_weight():
    flow, x, _ = sound()
    with torch.no_grad():
        next(flow.transform[1].parameters())[0, 0] = torch.nan
    audit = flow.check(x)
    assert not audit.ok
    assert audit["non-finite parameters"].value == 1
    assert "transform.transforms.1" in audit["non-finite parameters"].note


class Shrunk(bj.StandardNormal):
    """A base whose draws are narrower than its density."""

    def rsample(self, shape=(), c=None, *, generator=None):
        return 0.95 * super().rsample(shape, c, generator=generator)


class Heavy(bj.StandardNormal):
    """A base whose mass is 1.2."""

    def log_prob(self, x, c=None):
        return super().log_prob(x, c) + 0.18


def test_draws_that_do_not_follow_the_density():
    flow, x, _ = sound()
    assert failed(bj.Flow(flow.transform, Shrunk(3)).check(x)) == {"draws against density (sigmas)"}


def test_mass_that_is_not_one():
    flow, x, _ = sound()
    audit = bj.Flow(flow.transform, Heavy(3)).check(x)
    assert failed(audit) == {"mass minus one", "draws against density (sigmas)"}
    assert audit["mass minus one"].value == pytest.approx(0.2, abs=0.05)


def test_embedded_contexts():
    flow, x, _ = sound(context=2)
    flow = bj.Flow(flow.transform, flow.base, embed=nn.Embedding(5, 2))
    audit = flow.check(x, torch.arange(400) % 5)
    assert audit.ok
    assert audit["context dimensions without effect"].verdict == UNKNOWN
    with pytest.raises(ContextError, match="one context a row"):
        flow.check(x, torch.arange(7) % 5)


def test_contexts_broadcast():
    flow, x, c = sound(context=2)
    assert flow.check(x.reshape(20, 20, 3), c[:20]).ok
    assert flow.check(x, c[0]).ok


def test_bad_input():
    flow, x, _ = sound()
    with pytest.raises(NonFiniteError, match="1 non-finite rows"):
        flow.check(torch.cat([x, x[:1] * torch.nan]))
    with pytest.raises(ShapeError, match="at least 2 rows"):
        flow.check(x[0])
    with pytest.raises(ShapeError, match="features=3"):
        flow.check(x[:, :2])
    with pytest.raises(ContextError):
        flow.check(x, x)


def test_the_result_is_strict_json_and_a_table():
    audit = plant("inverse")
    assert isinstance(audit, bj.Audit)
    data = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert data["ok"] is False
    assert [r["name"] for r in data["rows"]] == [row[0] for row in audit.table()]
    assert str(audit).splitlines()[0].split() == ["check", "value", "bound", "verdict"]
    assert "fails: round trip of data" in str(audit)


def test_the_proposal_is_normalised_and_draws_follow_it():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=g) * 2 + 1
    r = Proposal.fit(x)
    grid = torch.linspace(-400, 400, 40_001, dtype=torch.float64).unsqueeze(-1)
    density = r.log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid.squeeze())) == pytest.approx(1, abs=1e-4)
    cdf = torch.cumulative_trapezoid(density, grid.squeeze())
    draws = r.sample(20_000, g).squeeze().sort().values
    u = cdf[((draws + 400) / 0.02).long().clamp(0, len(cdf) - 1)]
    gap = (u - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max()
    assert float(gap) < 0.014  # Kolmogorov-Smirnov, p = 1e-3 at 20 000


def test_a_flow_without_layers():
    flow = bj.Flow(bj.Chain(), bj.StandardNormal(2))
    assert flow.check(flow.sample(50, generator=torch.Generator().manual_seed(0))).ok
