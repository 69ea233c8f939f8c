"""A flow on MNIST or Fashion-MNIST for a fixed time: test bits per dimension on the way, and the likelihood paradox.

    python benchmarks/images.py --data DIR --recipe glow --budget 3600 --out run/
    python benchmarks/images.py --data FASHION --other MNIST --budget 3600 --out run/   # and then score other images

The folders hold the idx files of the data set (``train-images-idx3-ubyte.gz``, ``t10k-images-idx3-ubyte.gz``). A tenth of
the training images chooses the weights; the test images are only scored: some of them on the way (that time is part of the
budget), all of them at the end. With ``--other``, images of another kind are scored by the same model: if their likelihood
is higher (AUROC below one half), that is the paradox of Nalisnick et al. 2019, arXiv:1810.09136. ``--resume`` goes on after
an interruption.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import bijectory as bj
from bijectory.apps import image_config
from bijectory.apps.baselines import independent_pixels
from bijectory.report import write_report

MARKS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85)
FEW = 500


def load(folder: Path, part: str) -> np.ndarray:
    paths = sorted(folder.glob(f"{part}-images*"))
    if not paths:
        raise SystemExit(f"{folder} has no {part}-images file")
    return bj.read_images(paths[0]).images


def line(name: str, bits: np.ndarray) -> str:
    return f"{name:42s} {bits.mean():.4f} ± {bits.std(ddof=1) / math.sqrt(len(bits)):.4f} bits/dim, {len(bits)} images"


class Curve(bj.Callback):
    """Scores some test images at fractions of the budget."""

    def __init__(self, images: np.ndarray, budget: float) -> None:
        self.x, self.marks, self.points = torch.from_numpy(images).float().unsqueeze(1), [m * budget for m in MARKS], []

    def on_start(self, run: object) -> None:
        self.marks = [m for m in self.marks if m > run.seconds]

    def on_step(self, run: object) -> None:
        if not self.marks or run.seconds < self.marks[0]:
            return
        self.marks = [m for m in self.marks if m > run.seconds]
        model = run.model.eval()
        device = next(model.parameters()).device
        with torch.no_grad(), run.averaged():
            nats = torch.cat([model.log_prob(x.to(device)).cpu() for x in self.x.split(100)])
        model.train()
        bits = bj.bits_per_dim(nats.double().numpy(), tuple(model.event_shape))
        self.points.append({"seconds": round(run.seconds, 1), "step": run.step, "bits_per_dim": float(bits.mean())})
        print(line(f"after {run.seconds:6.0f} s, {run.step} steps", bits), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files to train on")
    parser.add_argument("--other", type=Path, help="folder with the idx files of another data set to score")
    parser.add_argument("--recipe", default="glow")
    parser.add_argument("--set", type=json.loads, default={}, help='arguments of the recipe as JSON: {"steps": 16}')
    parser.add_argument("--budget", type=float, required=True, help="seconds of training")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--noise", choices=("uniform", "learned"), default="uniform")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--samples", type=int, default=1, help="noise samples of the last score")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    images, test = load(args.data, "train"), load(args.data, "t10k")[: args.test_images]
    curve = Curve(test[:: max(1, len(test) // FEW)][:FEW], args.budget)
    settings = {"time_budget": args.budget, "lr": args.lr, "batch_size": args.batch_size, "ema_decay": args.ema}
    fitted = bj.fit_images(
        images,
        recipe=args.recipe,
        recipe_args=args.set,
        levels=256,
        noise=args.noise,
        test_fraction=0.0,
        config=image_config(len(images), patience=None, progress=False, **settings),
        device=args.device,
        out=args.out,
        resume=args.resume,
        callbacks=[curve],
        audit=args.device == "cpu",
    )
    model, result = fitted.model, fitted.result
    model.density.to(args.device)
    weights = sum(p.numel() for p in model.density.parameters())
    print(f"{args.recipe} {args.set}: {weights:,} parameters, {result.steps} steps, {result.seconds:.0f} s")
    if fitted.audit is not None:
        print(f"audit: {'every check holds' if fitted.audit.ok else fitted.audit}")
    known = bj.bits_per_dim(independent_pixels(fitted.train, test, 256).log_prob, model.schema.shape)
    print(line("test, independent pixels", known))
    inside = model.score(test, samples=args.samples)
    print(line(f"test, {args.samples} noise sample(s)", inside))
    found = {"curve": curve.points, "seconds": result.seconds, "test": inside.mean(), "independent": known.mean()}
    if args.other is not None:
        outside = model.score(load(args.other, "t10k")[: args.test_images], samples=args.samples)
        print(line(f"test images of {args.other.resolve().name}", outside))
        auroc = roc_auc_score(np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside])
        verdict = "below one half: the other images are likelier" if auroc < 0.5 else "the other images are less likely"
        print(f"AUROC of low likelihood as the sign of other images: {auroc:.3f} ({verdict})")
        found |= {"other": outside.mean(), "auroc": auroc}
    (args.out / "images.json").write_text(json.dumps(found, indent=2))
    print(f"report: {write_report(args.out)}")


if __name__ == "__main__":
    main()
