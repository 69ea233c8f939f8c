"""Bad data and bad settings: refused before the first step, each by name."""

import math

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, DataError, DtypeError, NonFiniteError, ShapeError
from bijectory.training import Data, FitConfig, fit


def rows(n=60, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def flow():
    return bj.real_nvp(2, layers=2, hidden=(8,))


def quiet(**settings):
    return FitConfig(progress=False, **settings)


GAP = rows(6, 3).index_put((torch.tensor([2, 4]), torch.tensor([1, 1])), torch.tensor(math.nan))


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (GAP, NonFiniteError, ["Input x contains NaN", "2 of 6 rows", "[2, 4]", "columns [1]"]),
        ((rows(6), GAP), NonFiniteError, ["Input c contains NaN"]),
        ((rows(2), None, torch.tensor([1, math.inf])), NonFiniteError, ["weight contains infinity", "[1]"]),
        (
            torch.zeros(0, 4),
            DataError,
            ["Found array with 0 sample(s) (shape=(0, 4)) while a minimum of 2 is required."],
        ),
        (torch.zeros(1, 4), DataError, ["Found array with 1 sample(s)"]),
        ((rows(6), rows(5)), ShapeError, ["c has 5 rows, x has 6"]),
        ((rows(6), None, torch.ones(5)), ShapeError, ["weight has 5 rows, x has 6"]),
        ((rows(6), None, torch.ones(6, 1)), ShapeError, ["weight has shape (6, 1)"]),
        ((rows(6), None, -torch.ones(6)), DataError, ["weight is negative in row 0 (-1.0)"]),
        ((rows(6), None, torch.zeros(6)), DataError, ["all weights of weight are 0"]),
        ((rows(6), None, torch.eye(6)[0] + torch.eye(6)[1]), DataError, ["pass explicit validation rows"]),
        (Data(rows(6), x_val=rows(0)), DataError, ["x_val has 0 rows"]),
        (Data(rows(6), x_val=rows(6, 3)), ShapeError, ["x_val has events of shape (3,), x of (2,)"]),
        (Data(rows(6), rows(6), x_val=rows(6)), ShapeError, ["c and c_val together"]),
        (rows(6).long(), DtypeError, ["x is torch.int64", "x.float()"]),
        (np.zeros((3, 2)), DtypeError, ["numpy.ndarray", "torch.as_tensor(x)"]),
        (torch.tensor(1.0), ShapeError, ["x is a scalar"]),
        ((rows(6), None, None, None), DataError, ["a tuple of 4"]),
    ],
)
def test_bad_data_is_named(bad, error, words):
    with pytest.raises(error) as info:
        fit(flow(), bad, config=quiet(epochs=1))
    for word in words:
        assert word in str(info.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0}, ["lr=0", "greater than 0"]),
        ({"lr": math.nan}, ["lr=nan", "finite"]),
        ({"lr": "fast"}, ["lr='fast'", "number"]),
        ({"epoch": 3}, ["'epoch'", "did you mean 'epochs'?"]),
        ({"learning_rate": 3}, ["did you mean 'lr'?"]),
        ({"zzz": 3}, ["known settings: epochs, time_budget"]),
        ({"epochs": 0}, ["epochs=0"]),
        ({"batch_size": 2.5}, ["batch_size=2.5"]),
        ({"schedule": "cos"}, ["schedule='cos'", "'cosine', 'plateau' or 'constant'"]),
        ({"validation_fraction": 1.0}, ["validation_fraction=1.0", "less than 1"]),
        ({"ema_decay": 1.0}, ["ema_decay=1.0"]),
        ({"time_budget": -1}, ["time_budget=-1"]),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ConfigError) as info:
        FitConfig(**settings)
    for word in words:
        assert word in str(info.value)
    with pytest.raises(ConfigError):
        FitConfig().replace(**settings)


def test_one_row_without_validation_is_refused():
    with pytest.raises(DataError, match="1 sample"):
        fit(flow(), rows(1), config=quiet(validation_fraction=0))


def test_nothing_to_train_and_resume_without_folder():
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        fit(bj.StandardNormal(2), rows(), config=quiet(epochs=1))
    with pytest.raises(ConfigError, match="resume=True needs out"):
        fit(flow(), rows(), config=quiet(epochs=1, resume=True))


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made: (Not a directory|File exists)"):
        fit(flow(), rows(), config=quiet(epochs=1, out=tmp_path / "file" / "run"))
