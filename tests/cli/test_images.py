"""The verbs on images: what they print, write and refuse."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bijectory.apps import ImageFlow
from bijectory.cli import main
from bijectory.recipes import RECIPES
from cli.support import QUICK as TABLE
from cli.support import banana
from cli.test_refusals import refused
from images_support import blobs

GLOW = ("--recipe", "glow", "--set", "steps=1", "--set", "hidden=8", "--epochs", "1", "--seed", "1", "--no-report")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An .npz with labels and a folder of pictures."""
    x, y = blobs(120)
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "images.npz", images=x, labels=np.where(y == 1, "corner", "edge"))
    (folder / "png").mkdir()
    for k, image in enumerate(x[:6]):
        Image.fromarray(image).save(folder / "png" / f"{k}.png")
    banana(60).to_csv(folder / "rows.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    assert main(["fit", str(files / "images.npz"), "--out", str(out), *GLOW, "--json", "-q"]) == 0
    return out


@pytest.fixture(scope="module")
def by_class(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "classes"
    words = ["fit", str(files / "images.npz"), "--out", str(out), "--given", "label", *GLOW, "--json", "-q"]
    assert main(words) == 0
    return out


def test_fit_says_bits_per_dimension_and_what_is_next(cli, files, tmp_path):
    answer = cli("fit", files / "images.npz", "--out", tmp_path / "run", *GLOW, "--noise", "learned", "--levels", "8")
    assert answer.code == 0, answer.err
    assert "held-out:" in answer.out
    assert "bits per dimension" in answer.out
    assert "-o samples.png" in answer.err
    for name in ("config.json", "schema.json", "model.safetensors", "metrics.jsonl", "README.md", "splits.safetensors"):
        assert (tmp_path / "run" / name).is_file()
    assert ImageFlow.load(tmp_path / "run").density.noise is not None


def test_the_data_decide_what_is_fitted(cli, files, tmp_path):
    words = ("--epochs", "1", "--no-report", "--json", "-q", "--set", "steps=1", "--set", "hidden=8")
    answer = cli("fit", files / "images.npz", "--out", tmp_path / "run", *words)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["notes"] == ["the largest pixel is 7: 8 levels (pass levels=256 if there are more)."]
    assert json.loads(cli("show", tmp_path / "run", "--json").out)["facts"]["recipe"] == "glow"


def test_sample_writes_a_grid_or_arrays(cli, run, by_class, tmp_path):
    assert cli("sample", run, "-n", "9", "--seed", "1", "-o", tmp_path / "s.png").code == 0
    assert np.asarray(Image.open(tmp_path / "s.png")).shape == (16, 16, 3)
    assert cli("sample", run, "-n", "9", "--seed", "1", "-o", tmp_path / "s.npz").code == 0
    with np.load(tmp_path / "s.npz") as drawn:
        np.testing.assert_array_equal(drawn["images"], ImageFlow.load(run).sample(9, seed=1))
    assert cli("sample", run, "-n", "9", "--temperature", "0", "-o", tmp_path / "s.npy").code == 0
    cold = np.load(tmp_path / "s.npy")
    assert (cold == cold[0]).all()
    assert cli("sample", by_class, "--given", "label=edge", "-o", tmp_path / "c.npz").code == 0
    with np.load(tmp_path / "c.npz") as drawn:
        assert drawn["labels"].tolist() == ["edge"] * 64
    assert cli("sample", by_class, "-n", "40", "--seed", "2", "-o", tmp_path / "m.npz").code == 0
    with np.load(tmp_path / "m.npz") as drawn:
        assert set(drawn["labels"]) == {"edge", "corner"}
        again = ImageFlow.load(by_class).sample(40, label=drawn["labels"], seed=2)
        np.testing.assert_array_equal(drawn["images"], again)


def test_score_gives_bits_per_dimension_of_every_image(cli, files, run, by_class):
    x, _ = blobs(120)
    frame = pd.read_csv(io.StringIO(cli("score", run, files / "images.npz").out))
    assert list(frame.columns) == ["image", "bits_per_dim"]
    np.testing.assert_allclose(frame["bits_per_dim"], ImageFlow.load(run).score(x), rtol=1e-6)
    frame = pd.read_csv(io.StringIO(cli("score", run, files / "png").out))
    assert frame["image"].tolist() == [f"{k}.png" for k in range(6)]
    summary = json.loads(cli("score", run, files / "images.npz", "--json", "--samples", "4").out)
    assert summary["mean_bits_per_dim"] == pytest.approx(ImageFlow.load(run).score(x, samples=4).mean(), rel=1e-6)
    frame = pd.read_csv(io.StringIO(cli("score", by_class, files / "images.npz").out))
    assert set(frame["label"]) == {"edge", "corner"}
    assert "label" not in cli("score", by_class, files / "png").out  # the mixture of the classes


def test_show(cli, run, by_class):
    text = cli("show", run).out
    for word in ("glow", "1 x 4 x 4", "parameters", "validation", "bits per dimension", "note: the largest pixel"):
        assert word in text
    found = json.loads(cli("show", by_class, "--json").out)
    assert {c["class"] for c in found["classes"]} == {"edge", "corner"}
    assert "edge" in cli("show", by_class).out


def test_list_flows(cli):
    text = cli("list", "flows").out
    assert text == cli("list").out
    glow = next(line for line in text.splitlines() if line.startswith("glow"))
    for word in ("2018", "images", "one pass", RECIPES["glow"].paper):
        assert word in glow
    refused(cli("list", "birds"), 2, "birds")


def test_refusals(cli, files, run, table, run_folder, tmp_path):
    out = ("--out", tmp_path / "new")
    refused(cli("fit", files / "images.npz", *out, "--recipe", "nsf"), 2, "'nsf' models tables", "holds images")
    refused(cli("fit", files / "rows.csv", *out, "--recipe", "glow"), 2, "'glow' models images", "holds a table")
    refused(cli("fit", files / "images.npz", *out, "--bounded", "a=0:1"), 2, "--bounded", "only for tables")
    refused(cli("fit", files / "rows.csv", *out, "--levels", "8", *TABLE), 2, "--levels", "only for images")
    refused(cli("fit", files / "images.npz", *out, "--given", "a"), 2, "--given label only")
    refused(cli("fit", files / "png", *out, *GLOW, "--given", "label"), 3, "no labels")
    refused(cli("fit", files / "images.npz", *out, *GLOW, "--levels", "4"), 3, "pass levels=")
    refused(cli("fit", files / "images.npz", *out, *GLOW, "--set", "scales=3"), 2, "divisible by 8")
    refused(cli("fit", files / "images.npz", *out, *GLOW, "--noise", "loud"), 2, "'uniform', 'learned'")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    refused(cli("fit", tmp_path / "folder", *out), 3, "no PNG", "notes.txt")
    assert not (tmp_path / "new").exists()
    refused(cli("sample", run), 2, "--out samples.png")
    refused(cli("sample", run, "-o", tmp_path / "s.csv"), 2, "--out samples.png")
    refused(cli("sample", run, "-o", tmp_path / "s.png", "--given", "label=3"), 3, "no classes")
    refused(cli("sample", run, "-o", tmp_path / "s.png", "--given", "a=3"), 2, "label=VALUE")
    refused(cli("sample", run_folder, "--temperature", "0.5"), 2, "--temperature is for images")
    refused(cli("score", run, table), 3, "no file of images")
    refused(cli("score", run_folder, table, "--samples", "3"), 2, "--samples is for images")
    refused(cli("score", run_folder, files / "images.npz"), 3, "images")
    np.save(tmp_path / "large.npy", np.zeros((3, 6, 6), np.uint8))
    refused(cli("score", run, tmp_path / "large.npy"), 3, "(3, 6, 6)", "(n, 4, 4)")
