"""Draws as an xarray tree and as a netCDF file that ArviZ reads."""

import importlib.util
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import bijectory as bj
from bijectory.apps import posterior as sbi
from bijectory.apps.variational import Chains
from bijectory.errors import ConfigError, MissingExtraError, ShapeError
from bijectory.interop import save_netcdf, to_datatree

xarray = pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def fitted():
    parameters = {"mu": "real", "sigma": "positive", "theta": bj.Parameter("real", 3)}

    def log_density(x):
        return -0.5 * ((x[:, 0] - 1) ** 2 + x[:, 2:].square().sum(-1)) - x[:, 1]

    return bj.fit_posterior(log_density, parameters, recipe_args={"layers": 2, "hidden": (16,)}, draws=4096, seed=0)


def mean(tree, name):
    return tree["posterior"][name].mean(("chain", "draw")).values


def test_a_fitted_posterior(fitted):
    tree = to_datatree(
        fitted, n=1000, seed=1, log_likelihood={"y": np.zeros((1, 1000, 5))}, observed_data={"y": np.ones(5)}
    )
    assert isinstance(tree, xarray.DataTree)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 1000, "theta_dim_0": 3}
    assert mean(tree, "mu") == pytest.approx(1, abs=0.15)  # sd 1: a standard error of 0.03
    assert (tree["posterior"]["sigma"] > 0).all()
    stats = tree["sample_stats"]
    assert set(stats.data_vars) == {"lp", "log_q"}
    first = torch.tensor([float(tree["posterior"][k][0, 0]) for k in ("mu", "sigma")])
    rest = torch.from_numpy(tree["posterior"]["theta"][0, 0].values)
    want = fitted.log_density(torch.cat([first, rest])[None])
    assert float(stats["lp"][0, 0]) == pytest.approx(float(want), rel=1e-5)
    assert tree["observed_data"]["y"].dims == ("y_dim_0",)
    assert tree.attrs["inference_library"] == "bijectory"
    assert tree.attrs["source"] == "resampled"
    again = to_datatree(fitted, n=1000, seed=1)
    assert np.array_equal(again["posterior"]["mu"], tree["posterior"]["mu"])


def test_weighted_and_flow_draws(fitted):
    tree = to_datatree(fitted, source="weighted")
    weight = np.exp(tree["sample_stats"]["log_weight"])
    assert float(weight.sum()) == pytest.approx(1)
    assert tree["posterior"].sizes["draw"] == len(fitted.draws.x)
    by_hand = float((weight * tree["posterior"]["mu"]).sum())
    assert by_hand == pytest.approx(fitted.table("weighted")["mean"]["mu"], abs=1e-9)
    drawn = to_datatree(fitted, source="flow", n=7)["posterior"]
    assert drawn["theta"].shape == (1, 7, 3)
    with pytest.raises(ConfigError, match="call polish"):
        to_datatree(fitted, source="chains")


