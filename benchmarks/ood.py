"""The likelihood paradox on Fashion-MNIST and MNIST: AUROC of every score of a Glow, and of the default detector.

    python benchmarks/ood.py --fashion DIR --mnist DIR --out runs/

The folders hold the idx files (``train-images-idx3-ubyte.gz``, ``t10k-images-idx3-ubyte.gz``). A Glow is trained on the
training images of each set for a fixed number of epochs, and a background flow (Ren et al. 2019, arXiv:1906.02845) on the
same images with a fifth of the pixels drawn uniformly. Flows that lie in ``--out`` already are read, not trained.

What a score has to learn it learns from validation images of its own set. Before the other set is read, every score is
tried on stand-ins for foreign images, made of held-out images of the same set: turned, inverted, blurred, shuffled, crossed
with each other, noise, flat. They say which detector to recommend without a look at the images that it is for. Then come
the test images of both sets, which nothing was fitted to, with bootstrap standard errors.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from sklearn.svm import OneClassSVM

import bijectory as bj
from bijectory.apps import image_config, load_images
from bijectory.apps.anomaly import (
    StateDensity,
    auroc,
    code_length,
    latent_radius,
    log_likelihood,
    perturb_pixels,
    score_norm,
)

GLOW = {"steps": 6, "hidden": 48}
SHARE = 0.2
EPOCHS = {"fashion": 5, "mnist": 2, "background": 2}
DEFAULT = "combined, the default"
RATES = (0.01, 0.05)


def load(folder: Path, part: str) -> np.ndarray:
    paths = sorted(folder.glob(f"{part}-images*"))
    if not paths:
        raise SystemExit(f"{folder} has no {part}-images file")
    return bj.read_images(paths[0]).images


def trained(images: np.ndarray, out: Path, epochs: int) -> bj.ImageFlow:
    if not (out / "model.safetensors").exists():
        start = time.process_time()
        config = image_config(len(images), epochs=epochs, batch_size=64, lr=1e-3, patience=None, progress=False)
        fitted = bj.fit_images(images, recipe="glow", recipe_args=GLOW, levels=256, config=config, out=out, audit=False)
        minutes = (time.process_time() - start) / 60
        (out / "cpu_minutes.txt").write_text(f"{minutes:.2f}\n")
        bits = fitted.scores["test"]["bits_per_dim"]
        print(
            f"{out}: {fitted.result.steps} steps, {minutes:.1f} CPU minutes, {bits:.3f} bits per dimension", flush=True
        )
    return bj.ImageFlow.load(out)


def stand_ins(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Images that are foreign by construction, from ordinary ones."""
    rng, x = np.random.default_rng(seed), images
    halves = x.copy()
    halves[:, :, x.shape[2] // 2 :] = np.roll(x, 1, axis=0)[:, :, x.shape[2] // 2 :]
    blocks = x.reshape(-1, 4, 7, 4, 7).swapaxes(2, 3).reshape(-1, 16, 7, 7)
    blocks = np.stack([b[rng.permutation(16)] for b in blocks])
    shuffled = blocks.reshape(-1, 4, 4, 7, 7).swapaxes(2, 3).reshape(x.shape)
    return {
        "turned by 90 degrees": np.rot90(x, axes=(1, 2)).copy(),
        "inverted": 255 - x,
        "blurred": ndimage.gaussian_filter(x.astype(float), (0, 1.5, 1.5)).round().astype(np.uint8),
        "half as large": np.pad(x[:, ::2, ::2], ((0, 0), (7, 7), (7, 7))),
        "halves of two": halves,
        "blocks shuffled": shuffled,
        "two levels": (255 * (x > 127)).astype(np.uint8),
        "noise": rng.integers(0, 256, x.shape).astype(np.uint8),
        "flat": np.broadcast_to(rng.integers(0, 256, (len(x), 1, 1)), x.shape).astype(np.uint8),
    }


class Scores:
    """Every score of one flow; larger is more abnormal."""

    def __init__(
        self, model: bj.ImageFlow, background: bj.ImageFlow | None, held_out: np.ndarray, reference: np.ndarray
    ) -> None:
        self.model, self.background = model, background
        self.detector = bj.Detector(model, held_out, reference=reference)
        states = self.states(reference)
        self.entropy = -states[:, 0].mean()
        self.densities = {
            "density of states, one by one": (StateDensity(states[:, :3], joint=False), 3),
            "density of states, together": (StateDensity(states[:, :3]), 3),
            "... with code length, one by one": (StateDensity(states, joint=False), 4),
            "... with code length, together": (StateDensity(states), 4),
        }
        self.centre, self.spread = states.mean(0), states.std(0)
        self.svm = OneClassSVM(nu=0.05, gamma="scale").fit((states - self.centre) / self.spread)

    def states(self, images: np.ndarray) -> np.ndarray:
        log_p, radius = log_likelihood(self.model, images), latent_radius(self.model, images)
        return np.stack([log_p, radius, np.log(score_norm(self.model, images)), code_length(images)], axis=1)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        states = self.states(images)
        log_p, radius, norm, length = states.T
        found = {
            "low likelihood": -log_p,
            "typicality": np.abs(-log_p - self.entropy),
            "latent radius": radius,
            "score norm": norm,
            "input complexity": -log_p - length,
        }
        if self.background is not None:
            found["likelihood ratio"] = log_likelihood(self.background, images) - log_p
        found |= {name: density.nats(states[:, :k]) for name, (density, k) in self.densities.items()}
        found["... with code length, one-class SVM"] = -self.svm.decision_function((states - self.centre) / self.spread)
        return found | {DEFAULT: self.detector.score(images)}


def areas(inside: dict[str, np.ndarray], outside: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    def area(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        return auroc(np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b])

    return {name: area(values, outside[name]) for name, values in inside.items()}


def direction(
    own: Path, foreign: Callable[[], np.ndarray], scores: Scores, kept: np.ndarray, n: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """AUROC on the stand-ins, then on the test images of the other set."""
    few = kept[: max(2, n // 4)]
    ordinary, table = scores(kept[len(kept) - len(few) :]), {}
    for name, images in stand_ins(few, seed=0).items():
        table[name] = areas(ordinary, scores(images))
    names = list(ordinary)
    print(f"\n{'score':46s} stand-ins: mean, lowest (of which)")
    for name in names:
        values = {k: v[name][0] for k, v in table.items()}
        worst = min(values, key=values.__getitem__)
        print(f"{name:46s} {np.mean(list(values.values())):.3f}  {values[worst]:.3f} ({worst})", flush=True)
    images = foreign()
    if len(images):
        inside, outside = scores(load(own, "t10k")[:n]), scores(images)
        table["other set"] = areas(inside, outside)
        print(f"\n{'score':46s} AUROC of the other set")
        for name in names:
            print("{:46s} {:.4f} ± {:.4f}".format(name, *table["other set"][name]), flush=True)
        for rate in RATES:
            p = [scores.detector.p_values_of(x[DEFAULT]) for x in (inside, outside)]
            own_rate, found = (scores.detector.decide(x, rate).mean() for x in p)
            print(f"at a rate of {rate:g}, default: {own_rate:.4f} of its own flagged, {found:.4f} of the other set")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True, help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("--mnist", type=Path, required=True, help="folder with the idx files of MNIST")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--test-images", type=int, default=2000, help="of each set")
    parser.add_argument("--only", choices=("fashion", "mnist"), help="one direction: the set that is trained on")
    parser.add_argument("--stand-ins", action="store_true", help="stop before the other set is read")
    parser.add_argument("--no-background", action="store_true", help="leave out the likelihood ratio")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders, found = {"fashion": args.fashion, "mnist": args.mnist}, {}
    for own, other in (("fashion", "mnist"), ("mnist", "fashion")):
        if args.only not in (None, own):
            continue
        start, images = time.process_time(), load(folders[own], "train")
        model, background = trained(images, args.out / own, EPOCHS[own]), None
        if not args.no_background:
            changed = perturb_pixels(images, share=SHARE)
            background = trained(changed, args.out / f"{own}-background", EPOCHS["background"])
        kept = load_images(args.out / own)
        parts = {name: x for name, (x, _) in kept.items()}
        # Three parts that do not overlap: reference, calibration, and what the stand-ins are made of and compared with.
        scores = Scores(model, background, parts["test"][-1000:], parts["validation"][: args.test_images])
        foreign = folders[other]
        print(f"\ntrained on {own}, foreign: {other}")
        found[own] = direction(
            folders[own],
            lambda foreign=foreign: load(foreign, "t10k")[: 0 if args.stand_ins else args.test_images],
            scores,
            parts["test"][:-1000],
            args.test_images,
        )
        print(f"{(time.process_time() - start) / 60:.1f} CPU minutes, training included where it was needed")
    path = args.out / "ood.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | found, indent=2))


if __name__ == "__main__":
    main()
