"""The report of a run of images: what it says, and that it says it in one file."""

import dataclasses
import re

import numpy as np
import pytest

from bijectory.apps import fit_images
from bijectory.apps.baselines import independent_pixels
from bijectory.errors import DataError
from bijectory.report import ImageContent, read_image_run, write_report
from bijectory.report.image_content import image_verdicts
from images_support import QUICK, blobs, simple


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    x, y = blobs(400)
    folder = tmp_path_factory.mktemp("run") / "blobs"
    config = QUICK.replace(epochs=15, batch_size=32, lr=1e-2)
    labels = np.where(y == 1, "corner", "edge")
    return folder, fit_images(x, labels, recipe=simple, config=config, out=folder)


def test_report_is_one_file_with_everything_in_it(run):
    html = write_report(run[0]).read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert sources
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    for name in ("samples", "heldout", "temperature", "interpolation", "histogram", "learning"):
        assert f'id="{name}"' in html
        assert (run[0] / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for words in ("bits per dimension", "independent pixels", "beats independent pixels: good", "corner", "edge"):
        assert words in html


def test_content_is_that_of_the_model(run):
    folder, fitted = run
    c = read_image_run(folder)
    assert isinstance(c, ImageContent)
    by_name = {p.name: p for p in c.parts}
    assert by_name["test"].bits == fitted.scores["test"]["bits_per_dim"]
    assert len(c.bits) == len(fitted.test)
    np.testing.assert_allclose(
        np.sort(c.bits), np.sort(fitted.model.score(fitted.test, fitted.labels[fitted.split.test]))
    )
    assert by_name["test"].baseline == pytest.approx(c.baseline_bits.mean())
    assert by_name["test"].bits < by_name["test"].baseline
    assert c.samples.shape == (16, 4, 4)
    assert [t for t, _ in c.sweep][-1] == 1.0
    spread = [x.astype(float).std(0).mean() for _, x in c.sweep]
    assert spread[0] < spread[-1]
    held = {x.tobytes() for x in fitted.test}
    assert all(path[0].tobytes() in held and path[-1].tobytes() in held for path in c.paths)


def test_lights_change_with_the_figures(run):
    c = read_image_run(run[0])
    lights = {v.name: v.light for v in image_verdicts(c)}
    assert lights["beats independent pixels"] == "good"
    worse = dataclasses.replace(c, bits=c.baseline_bits + 1, audit=[("round trip of data", "1", "0.001", "fail")])
    lights = {v.name: v.light for v in image_verdicts(worse)}
    assert lights["beats independent pixels"] == lights["invertible"] == "bad"
    test = next(p for p in c.parts if p.name == "test")
    parts = [p for p in c.parts if p.name != "test"] + [dataclasses.replace(test, bits=9.0)]
    assert {v.name: v.light for v in image_verdicts(dataclasses.replace(c, parts=parts))}["does not overfit"] == "bad"


def test_independent_pixels_have_exact_probabilities():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=(2, 3))
    draw = lambda n: np.stack([[rng.choice(4, n, p=p[i, j]) for j in range(3)] for i in range(2)]).transpose(2, 0, 1)
    train, test = draw(20_000), draw(2000)
    found = independent_pixels(train, test, 4)
    want = sum(np.log(p[i, j][test[:, i, j]]) for i in range(2) for j in range(3))
    assert abs(found.mean - want.mean()) < 0.002
    grid = np.stack(np.meshgrid(*[range(4)] * 6), -1).reshape(-1, 2, 3)
    assert np.exp(independent_pixels(train[:50], grid, 4).log_prob).sum() == pytest.approx(1.0)
    with pytest.raises(DataError, match="at least one"):
        independent_pixels(train[:0], test, 4)
