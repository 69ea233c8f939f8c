"""Glow on the handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels with 17 levels, in minutes on a CPU.

    python examples/digits.py --budget 120 --out digits

Prints bits per dimension of images that training never saw, beside independent pixels, and says how long that took; with
``--out`` it leaves a run folder with a report (samples, temperatures, interpolations).
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import bijectory as bj
from bijectory.apps import image_config
from bijectory.apps.baselines import independent_pixels
from bijectory.report import write_report


def main(budget: float = 120.0, out: Path | None = None, steps: int = 8, hidden: int = 64) -> float:
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target
    config = image_config(len(images), time_budget=budget, lr=2e-3, ema_decay=0.99, progress=False)
    began = time.perf_counter()
    fitted = bj.fit_images(
        images,
        labels,
        recipe="glow",
        recipe_args={"steps": steps, "hidden": hidden},
        levels=17,
        noise="learned",
        config=config,
        out=out,
        audit=False,
    )
    took = time.perf_counter() - began

    model, held_out = fitted.model, fitted.split.test
    baseline = bj.bits_per_dim(independent_pixels(fitted.train, fitted.test, 17).log_prob, 64).mean()
    print(f"independent pixels: {baseline:.3f} bits per dimension; a pixel without any model: {math.log2(17):.3f}")
    for samples in (1, 16):
        bits = model.score(fitted.test, labels[held_out], samples=samples)
        error = bits.std(ddof=1) / np.sqrt(len(bits))
        print(f"Glow, {samples:2d} noise samples: {bits.mean():.3f} ± {error:.3f} on {len(bits)} held-out digits")
    print(f"{fitted.result.steps} steps, {fitted.result.stop_reason}: {took:.0f} s")

    told = np.array(model.schema.classes)[model.class_log_prob(fitted.test).argmax(1)]
    print(f"the class under which a digit is likeliest is the right one for {(told == labels[held_out]).mean():.1%}")
    back = model.decode(model.encode(fitted.test, labels[held_out]), labels[held_out])
    print(f"pixels that come back from latent space unchanged: {(back == fitted.test).mean():.2%}")
    if out is not None:
        print(f"report: {write_report(out)}")
    return float(model.score(fitted.test, labels[held_out]).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of training")
    parser.add_argument("--out", type=Path, help="run folder to write")
    args = parser.parse_args()
    main(args.budget, args.out)
