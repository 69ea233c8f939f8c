"""POWER for a fixed wall time: the default ``bijectory fit`` against zuko's NSF and flowjax's spline MAF.

Every contestant sees the same training rows (train + validation of the split of Papamakarios, Pavlakou and Murray 2017,
arXiv:1705.07057), trains for the same number of seconds, and is scored on the same 204,928 test rows. Peers run their
defaults in a plain loop: Adam at 1e-3, batches of 512, gradient norm clipped at 5 where the library has no guard of its own,
the weights of the best of ten validation passes. Bijectory runs its command line, nothing tuned.

Data: the UCI set "Individual household electric power consumption" (Hebrail and Berard 2012, CC BY 4.0), as
``power_raw_int.npz`` with integer columns ``gap_W, grp_W, volt_cV, gi_dA, sm1, sm2, sm3, minute`` (complete rows, in order).

    python benchmarks/power.py prepare --raw power_raw_int.npz --work power/
    python benchmarks/power.py bijectory --work power/ --seconds 600      # in an environment with bijectory
    python benchmarks/power.py zuko      --work power/ --seconds 600      # in an environment with the peers
    python benchmarks/power.py flowjax   --work power/ --seconds 600
    python benchmarks/power.py table     --work power/
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

COLUMNS = ["active", "voltage", "sub1", "sub2", "sub3", "minute"]
VALIDATION_ROWS = 20_000


def prepare(raw: Path, work: Path) -> None:
    z = np.load(raw)
    names = {"gap_W": 1000, "grp_W": 1000, "volt_cV": 100, "gi_dA": 10, "sm1": 1, "sm2": 1, "sm3": 1, "minute": 1}
    data = np.column_stack([z[k] / scale for k, scale in names.items()])
    rng = np.random.RandomState(42)  # the legacy generator, so that the shuffle is the published one
    rng.shuffle(data)
    n = len(data)
    data = np.delete(data, [1, 3], axis=1)
    volt, gap, sub = 0.01 * rng.rand(n, 1), 0.001 * rng.rand(n, 1), rng.rand(n, 3)
    data = data + np.hstack([gap, volt, sub, np.zeros((n, 1))])
    rest, test = data[: -(n // 10)], data[-(n // 10) :]
    train, val = rest[: -(len(rest) // 10)], rest[-(len(rest) // 10) :]
    mean, sd = rest.mean(0), rest.std(0)
    work.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", np.vstack((train, val))), ("test", test)):
        scaled = ((part - mean) / sd).astype(np.float32)
        np.save(work / f"{name}.npy", scaled)
        np.savetxt(work / f"{name}.csv", scaled, delimiter=",", header=",".join(COLUMNS), comments="", fmt="%.9g")
        print(name, scaled.shape)


def bijectory(work: Path, seconds: float, extra: list[str]) -> dict:
    run = work / "run-bijectory"
    command = [sys.executable, "-m", "bijectory", "fit", str(work / "train.csv"), "--out", str(run), "--overwrite"]
    start = time.time()
    subprocess.run([*command, "--time-budget", f"{seconds:g}s", *extra], check=True)
    wall = time.time() - start
    scores = work / "scores.csv"
    subprocess.run(
        [sys.executable, "-m", "bijectory", "score", str(run), str(work / "test.csv"), "-o", str(scores)], check=True
    )
    lp = np.genfromtxt(scores, delimiter=",", names=True)["log_prob"]
    return {"model": "bijectory fit (defaults)", "wall": wall, **summary(lp)}


def zuko(work: Path, seconds: float, extra: list[str]) -> dict:
    import torch
    import zuko as z

    torch.manual_seed(0)
    train = torch.from_numpy(np.load(work / "train.npy"))
    train, val = train[:-VALIDATION_ROWS], train[-VALIDATION_ROWS:]
    flow = z.flows.NSF(6)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    best, best_state, steps, marks = float("inf"), None, 0, list(np.linspace(0.1, 1.0, 10) * seconds)
    start = time.time()
    while marks:
        batch = train[torch.randint(len(train), (512,))]
        loss = -flow().log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        steps += 1
        if time.time() - start > marks[0]:
            marks.pop(0)
            with torch.no_grad():
                nll = -torch.cat([flow().log_prob(b) for b in val.split(4096)]).mean().item()
            print(f"zuko {time.time() - start:.0f}s step {steps} val {-nll:.4f}", flush=True)
            if nll < best:
                best, best_state = nll, {k: v.clone() for k, v in flow.state_dict().items()}
    wall = time.time() - start
    flow.load_state_dict(best_state)
    test = torch.from_numpy(np.load(work / "test.npy"))
    with torch.no_grad():
        lp = torch.cat([flow().log_prob(b) for b in test.split(4096)]).double().numpy()
    return {"model": f"zuko {z.__version__} NSF(6)", "wall": wall, "steps": steps, **summary(lp)}


def flowjax(work: Path, seconds: float, extra: list[str]) -> dict:
    import equinox as eqx
    import flowjax as fj
    import jax
    import jax.numpy as jnp
    import optax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    train = np.load(work / "train.npy")
    train, val = train[:-VALIDATION_ROWS], jnp.asarray(train[-VALIDATION_ROWS:])
    flow = masked_autoregressive_flow(
        jax.random.key(0), base_dist=Normal(jnp.zeros(6)), transformer=RationalQuadraticSpline(knots=8, interval=5)
    )
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, fj_non_trainable())
    )
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(1e-3))
    state = optimizer.init(params)

    def nll(params, x):
        from paramax import unwrap

        return -unwrap(eqx.combine(params, static)).log_prob(x).mean()

    @jax.jit
    def step(params, state, x):
        loss, grad = jax.value_and_grad(nll)(params, x)
        update, state = optimizer.update(grad, state, params)
        return eqx.apply_updates(params, update), state, loss

    evaluate = jax.jit(nll)
    rng = np.random.default_rng(0)
    best, best_params, steps, marks = float("inf"), params, 0, list(np.linspace(0.1, 1.0, 10) * seconds)
    start = time.time()
    while marks:
        params, state, loss = step(params, state, jnp.asarray(train[rng.integers(len(train), size=512)]))
        steps += 1
        if steps % 50 == 0:
            loss.block_until_ready()
        if time.time() - start > marks[0]:
            marks.pop(0)
            value = float(evaluate(params, val))
            print(f"flowjax {time.time() - start:.0f}s step {steps} val {-value:.4f}", flush=True)
            if value < best:
                best, best_params = value, params
    wall = time.time() - start
    from paramax import unwrap

    score = jax.jit(lambda p, x: unwrap(eqx.combine(p, static)).log_prob(x))
    test = np.load(work / "test.npy")
    lp = np.concatenate([np.asarray(score(best_params, jnp.asarray(b))) for b in np.array_split(test, 50)]).astype(
        float
    )
    name = f"flowjax {fj.__version__} masked_autoregressive_flow, RQ splines (8 knots)"
    return {"model": name, "wall": wall, "steps": steps, **summary(lp)}


def fj_non_trainable() -> type:
    from paramax import NonTrainable

    return NonTrainable


def summary(lp: np.ndarray) -> dict:
    return {"test_nats": float(lp.mean()), "standard_error": float(lp.std() / len(lp) ** 0.5), "rows": len(lp)}


def table(work: Path) -> None:
    rows = [json.loads(p.read_text()) for p in sorted(work.glob("result-*.json"))]
    print(f"{'model':70s} {'test nats':>10s} {'s.e.':>7s} {'wall s':>7s}")
    for r in sorted(rows, key=lambda r: -r["test_nats"]):
        print(f"{r['model']:70s} {r['test_nats']:10.4f} {r['standard_error']:7.4f} {r['wall']:7.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["prepare", "bijectory", "zuko", "flowjax", "table"])
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    args, extra = parser.parse_known_args()
    if args.what == "prepare":
        prepare(args.raw, args.work)
    elif args.what == "table":
        table(args.work)
    else:
        result = {"bijectory": bijectory, "zuko": zuko, "flowjax": flowjax}[args.what](args.work, args.seconds, extra)
        result["cores"] = os.cpu_count()
        (args.work / f"result-{args.what}.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result))


if __name__ == "__main__":
    main()