def test_a_file_keeps_everything(fitted, tmp_path):
    pytest.importorskip("h5netcdf")
    tree = to_datatree(fitted, n=50, observed_data={"y": np.ones((2, 3))}, coords={"y_dim_1": ["a", "b", "c"]})
    path = save_netcdf(tree, tmp_path / "p.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["p.nc"]
    with xarray.open_datatree(path, engine="h5netcdf") as back:
        assert back.attrs["source"] == "resampled"
        assert set(back.children) == {"posterior", "sample_stats", "observed_data"}
        for group in back.children:
            xarray.testing.assert_identical(back[group].to_dataset(), tree[group].to_dataset())
    save_netcdf(tree, path)  # replaces
    with pytest.raises(OSError, match="missing"):
        save_netcdf(tree, tmp_path / "missing" / "p.nc")


@pytest.mark.slow  # 12 s on one thread, most of them to import ArviZ
def test_arviz_reads_the_chains(fitted, tmp_path):
    pytest.importorskip("h5netcdf")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*ArviZ is undergoing a major refactor")
        az = pytest.importorskip("arviz")
    polished = fitted.polish("independence", chains=4, draws=300, thin=1)
    tree = to_datatree(polished)
    path = save_netcdf(tree, tmp_path / "p.nc")
    read = az.from_netcdf(path)
    summary = az.summary(read, round_to="none")
    assert list(summary.index) == ["mu", "sigma", "theta[0]", "theta[1]", "theta[2]"]
    table = polished.table("chains")
    np.testing.assert_allclose(summary["mean"], table["mean"], rtol=1e-6)
    np.testing.assert_allclose(summary["ess_bulk"], table["ess_bulk"], rtol=0.05)
    rhat = az.rhat(read)
    np.testing.assert_allclose([float(rhat["mu"]), float(rhat["sigma"])], table["rhat"][["mu", "sigma"]], rtol=1e-3)
    assert read.sample_stats["lp"].shape == (4, 300)


def test_chains_alone():
    chains = Chains(np.arange(24.0).reshape(2, 4, 3), ("a", "b[0]", "b[1]"), "independence", 0.5, 0.0, 0)
    tree = to_datatree(chains)
    assert tree["posterior"]["b"].shape == (2, 4, 2)
    assert np.array_equal(tree["posterior"]["b"][1, 2], chains.draws[1, 2, 1:])
    assert tree.attrs["acceptance"] == 0.5


def test_a_posterior_of_simulations():
    prior = sbi.box_uniform([0.0, -1.0], [2.0, 1.0], names=["a", "b"])
    density = bj.Flow(prior.unconstrain(), bj.DiagonalNormal(2, 3, (8,)).double()).double()
    posterior = sbi.NeuralPosterior(density, prior, (3,))
    with pytest.raises(ConfigError, match=r"posterior\.at"):
        to_datatree(posterior)
    at = posterior.at([0.0, 1.0, 2.0])
    predictive = at.predictive(lambda theta: theta.repeat(1, 2)[:, :3], 50)
    tree = to_datatree(at, n=50, posterior_predictive=predictive)
    assert set(tree.children) == {"posterior", "sample_stats", "prior", "observed_data", "posterior_predictive"}
    assert ((tree["posterior"]["a"] > 0) & (tree["posterior"]["a"] < 2)).all()
    assert np.array_equal(tree["observed_data"]["x"], [0.0, 1.0, 2.0])
    assert tree["posterior_predictive"]["x"].shape == (1, 50, 3)
    theta = torch.tensor([[float(tree["posterior"][k][0, 3]) for k in "ab"]], dtype=torch.float64)
    assert float(tree["sample_stats"]["lp"][0, 3]) == pytest.approx(float(at.log_prob(theta)))


def test_frames_and_mappings():
    frame = pd.DataFrame({"chain": [1, 0, 1, 0], "m[0,0]": range(4), "m[0,1]": range(4, 8), "odd[1]": range(4)})
    tree = to_datatree(frame)
    assert tree["posterior"]["m"].shape == (2, 2, 1, 2)
    assert tree["posterior"]["m"][0, :, 0, 0].values.tolist() == [1.0, 3.0]
    assert "odd[1]" in tree["posterior"]
    schools = {"theta": np.zeros((4, 9, 3))}
    tree = to_datatree(schools, dims={"theta": ["school"]}, coords={"school": ["a", "b", "c"]}, attrs={"who": "me"})
    assert tree["posterior"]["theta"].sel(school="b").shape == (4, 9)
    assert tree.attrs["who"] == "me"
    assert to_datatree({"x": torch.zeros(2, 3, requires_grad=True)})["posterior"]["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("draws", "keywords", "error", "message"),
    [
        ({"a": np.zeros(5)}, {}, ShapeError, r"value\[None\]"),
        ({"a": np.zeros((1, 5)), "b": np.zeros((1, 4))}, {}, ShapeError, "different chains and draws"),
        (np.zeros((5, 2)), {}, ConfigError, "draws need names"),
        (pd.DataFrame({"a": []}), {}, ConfigError, "no draws"),
        (pd.DataFrame({"chain": [0, 0, 1], "a": [1, 2, 3]}), {}, ShapeError, "cut them to one"),
        ({"a": np.zeros((1, 5))}, {"source": "chains"}, ConfigError, "fit_posterior"),
        ({"a": np.zeros((1, 5))}, {"source": "prior"}, ConfigError, "no source"),
        ({"a": np.zeros((1, 5))}, {"log_likelihood": np.zeros((4, 2))}, ShapeError, "the posterior"),
        ({"a": np.zeros((1, 5))}, {"prior": "here"}, ConfigError, "cannot be read from a str"),
        ({"a": np.zeros((1, 5, 2))}, {"dims": {"a": ["x", "y"]}}, ShapeError, "dims names 2"),
        ({"a": np.zeros((1, 5, 2))}, {"coords": {"a_dim_0": [1]}}, ShapeError, "coords gives 1"),
    ],
)
def test_what_cannot_be_read(draws, keywords, error, message):
    with pytest.raises(error, match=message):
        to_datatree(draws, **keywords)


def test_without_the_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("bijectory.interop.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"xarray is not installed; run: pip install bijectory\[arviz\]"):
        to_datatree({"a": np.zeros((1, 5))})
    with pytest.raises(MissingExtraError, match=r"h5netcdf .* bijectory\[arviz\]"):
        save_netcdf(None, "x.nc")
    assert importlib.util.find_spec("xarray")
