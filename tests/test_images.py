"""A distribution of images: fitted, scored, drawn from, moved through."""

import math

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.apps import ImageFlow, TableFlow, fit_images, image_config, load_images
from bijectory.apps.latents import slerp
from bijectory.errors import CheckpointError, ConfigError, ContextError, DataError, ShapeError
from bijectory.training import Callback
from images_support import QUICK, TINY, blobs, simple

LONGER = QUICK.replace(epochs=25, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    x, _ = blobs(400)
    return fit_images(x, recipe=simple, config=LONGER, out=tmp_path_factory.mktemp("run") / "blobs")


@pytest.fixture(scope="module")
def conditional():
    x, y = blobs(400)
    return fit_images(x, np.where(y == 1, "corner", "edge"), recipe=simple, config=LONGER, audit=False)


def independent(train, test, levels=8):
    """Bits per dimension of independent pixels: what has to be beaten."""
    counts = np.stack([(train == k).sum(0) for k in range(levels)]) + 1
    p = counts / counts.sum(0)
    chosen = np.take_along_axis(p[:, None], test[None].astype(int), axis=0)[0]
    return -np.log2(chosen).mean()


def test_a_flow_knows_more_than_independent_pixels(fitted):
    assert fitted.model.score(fitted.test).mean() < independent(fitted.train, fitted.test) - 0.1
    assert fitted.scores["test"]["bits_per_dim"] == pytest.approx(fitted.model.score(fitted.test).mean())
    assert fitted.audit.ok, fitted.audit
    assert len(fitted.train) + len(fitted.validation) + len(fitted.test) == 400


def test_bits_per_dimension_of_a_score_are_those_of_the_flow(fitted):
    model, x = fitted.model, fitted.test[:6]
    levels = torch.from_numpy(x.astype(np.float32)).unsqueeze(1)
    with torch.no_grad():
        nats = model.density.log_prob(levels)
    np.testing.assert_allclose(model.score(x), -nats.numpy() / (16 * math.log(2)), rtol=1e-6)
    assert model.score(x, samples=64).mean() < model.score(x).mean()
    np.testing.assert_allclose(model.score(x[::-1])[::-1], model.score(x), rtol=1e-6)


def test_samples_are_levels_and_look_like_the_images(fitted):
    draws = fitted.model.sample(300, seed=0)
    assert draws.dtype == np.uint8
    assert draws.shape == (300, 4, 4)
    assert draws.max() <= 7
    np.testing.assert_array_equal(draws, fitted.model.sample(300, seed=0))
    assert abs(draws.mean(0) - fitted.train.mean(0)).max() < 0.8
    assert fitted.model.sample(0).shape == (0, 4, 4)
    cold = fitted.model.sample(300, temperature=0.3, seed=0)
    assert cold.astype(float).std(0).mean() < draws.astype(float).std(0).mean()
    z = fitted.model.flow.base.sample(50, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(fitted.model.sample(50, temperature=0.3, seed=0), fitted.model.decode(0.3 * z))
    with pytest.raises(ConfigError, match="temperature"):
        fitted.model.sample(1, temperature=-1)


def test_every_pixel_comes_back_from_latent_space(fitted):
    z = fitted.model.encode(fitted.images)
    np.testing.assert_array_equal(fitted.model.decode(z), fitted.images)
    with pytest.raises(ShapeError, match="expected"):
        fitted.model.decode(z[0])


def test_interpolation_starts_and_ends_at_the_images(fitted):
    a, b = fitted.test[:2]
    path = fitted.model.interpolate(a, b, 5)
    assert path.shape == (5, 4, 4)
    np.testing.assert_array_equal(path[[0, -1]], [a, b])
    z = np.array([3.0, 0.0]), np.array([0.0, 3.0])
    np.testing.assert_allclose(np.linalg.norm(slerp(*z, np.linspace(0, 1, 7)[:, None]), axis=1), 3.0)
    np.testing.assert_allclose(slerp(z[0], 2 * z[0], np.array([[0.5]])), [[4.5, 0.0]])


def test_an_attribute_is_added_and_taken_away(fitted):
    """From images with a bright edge to images with a bright corner there is a direction in latent space."""
    x, y = blobs(400)
    model = fitted.model
    vector = model.attribute_vector(x[y == 1], x[y == 0])
    dark = x[y == 0][:50]
    bright = model.shift(dark, vector, 1.0)
    corner, edge = bright[:, :2, :2].mean() - dark[:, :2, :2].mean(), bright[:, -1].mean() - dark[:, -1].mean()
    assert corner > 1.5
    assert edge < -1.5
    np.testing.assert_array_equal(model.shift(dark, vector, 0.0), dark)
    np.testing.assert_array_equal(model.shift(dark[0], vector, 1.0), bright[0])


def test_a_class_conditional_model_draws_and_tells_classes(conditional):
    model, x = conditional.model, conditional.test
    corner = model.sample(200, label="corner", seed=0).mean(0)
    edge = model.sample(200, label="edge", seed=0).mean(0)
    assert corner[0, 0] > edge[0, 0] + 2
    assert edge[3, 3] > corner[3, 3] + 2
    told = np.array(model.schema.classes)[model.class_log_prob(x).argmax(1)]
    assert (told == conditional.labels[conditional.split.test]).mean() > 0.95
    assert model.sample(10, seed=1).shape == (10, 4, 4)
    assert set(model.schema.classes) == {"corner", "edge"}
    assert sum(model.schema.counts) == len(conditional.train)


def test_without_a_label_the_score_is_that_of_the_mixture(conditional):
    model, x = conditional.model, conditional.test[:5]
    prior = np.array(model.schema.counts) / sum(model.schema.counts)
    want = np.log(np.exp(model.class_log_prob(x)) @ prior)
    np.testing.assert_allclose(model.log_prob(x), want, rtol=1e-6)
    np.testing.assert_allclose(model.log_prob(x, "edge"), model.class_log_prob(x)[:, 1], rtol=1e-6)
    with pytest.raises(ContextError, match="give a label"):
        model.encode(x)
    np.testing.assert_array_equal(model.decode(model.encode(x, "edge"), "edge"), x)


def test_a_run_folder_is_saved_and_loaded(fitted, tmp_path):
    fitted.model.save(tmp_path)
    model = ImageFlow.load(tmp_path)
    np.testing.assert_array_equal(model.score(fitted.test), fitted.model.score(fitted.test))
    assert model.schema == fitted.model.schema
    assert "Dequantized" in (tmp_path / "README.md").read_text()
    with pytest.raises(CheckpointError, match=r"use ImageFlow\.load"):
        TableFlow.load(tmp_path)
    table = bj.fit_table(np.random.default_rng(0).normal(size=(60, 2)), recipe="nice", config=QUICK, audit=False)
    table.model.save(tmp_path / "table")
    with pytest.raises(CheckpointError, match=r"table; use TableFlow\.load"):
        ImageFlow.load(tmp_path / "table")


class StopAt(Callback):
    def on_step(self, run):
        return run.step >= 5


def test_glow_is_fitted_in_every_layout_and_resumed_exactly(tmp_path):
    x, _ = blobs(120, channels=3)
    config = QUICK.replace(epochs=2, batch_size=32)
    options = {"recipe": "glow", "recipe_args": TINY, "config": config, "audit": False}
    whole = fit_images(x, **options)
    assert whole.model.sample(2, seed=0).shape == (2, 4, 4, 3)
    other = fit_images(np.moveaxis(x, -1, 1), layout="CHW", **options)
    assert other.model.sample(2, seed=0).shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(np.moveaxis(other.model.sample(2, seed=0), 1, -1), whole.model.sample(2, seed=0))
    out = tmp_path / "run"
    fit_images(x, **options, out=out, callbacks=[StopAt()])
    again = fit_images(x, **options, out=out, resume=True)
    np.testing.assert_array_equal(again.model.score(x), whole.model.score(x))
    kept = load_images(out)
    np.testing.assert_array_equal(kept["train"][0], whole.train)
    assert kept["test"][1] is None


def test_equal_images_go_to_the_same_part():
    x, _ = blobs(200)
    found = fit_images(np.concatenate([x, x]), recipe=simple, config=QUICK.replace(epochs=1), audit=False)
    keys = [{image.tobytes() for image in part} for part in (found.train, found.validation, found.test)]
    assert not keys[0] & keys[1]
    assert not (keys[0] | keys[1]) & keys[2]


def test_refusals():
    x, y = blobs(60)
    quick = {"recipe": simple, "config": QUICK}
    with pytest.raises(ConfigError, match=r"tables; use fit_table, or a recipe for images: .*glow"):
        fit_images(x, recipe="nsf")
    with pytest.raises(ConfigError, match="images; use fit_images"):
        bj.fit_table(np.zeros((60, 3)) + np.arange(60)[:, None], recipe="glow")
    with pytest.raises(ConfigError, match="divisible by 2"):
        fit_images(np.zeros((60, 5, 5), np.uint8), recipe="glow")
    with pytest.raises(ConfigError, match="no argument 'stepz'"):
        fit_images(x, recipe="glow", recipe_args={"stepz": 1})
    with pytest.raises(DataError, match="minimum of 2"):
        fit_images(x[:1], **quick)
    with pytest.raises(DataError, match=r"labels have shape \(59,\)"):
        fit_images(x, y[:-1], **quick)
    with pytest.raises(DataError, match="nothing to tell apart"):
        fit_images(x, np.ones(60), **quick)
    with pytest.raises(ConfigError, match="layout"):
        fit_images(x, layout="NHW", **quick)


def test_settings_follow_the_number_of_images():
    assert image_config(1000).batch_size < image_config(50_000).batch_size
    assert image_config(1000, batch_size=7, epochs=3).epochs == 3


def test_learned_noise_is_trained_saved_and_part_of_the_bound(tmp_path):
    x, _ = blobs(200)
    fitted = fit_images(x, recipe=simple, noise="learned", config=QUICK, audit=False, out=tmp_path / "run")
    start = bj.pixel_noise((1, 4, 4)).state_dict()
    trained = fitted.model.density.noise.state_dict()
    assert any(not torch.equal(start[k].cpu(), v) for k, v in trained.items() if k.endswith("head.bias"))
    model = ImageFlow.load(tmp_path / "run")
    np.testing.assert_array_equal(model.score(x), fitted.model.score(x))
    with torch.no_grad():
        model.density.noise.transform[2].net.net.head.bias += 1.0
    assert not np.allclose(model.score(x), fitted.model.score(x))
    with pytest.raises(ConfigError, match="'uniform', 'learned'"):
        fit_images(x, recipe=simple, noise="variational", config=QUICK)


def test_noise_of_a_pixel_reads_its_neighbourhood():
    q = bj.pixel_noise((1, 8, 8), hidden=8)
    torch.manual_seed(0)
    for p in q.parameters():
        torch.nn.init.normal_(p, 0.0, 0.3)
    c = torch.zeros(1, 64, requires_grad=True)
    u, _ = q.to_data(torch.zeros(1, 64), c)
    (g,) = torch.autograd.grad(u[0, 0, 4, 4], c)
    seen = (g.reshape(8, 8) != 0).nonzero()
    assert seen.amin(0).tolist() == [2, 2]
    assert seen.amax(0).tolist() == [6, 6]
