"""``bijectory vae`` and the verbs on its runs: what they print, write and refuse."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bijectory.cli import main
from cli.support import banana
from cli.test_refusals import refused
from images_support import blobs

TINY = ("--latent", "2", "--hidden", "16", "--epochs", "2", "--batch-size", "32", "--seed", "1")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    x = blobs(120)[0]
    np.savez(folder / "images.npz", images=x)
    banana(100).to_csv(folder / "rows.csv", index=False)
    (folder / "png").mkdir()
    for k, image in enumerate(x[:6]):
        Image.fromarray(image).save(folder / "png" / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "vae"
    words = [
        "--posterior",
        "sylvester",
        "--set",
        "layers=2",
        "--binarize",
        "threshold",
        *TINY,
        "--no-report",
        "--json",
        "-q",
    ]
    assert main(["vae", str(files / "images.npz"), "--out", str(out), *words]) == 0
    return out


def test_vae_says_its_terms_and_what_is_next(cli, files, tmp_path):
    answer = cli("vae", files / "png", "--out", tmp_path / "run", *TINY, "--posterior", "iaf", "--levels", "8")
    assert answer.code == 0, answer.err
    assert "reconstruction" in answer.out
    assert "importance-weighted" in answer.out
    assert "bijectory score" in answer.err
    page = (tmp_path / "run" / "report.html").read_text()
    for words in ("Evidence lower bound", "Draws from the model", "Active units", "the latent is used", "http"):
        assert (words in page) == (words != "http"), words


def test_score_sample_and_show(cli, files, run, tmp_path):
    answer = cli("score", run, files / "images.npz", "--samples", "20", "-o", tmp_path / "scores.csv")
    assert answer.code == 0, answer.err
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert list(frame.columns) == ["event", "log_prob", "standard_error", "ess"]
    assert len(frame) == 120
    assert frame["ess"].between(1, 20).all()
    found = json.loads(cli("score", run, files / "png", "--samples", "20", "--json", "-q").out)
    assert found["samples"] == 20
    assert found["lowest_event"].endswith(".png")
    assert cli("sample", run, "-n", "5", "-o", tmp_path / "s.npz", "--seed", "0").code == 0
    draws = np.load(tmp_path / "s.npz")["images"]
    assert draws.shape == (5, 4, 4)
    assert set(np.unique(draws)) <= {0, 7}
    assert cli("sample", run, "-n", "4", "-o", tmp_path / "s.png").code == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (11, 11)
    answer = cli("show", run)
    assert "sylvester" in answer.out
    assert "held-out: ELBO" in answer.out
    assert json.loads(cli("show", run, "--json").out)["facts"]["latent"] == 2


def test_tables_of_numbers(cli, files, tmp_path):
    out = tmp_path / "rows"
    answer = cli("vae", files / "rows.csv", "--out", out, *TINY, "--prior", "planar", "-q")
    assert answer.code == 0, answer.err
    assert (out / "report.html").exists()
    answer = cli("sample", out, "-n", "3", "--seed", "0", "-q")
    assert answer.out.splitlines()[0] == "x0,x1,x2"
    assert len(answer.out.splitlines()) == 4
    assert cli("score", out, files / "rows.csv", "--samples", "9", "--json", "-q").code == 0


def test_bad_input_is_refused_in_a_sentence(cli, files, run, tmp_path, run_folder):
    new = ("--out", tmp_path / "new", *TINY)
    images = files / "images.npz"
    refused(cli("vae", tmp_path / "nothing.npz", *new), 3, "nothing.npz")
    refused(cli("vae", images, *new, "--posterior", "silvester"), 2, "no posterior 'silvester'", "planar")
    refused(cli("vae", images, *new, "--posterior", "planar", "--set", "rank=3"), 2, "no argument rank", "layers")
    refused(cli("vae", images, *new, "--posterior", "planar", "--set", "layers=0"), 2, "layers must be at least 1")
    refused(cli("vae", images, *new, "--hidden", "a,b"), 2, "--hidden 300,300")
    refused(cli("vae", images, *new, "--net", "deep"), 2, "'dense' or 'gated'")
    refused(cli("vae", images, *new, "--net", "gated"), 2, "(channels, width of the code)")
    refused(cli("vae", images, *new, "--binarize", "always"), 2, "dynamic")
    refused(cli("vae", images, *new, "--likelihood", "bernoulli"), 2, "two levels")
    refused(cli("vae", images, *new, "--prior", "nfs"), 2, "nsf")
    refused(cli("vae", images, *new, "--levels", "4"), 3, "--levels")
    refused(cli("vae", images, *new, "--time-budget", "soon"), 2, "--time-budget")
    refused(cli("vae", images, "--out", run, *TINY), 2, "not empty", "--overwrite")
    refused(cli("sample", run), 2, "--out samples.png")
    refused(cli("sample", run, "-o", tmp_path / "s.png", "--given", "label=3"), 2, "no given columns")
    refused(cli("score", run, files / "rows.csv"), 3, "(100, 3)", "(n, 4, 4)")
    np.save(tmp_path / "large.npy", np.zeros((3, 6, 6), np.uint8))
    refused(cli("score", run, tmp_path / "large.npy"), 3, "(3, 6, 6)", "(n, 4, 4)")
    refused(cli("predict", run, files / "rows.csv"), 4, "holds an autoencoder", "bijectory score")
    (run / "config.json").write_text((run / "config.json").read_text().replace("Sylvester", "Silvester"))
    refused(cli("score", run, images), 4, "config.json")
