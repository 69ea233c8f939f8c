"""Autoencoders of the handwritten digits of scikit-learn, with a diagonal and with a Sylvester posterior, in two minutes.

    python examples/vae_digits.py --epochs 60 --out digits-vae

Prints bounds and importance-weighted log-likelihoods of digits that training never saw, and how many latent units are in
use; with ``--out`` it leaves a run folder with a report (terms of the bound, draws, reconstructions).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import bijectory as bj
from bijectory.apps.vae import vae_config
from bijectory.report import write_report


def main(epochs: int = 60, out: Path | None = None, width: int = 128) -> dict[str, float]:
    images = load_digits().images.astype(np.uint8)
    config = vae_config(len(images), epochs=epochs, lr=2e-3, patience=None, progress=False)
    found = {}
    for posterior, args in (("diagonal", {}), ("sylvester", {"layers": 4, "rank": 8})):
        folder = out if posterior == "sylvester" else None
        began = time.process_time()
        fitted = bj.fit_vae(
            images,
            latent=16,
            posterior=posterior,
            posterior_args=args,
            hidden=(width, width),
            binarize="dynamic",
            levels=17,
            config=config,
            out=folder,
        )
        took = time.process_time() - began
        model, test = fitted.model, fitted.test
        bound = model.elbo(test, samples=20)
        print(f"{posterior:>10}: ELBO {bound.bound.mean():.3f} nats, of it KL {bound.kl.mean():.3f}; {took:.0f} CPU s")
        weighted = model.log_likelihood(test, samples=1000)
        print(f"{'':>10}  log-likelihood {weighted}")
        units = model.vae.active_units(model.tensor(model.schema.events(test)))
        print(f"{'':>10}  {units.count} of 16 latent units are active")
        found[posterior] = float(bound.bound.mean())
        if folder is not None:
            print(f"report: {write_report(folder)}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, help="run folder to write")
    args = parser.parse_args()
    main(args.epochs, args.out)
