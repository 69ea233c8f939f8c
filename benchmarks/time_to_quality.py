"""Time to quality on POWER: seconds of training until held-out rows are as likely as zuko's NSF makes them in a budget.

    python benchmarks/power.py prepare --raw power_raw_int.npz --work power/
    python benchmarks/time_to_quality.py zuko      --work power/ --seconds 600    # in an environment with the peers
    python benchmarks/time_to_quality.py flowjax   --work power/ --seconds 600
    python benchmarks/time_to_quality.py bijectory --work power/ --seconds 600    # in an environment with bijectory
    python benchmarks/time_to_quality.py table     --work power/

zuko goes first: the best mean log-likelihood of the 20,000 held-out rows that it reaches within the budget is the target,
and the others stop where they pass it. All train on the same rows in batches of 512 at a constant rate of 1e-3, and look at
the held-out rows after the same numbers of steps. The clocks (wall and CPU of the process) start before the model is built
or compiled, and stand still while held-out rows are scored. Bijectory runs ``fit`` with ``compile="always"``; its kernels
come from the user's cache if they are there (an empty folder in ``BIJECTORY_CACHE_DIR`` has them compiled on the clock).

zuko's target is soon passed; ``--target`` sets another, such as what flowjax reaches in its budget (``--target 9``).

Each writes ``quality-NAME.json`` with its curve; ``table`` writes ``quality.json`` and ``quality.md``.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from power import VALIDATION_ROWS, fj_non_trainable

BATCH, RATE, LONGEST = 512, 1e-3, 5.0
CHUNK = 4096


class Clock:
    """Wall and CPU seconds of training, and the curve that they make with the held-out likelihood.

    Args:
        o: Options of the command.
        target: Nats that end the run, or None.
    """

    def __init__(self, o: argparse.Namespace, target: float | None) -> None:
        self.budget, self.every, self.target = o.seconds, o.every, target
        self.curve: list[dict[str, float]] = []
        self.wall = self.cpu = 0.0
        self.start()

    def start(self) -> None:
        self.since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall += time.perf_counter() - self.since[0]
        self.cpu += time.process_time() - self.since[1]

    def after_step(self, step: int, held_out: Callable[[], float]) -> bool:
        """Look at the held-out rows if it is time, and at the clock; whether to stop."""
        late = self.wall + time.perf_counter() - self.since[0] >= self.budget
        if step % self.every and not late:
            return False
        self.stop()
        nats = held_out()
        self.curve.append({"step": step, "wall": self.wall, "cpu": self.cpu, "nats": nats})
        print(f"step {step}: {self.wall:.1f} s, {self.cpu:.1f} s of CPU, {nats:.4f} nats", flush=True)
        self.start()
        return late or (self.target is not None and nats >= self.target)


def rows(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows."""
    x = np.load(work / "train.npy")
    held = min(VALIDATION_ROWS, len(x) // 10)
    return x[:-held], x[-held:]


def bijectory(o: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    import torch

    import bijectory as bj

    train, held = (torch.from_numpy(part) for part in rows(o.work))

    class Watch(bj.Callback):
        def on_step(self, run: Any) -> bool:
            def held_out() -> float:
                run.model.eval()
                with torch.no_grad(), run.averaged():
                    found = torch.cat([run.model.log_prob(b) for b in held.split(CHUNK)]).double().mean().item()
                run.model.train()
                return found

            return clock.after_step(run.step, held_out)

    clock.start()
    torch.manual_seed(o.seed)
    flow = getattr(bj, o.recipe)(6)
    config = bj.FitConfig(
        epochs=10**6, batch_size=BATCH, lr=RATE, schedule="constant", clip_norm=LONGEST, ema_decay=o.ema, patience=None,
        validation_fraction=0.0, seed=o.seed, progress=False, compile="always",
    )  # fmt: skip
    bj.fit(flow, train, config=config, callbacks=[Watch()])
    average = "" if o.ema is None else f", averaged weights ({o.ema:g})"
    parameters = sum(p.numel() for p in flow.parameters())
    return {"model": f"bijectory {o.recipe}(6){average}", "parameters": parameters, "version": bj.__version__}


def zuko(o: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    import torch
    import zuko as z

    train, held = (torch.from_numpy(part) for part in rows(o.work))
    clock.start()
    torch.manual_seed(o.seed)
    flow = z.flows.NSF(6)
    optimizer = torch.optim.Adam(flow.parameters(), RATE)

    def held_out() -> float:
        with torch.no_grad():
            return torch.cat([flow().log_prob(b) for b in held.split(CHUNK)]).double().mean().item()

    step, done = 0, False
    while not done:
        loss = -flow().log_prob(train[torch.randint(len(train), (BATCH,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), LONGEST)
        optimizer.step()
        step += 1
        done = clock.after_step(step, held_out)
    return {"model": "zuko NSF(6)", "parameters": sum(p.numel() for p in flow.parameters()), "version": z.__version__}


def flowjax(o: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    import equinox as eqx
    import flowjax as fj
    import jax
    import jax.numpy as jnp
    import optax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from paramax import unwrap

    train, held = rows(o.work)
    clock.start()
    spline = RationalQuadraticSpline(knots=8, interval=5)
    flow = masked_autoregressive_flow(jax.random.key(o.seed), base_dist=Normal(jnp.zeros(6)), transformer=spline)
    trained = fj_non_trainable()
    params, static = eqx.partition(flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, trained))
    optimizer = optax.chain(optax.clip_by_global_norm(LONGEST), optax.adam(RATE))
    state = optimizer.init(params)

    def nll(params: Any, x: Any) -> Any:
        return -unwrap(eqx.combine(params, static)).log_prob(x).mean()

    @jax.jit
    def update(params: Any, state: Any, x: Any) -> Any:
        loss, gradient = jax.value_and_grad(nll)(params, x)
        change, state = optimizer.update(gradient, state, params)
        return eqx.apply_updates(params, change), state, loss

    score = jax.jit(nll)
    parts = [jnp.asarray(held[i : i + CHUNK]) for i in range(0, len(held), CHUNK)]

    def held_out() -> float:
        return -sum(float(score(params, part)) * len(part) for part in parts) / len(held)

    rng = np.random.default_rng(o.seed)
    step, done = 0, False
    while not done:
        params, state, loss = update(params, state, jnp.asarray(train[rng.integers(len(train), size=BATCH)]))
        loss.block_until_ready()  # of a step that has been started only, the clock would know nothing
        step += 1
        done = clock.after_step(step, held_out)
    count = sum(x.size for x in jax.tree.leaves(params))
    return {"model": "flowjax MAF, RQ splines (8 knots)", "parameters": count, "version": fj.__version__}


CONTESTANTS = {"zuko": zuko, "flowjax": flowjax, "bijectory": bijectory}


def read(work: Path, name: str) -> dict[str, Any] | None:
    path = work / f"quality-{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def target_of(work: Path) -> float:
    """The best that zuko reached."""
    found = read(work, "zuko")
    if found is None:
        raise SystemExit(f"{work} holds no quality-zuko.json, which sets the target; run zuko first.")
    return max(point["nats"] for point in found["curve"])


def table(work: Path) -> None:
    """When each passed the target, as JSON and Markdown."""
    target = target_of(work)
    found = [(name, result) for name in CONTESTANTS if (result := read(work, name)) is not None]
    entries = []
    for name, result in found:
        passed = next((point for point in result["curve"] if point["nats"] >= target), None)
        best = max(point["nats"] for point in result["curve"])
        keys = ("model", "version", "parameters", "load")
        entries.append({"name": name, **{k: result[k] for k in keys}, "best": best, "passed": passed})
    first = entries[0]["passed"]
    summary = {"target": target, "held_out": found[0][1]["held_out"], "cores": os.cpu_count(), "results": entries}
    (work / "quality.json").write_text(json.dumps(summary | {"machine": platform.processor()}, indent=1))
    lines = [
        f"Target: {target:.4f} nats on {summary['held_out']} held-out rows, what zuko's NSF reaches in "
        f"{found[0][1]['budget']:g} s.",
        "",
        "| model | parameters | wall, s | CPU, s | steps | of zuko's wall | of zuko's CPU | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        p = e["passed"]
        cells = ["not reached", "", "", "", f"best {e['best']:.4f}"]
        if p is not None:
            shares = [f"{p[k] / first[k]:.2f}" for k in ("wall", "cpu")]
            cells = [f"{p['wall']:.1f}", f"{p['cpu']:.1f}", str(p["step"]), *shares]
        lines.append(f"| {e['model']} | {e['parameters']} | {' | '.join(cells)} | {e['load']:.1f} |")
    text = "\n".join(lines) + "\n"
    (work / "quality.md").write_text(text)
    print(text, end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=[*CONTESTANTS, "table"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="at most, of training")
    parser.add_argument("--target", type=float, help="nats to stop at, instead of zuko's")
    parser.add_argument("--every", type=int, default=200, help="steps between two looks at the held-out rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="nsf", help="of bijectory")
    parser.add_argument("--ema", type=float, help="bijectory: decay of averaged weights, which are then what is scored")
    o = parser.parse_args()
    if o.what == "table":
        table(o.work)
        return
    target = target_of(o.work) if o.target is None and o.what != "zuko" else o.target
    clock = Clock(o, target)
    load = os.getloadavg()[0]
    result = CONTESTANTS[o.what](o, clock)
    result |= {"curve": clock.curve, "budget": o.seconds, "load": max(load, os.getloadavg()[0]), "seed": o.seed}
    result["held_out"] = len(rows(o.work)[1])
    (o.work / f"quality-{o.what}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
