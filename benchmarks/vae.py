"""What the posterior of a variational autoencoder is worth: the same small model with each, on MNIST.

    python benchmarks/vae.py --data mnist --out vae.jsonl
    python benchmarks/vae.py --frey frey_rawface.mat --out frey.jsonl

``--data`` is a folder with the four idx files. Everything but the posterior is the same: dense encoder and decoder, steps,
rates, seeds, warm-up of the KL term; every flow has four steps. Images are binarized anew in every step, test images once.
For each posterior and seed one line of JSON: negative ELBO of all test images (five draws each), importance-weighted
negative log-likelihood of the first ones with its standard error, active units, and CPU seconds of training; at the end a
table of means over the seeds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import bijectory as bj
from bijectory.apps.images import read_images
from bijectory.apps.vae import VAE, build_vae
from bijectory.objectives import BinarizedData, NegativeElbo
from bijectory.training import Anneal, Data

POSTERIORS = {
    "diagonal": {},
    "planar": {"layers": 4},
    "sylvester": {"layers": 4, "kind": "orthogonal", "rank": 8},
    "iaf": {"layers": 4, "hidden": (100,)},
    "nsf": {"layers": 4, "hidden": (64,)},
}
DRAWS = 5


def mnist(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensities of the training images, and binary test images, the same in every call."""
    train, test = (
        torch.from_numpy(read_images(folder / f"{name}-images-idx3-ubyte.gz").images).float().unsqueeze(1) / 255
        for name in ("train", "t10k")
    )
    return train, torch.bernoulli(test, generator=torch.Generator().manual_seed(1))


def frey(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels of training and test images, 1,565 and 400 as usual."""
    if path.suffix == ".mat":
        from scipy.io import loadmat

        x = torch.from_numpy(loadmat(path)["ff"].T.astype(np.float32)).reshape(-1, 1, 28, 20)
    else:
        x = torch.from_numpy(read_images(path).images.astype(np.float32)).unsqueeze(1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    return x[:-400], x[-400:]


def run(
    name: str, seed: int, train: torch.Tensor, test: torch.Tensor, options: argparse.Namespace
) -> dict[str, object]:
    """Train one model and measure it."""
    torch.manual_seed(seed)
    pixels = {"likelihood": "logistic", "levels": 256} if options.frey else {"likelihood": "bernoulli"}
    args = {"hidden": (options.width,) * 2, "latent": options.latent, **pixels}
    vae = build_vae(train.shape[1:], posterior=name, posterior_args=POSTERIORS[name], **args)
    objective = NegativeElbo()
    loss = objective if options.frey else BinarizedData(objective)
    held_out = len(train) // 12
    steps = -(-(len(train) - held_out) // options.batch_size) * options.epochs
    config = bj.FitConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        clip_norm=50.0,
        patience=None,
        seed=seed,
        progress=False,
    )
    data = Data(train[:-held_out], x_val=train[-held_out:])
    began = time.process_time()
    result = bj.fit(vae, data, objective=loss, config=config, callbacks=[Anneal(objective, steps=steps // 5)])
    seconds = time.process_time() - began
    if result.stop_reason != "completed":
        raise SystemExit(f"{name}, seed {seed}: {result.stop_reason} after {result.steps} steps; nothing is recorded")
    return {
        "posterior": name,
        "seed": seed,
        "steps": result.steps,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "cpu_seconds": round(seconds, 1),
        "best_epoch": result.best_epoch,
        **measure(vae, test, options),
    }


@torch.no_grad()
def measure(vae: VAE, test: torch.Tensor, options: argparse.Namespace) -> dict[str, float]:
    """Negative ELBO of all test images, negative log-likelihood of some, active units."""
    generator = torch.Generator().manual_seed(2)
    terms = [vae.elbo(x, samples=DRAWS, generator=generator) for x in test.split(250)]
    bound, kl = (torch.cat([t[k] for t in terms]).double() for k in (0, 2))
    few = test[: options.subset]
    iw = vae.log_likelihood(few, samples=options.samples, seed=3)
    return {
        "negative_elbo": round(-float(bound.mean()), 4),
        "kl": round(float(kl.mean()), 3),
        "negative_elbo_subset": round(-float(bound[: options.subset].mean()), 4),
        "iw_nll_subset": round(-iw.mean, 4),
        "iw_monte_carlo_error": round(iw.monte_carlo_error, 4),
        "iw_standard_error": round(iw.standard_error, 3),
        "median_ess": round(float(iw.ess.median()), 1),
        "active_units": vae.active_units(test[:1000], 64).count,
    }


def table(rows: list[dict]) -> str:
    """Means and ranges over the seeds, in the order of the posteriors."""
    lines = [
        "| posterior | parameters | -ELBO | IW-NLL (subset) | gap | active | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in POSTERIORS:
        found = [r for r in rows if r["posterior"] == name]
        if found:
            elbo, nll = ([r[key] for r in found] for key in ("negative_elbo", "iw_nll_subset"))
            gap = statistics.mean(r["negative_elbo_subset"] - r["iw_nll_subset"] for r in found)
            active = "/".join(str(r["active_units"]) for r in found)
            seconds = statistics.mean(r["cpu_seconds"] for r in found)
            cells = [
                name,
                f"{found[0]['parameters']:,}",
                spread(elbo),
                spread(nll),
                f"{gap:.2f}",
                active,
                f"{seconds:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean, lowest and highest."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the idx files of MNIST")
    parser.add_argument("--frey", type=Path, help="the Frey faces: frey_rawface.mat, .npy or .npz")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines; what is in it is not run again")
    parser.add_argument("--posteriors", default=",".join(POSTERIORS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=200, help="of the two hidden layers of both networks")
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--subset", type=int, default=250, help="test images for the log-likelihood")
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    if (options.data is None) == (options.frey is None):
        parser.error("give --data or --frey")
    torch.set_num_threads(1)
    train, test = frey(options.frey) if options.frey else mnist(options.data)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for seed in range(options.seeds):
        for name in options.posteriors.split(","):
            if not any((r["posterior"], r["seed"]) == (name, seed) for r in rows):
                rows.append(run(name, seed, train, test, options))
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
