"""Variational training: the free energy, its two gradients, annealing, and fits against a known log Z."""

import math

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.errors import ConfigError

F64 = torch.float64


def gaussian(scale=2.0, shift=1.0, context=0):
    """Unnormalised normal with log Z = 3 + log(2 pi scale^2), and the flow that equals it."""

    def log_density(x, c=None):
        centre = shift if c is None else shift + c
        return 3.0 - 0.5 * ((x - centre) / scale).square().sum(-1)

    flow = bj.Flow(bj.Elementwise(bj.Affine(), 2, context, (8,)), bj.StandardNormal(2)).double()
    if not context:
        with torch.no_grad():
            flow.transform.phi[0] = -shift / scale
            flow.transform.phi[1] = 3 * math.atanh(-math.log(scale) / 3)
    return log_density, flow, 3.0 + math.log(2 * math.pi * scale**2)


def rows(n=64):
    return bj.Batch(torch.zeros(n, 2, dtype=F64))


@pytest.mark.parametrize("gradient", ["total", "path"])
def test_at_the_solution_the_free_energy_is_minus_log_z_for_every_draw(gradient):
    log_density, flow, log_z = gaussian()
    loss = bj.ReverseKL(log_density, gradient)(flow, rows(3))
    assert loss.item() == pytest.approx(-log_z, abs=1e-9)


def gradients(flow, objective, n, seeds):
    out = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        flow.zero_grad()
        objective(flow, rows(n)).backward()
        out.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
    return torch.stack(out)


def test_path_gradients_vanish_at_the_solution_and_total_ones_are_noise():
    log_density, flow, _ = gaussian()
    assert gradients(flow, bj.ReverseKL(log_density, "path"), 8, 3).abs().max() < 1e-12
    assert gradients(flow, bj.ReverseKL(log_density), 8, 3).abs().max() > 1e-2


def test_both_gradients_agree_in_the_mean():
    log_density, _, _ = gaussian()
    torch.manual_seed(0)
    flow = bj.planar(2, layers=3, acts_on="noise").double()
    with torch.no_grad():
        flow.transform.transforms[0].transform.phi.add_(0.3)
    total, path = (gradients(flow, bj.ReverseKL(log_density, g), 4000, 20) for g in ("total", "path"))
    error = ((total - path).std(0) / math.sqrt(20)).clamp(min=1e-9)
    z = (total - path).mean(0) / error
    assert z.abs().max() < 5
    assert total.mean(0).abs().max() > 0.1


def test_draws_contexts_and_weights():
    log_density, flow, _ = gaussian(context=2)
    c, weight = torch.randn(6, 2, dtype=F64), torch.tensor([1.0, 0, 0, 0, 0, 3.0], dtype=F64)
    objective = bj.ReverseKL(log_density, draws=5)
    torch.manual_seed(0)
    value = objective(flow, bj.Batch(torch.zeros(6, 2, dtype=F64), c, weight))
    torch.manual_seed(0)
    x, log_q = flow.rsample_and_log_prob(5, c)
    each = (log_q - log_density(x, c)).mean(0)
    assert value.item() == pytest.approx(((each[0] + 3 * each[5]) / 4).item())


def test_beta_counts_in_training_mode_only():
    log_density, flow, log_z = gaussian()
    objective = bj.ReverseKL(log_density, beta=0.5)
    torch.manual_seed(0)
    x, log_q = flow.rsample_and_log_prob(64)
    torch.manual_seed(0)
    assert objective(flow.train(), rows()).item() == pytest.approx((log_q - 0.5 * log_density(x)).mean().item())
    assert objective(flow.eval(), rows()).item() == pytest.approx(-log_z)


def test_annealing_follows_the_steps_of_the_fit_also_when_resumed(tmp_path):
    log_density, flow, _ = gaussian()
    seen = []

    def recorded(x):
        if torch.is_grad_enabled():
            seen.append(objective.beta)
        return log_density(x)

    objective = bj.ReverseKL(recorded)

    class StopAt(bj.Callback):
        def on_step(self, run):
            return run.step >= 3

    config = bj.FitConfig(epochs=2, batch_size=8, validation_fraction=0, progress=False, out=tmp_path)
    data = torch.zeros(32, 2, dtype=F64)
    first = bj.fit(flow, data, objective=objective, config=config, callbacks=[bj.Anneal(objective, 10), StopAt()])
    assert first.stop_reason == "callback"
    objective.beta = 77.0
    bj.fit(flow, data, objective=objective, config=config.replace(resume=True), callbacks=[bj.Anneal(objective, 10)])
    assert seen == pytest.approx([0.01 + t / 10 for t in range(8)])
    with pytest.raises(ConfigError, match="steps"):
        bj.Anneal(objective, 0)
    with pytest.raises(ConfigError, match="start"):
        bj.Anneal(objective, start=2.0)


@pytest.mark.parametrize("gradient", ["total", "path"])
def test_a_fit_finds_a_gaussian(gradient):
    log_density, _, log_z = gaussian()
    torch.manual_seed(0)
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 2), bj.StandardNormal(2)).double()
    config = bj.FitConfig(epochs=10, batch_size=64, lr=3e-2, progress=False)
    result = bj.fit(flow, flow.sample(2048), objective=bj.ReverseKL(log_density, gradient), config=config)
    assert result.best_val == pytest.approx(-log_z, abs=0.01)


def test_amortised_inference_finds_a_posterior_for_every_context():
    log_density, _, log_z = gaussian(scale=1.0, context=2)
    torch.manual_seed(0)
    flow = bj.planar(2, 2, layers=2, hidden=(16,), acts_on="noise").double()
    c = torch.randn(2048, 2, dtype=F64)
    objective = bj.ReverseKL(log_density)
    config = bj.FitConfig(epochs=20, batch_size=64, lr=1e-2, progress=False)
    result = bj.fit(flow, (flow.sample((), c), c), objective=objective, config=config)
    assert result.best_val == pytest.approx(-log_z, abs=0.05)


@pytest.mark.parametrize(
    "name", ["planar", "radial", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sylvester", "bnaf"))]
)
def test_an_energy_can_be_learnt_and_data_evaluated(name):
    target = bj.RezendeMohamed(1)
    torch.manual_seed(1)
    flow: nn.Module = bj.recipes.find_recipe(name).build(2, layers={"bnaf": 2}.get(name, 8), acts_on="noise")
    objective = bj.ReverseKL(target.log_unnormalized)
    config = bj.FitConfig(epochs=10, batch_size=128, lr=1e-2, progress=False)
    result = bj.fit(
        flow, flow.sample(16_000), objective=objective, config=config, callbacks=[bj.Anneal(objective, 500)]
    )
    gap = result.best_val + target.log_z
    x = flow.sample(4000)
    assert -0.05 < gap < 0.75
    elbo = (target.log_unnormalized(x) - flow.log_prob(x)).mean().item()  # by the density of data
    assert elbo == pytest.approx(-result.best_val, abs=0.1)
