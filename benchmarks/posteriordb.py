"""Five posteriors of posteriordb against their reference draws, with the defaults of ``fit_posterior`` and nothing tuned.

    python benchmarks/posteriordb.py --data DIR [--only arK] [--write]

``DIR`` holds ``data/*.json.zip`` and ``draws/*.json.zip`` (or ``.json``) of https://github.com/stan-dev/posteriordb: the
folders ``posterior_database/data/data`` and ``posterior_database/reference_posteriors/draws/draws``. By default
``../shared/data/posteriordb`` beside the repository. ``--write`` puts the table into docs/inference.md.

For every parameter the mean is compared in units of the reference sd, and the sds by their ratio. Importance weights are
used where they can be trusted (Pareto k within its limit), else the flow is polished by Markov chains. One thread.
"""

import argparse
import io
import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, HalfCauchy, HalfNormal, Normal

import bijectory as bj

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT.parent / "shared" / "data" / "posteriordb"
BEGIN, END = "<!-- posteriordb -->", "<!-- end -->"
MEAN_LIMIT, SD_LIMIT = 0.1, 0.1


def read(folder: Path, name: str) -> object:
    plain, packed = folder / f"{name}.json", folder / f"{name}.json.zip"
    if plain.exists():
        return json.loads(plain.read_text())
    if not packed.exists():
        raise SystemExit(f"{packed} is missing.\n\n{__doc__}")
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def array(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Model = tuple[Callable[[Tensor], Tensor], dict, Callable[[Tensor], Tensor]]


def eight_schools(data: dict) -> Model:
    y, sigma = array(data["y"]), array(data["sigma"])

    def log_density(x: Tensor) -> Tensor:
        raw, mu, tau = x[:, :8], x[:, 8], x[:, 9]
        theta = mu[:, None] + tau[:, None] * raw
        prior = Normal(0.0, 1.0).log_prob(raw).sum(-1) + Normal(0.0, 5.0).log_prob(mu) + HalfCauchy(5.0).log_prob(tau)
        return prior + Normal(theta, sigma).log_prob(y).sum(-1)

    def reference(x: Tensor) -> Tensor:  # theta, mu, tau
        return torch.cat([x[:, 8:9] + x[:, 9:10] * x[:, :8], x[:, 8:]], -1)

    return log_density, {"raw": bj.Parameter(size=8), "mu": "real", "tau": "positive"}, reference


def kidscore(data: dict) -> Model:
    y, iq = array(data["kid_score"]), array(data["mom_iq"])

    def log_density(x: Tensor) -> Tensor:
        mean = x[:, :1] + x[:, 1:2] * iq
        return Normal(mean, x[:, 2:]).log_prob(y).sum(-1) + HalfCauchy(2.5).log_prob(x[:, 2])

    return log_density, {"beta": bj.Parameter(size=2), "sigma": "positive"}, lambda x: x


def ark(data: dict) -> Model:
    y, order = array(data["y"]), data["K"]
    past = torch.stack([y[order - k : len(y) - k] for k in range(1, order + 1)])

    def log_density(x: Tensor) -> Tensor:
        mean = x[:, :1] + x[:, 1 : 1 + order] @ past
        prior = Normal(0.0, 10.0).log_prob(x[:, :-1]).sum(-1) + HalfCauchy(2.5).log_prob(x[:, -1])
        return prior + Normal(mean, x[:, -1:]).log_prob(y[order:]).sum(-1)

    return log_density, {"alpha": "real", "beta": bj.Parameter(size=order), "sigma": "positive"}, lambda x: x


def nes(data: dict) -> Model:
    age = array(data["age_discrete"])
    names = ("educ1", "gender", "income")
    columns = [torch.ones_like(age), array(data["real_ideo"]), array(data["race_adj"])]
    columns += [(age == k).double() for k in (2, 3, 4)] + [array(data[n]) for n in names]
    design, y = torch.stack(columns), array(data["partyid7"])

    def log_density(x: Tensor) -> Tensor:
        return Normal(x[:, :9] @ design, x[:, 9:]).log_prob(y).sum(-1)

    return log_density, {"beta": bj.Parameter(size=9), "sigma": "positive"}, lambda x: x


def gauss_mix(data: dict) -> Model:
    y = array(data["y"])

    def log_density(x: Tensor) -> Tensor:
        mu, sigma, theta = x[:, :2], x[:, 2:4], x[:, 4]
        parts = Normal(mu[:, :, None], sigma[:, :, None]).log_prob(y)
        weights = torch.stack([theta.log(), torch.log1p(-theta)], -1)
        likelihood = (weights[:, :, None] + parts).logsumexp(1).sum(-1)
        prior = Normal(0.0, 2.0).log_prob(mu).sum(-1) + HalfNormal(2.0).log_prob(sigma).sum(-1)
        return likelihood + prior + Beta(5.0, 5.0).log_prob(theta)

    supports = {"mu": bj.Parameter("ordered", 2), "sigma": bj.Parameter("positive", 2), "theta": (0, 1)}
    return log_density, supports, lambda x: x


MODELS = {
    "eight_schools-eight_schools_noncentered": ("eight_schools", eight_schools),
    "kidiq-kidscore_momiq": ("kidiq", kidscore),
    "arK-arK": ("arK", ark),
    "nes1980-nes": ("nes1980", nes),
    "low_dim_gauss_mix-low_dim_gauss_mix": ("low_dim_gauss_mix", gauss_mix),
}


def run(folder: Path, name: str, seed: int) -> dict:
    data, build = MODELS[name]
    log_density, parameters, reference = build(read(folder / "data", data))
    chains = read(folder / "draws", name)
    truth = np.stack([np.concatenate([chain[k] for chain in chains]) for k in chains[0]], -1)
    start = time.process_time()
    posterior = bj.fit_posterior(log_density, parameters, seed=seed, warn=False)
    fitted = time.process_time() - start
    method = "importance"
    if posterior.diagnostics.verdict == "good":
        x, w = posterior.draws.x, posterior.importance_weights().weights
    else:
        method = "chains"
        posterior = posterior.polish(seed=seed)
        x = torch.from_numpy(posterior.chains.draws).flatten(0, 1)
        w = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    x = reference(x)
    mean = (w @ x).numpy()
    sd = (w @ (x - w @ x).square()).sqrt().numpy()
    found = posterior.diagnostics
    return {
        "name": name,
        "width": posterior.parameters.width,
        "khat": found.khat,
        "ess": found.ess,
        "gap": found.free_energy + found.log_evidence,
        "log_evidence": found.log_evidence,
        "se": found.log_evidence_se,
        "method": method,
        "rhat": posterior.chains.to_dict()["max_rhat"] if posterior.chains else math.nan,
        "mean_error": float((np.abs(mean - truth.mean(0)) / truth.std(0)).max()),
        "sd_low": float((sd / truth.std(0)).min()),
        "sd_high": float((sd / truth.std(0)).max()),
        "fit_seconds": fitted,
        "seconds": time.process_time() - start,
        "steps": posterior.training["steps"],
    }


def verdict(row: dict) -> bool:
    return row["mean_error"] <= MEAN_LIMIT and row["sd_low"] >= 1 - SD_LIMIT and row["sd_high"] <= 1 + SD_LIMIT


def table(rows: list[dict]) -> str:
    lines = [
        "| posterior | d | steps | Pareto k | ESS of 8192 | KL(q, p) | log Z | by | mean error / sd | sd ratios | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r['name']}` | {r['width']} | {r['steps']} | {r['khat']:.2f} | {r['ess']:.0f} | {r['gap']:.4f} | "
        f"{r['log_evidence']:.3f} ± {r['se']:.3f} | {r['method']} | {r['mean_error']:.3f} | "
        f"{r['sd_low']:.3f} to {r['sd_high']:.3f} | {r['seconds']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--only", action="append", help="part of a name; all models by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table into docs/inference.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        if options.only and not any(part in name for part in options.only):
            continue
        rows.append(run(options.data, name, options.seed))
        print(f"{'ok  ' if verdict(rows[-1]) else 'FAIL'} {json.dumps(rows[-1])}", flush=True)
    print(table(rows))
    if options.write:
        page = ROOT / "docs" / "inference.md"
        head, rest = page.read_text().split(BEGIN)
        page.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
