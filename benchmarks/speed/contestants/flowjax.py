"""flowjax under jit; its parameters are frozen into no constant: they are arguments of the compiled function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flowjax.bijections import Affine, RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow, masked_autoregressive_flow, planar_flow
from paramax import unwrap

from . import AUTOREGRESSIVE, BINS, BOUND, COUPLINGS, HIDDEN, PLANAR


def model(family: str, features: int):
    base, key = Normal(jnp.zeros(features)), jr.key(0)
    scalar = RationalQuadraticSpline(knots=BINS, interval=BOUND) if family.startswith("nsf") else Affine()
    sizes = {"nn_width": HIDDEN[0], "nn_depth": len(HIDDEN)}
    if family in ("real_nvp", "nsf_coupling"):
        return coupling_flow(key, base_dist=base, transformer=scalar, flow_layers=COUPLINGS, **sizes)
    if family in ("maf", "nsf_ar"):
        return masked_autoregressive_flow(key, base_dist=base, transformer=scalar, flow_layers=AUTOREGRESSIVE, **sizes)
    if family == "planar":
        return planar_flow(key, base_dist=base, flow_layers=PLANAR, invert=False)
    raise LookupError(family)


class Contestant:
    def __init__(self, family: str, features: int) -> None:
        self.model, self.family = model(family, features), family
        self.parameters = sum(a.size for a in jax.tree.leaves(eqx.filter(self.model, eqx.is_inexact_array)))

    def operation(self, name: str, batch: int, features: int):
        x, key = jr.normal(jr.key(1), (batch, features)), jr.key(2)
        if self.family == "planar" and name in ("log_prob", "train"):
            raise LookupError("this direction of planar layers has no closed form")
        if name in ("train", "variational"):
            params, static = eqx.partition(self.model, eqx.is_inexact_array)
            optimizer = optax.adam(1e-4)

            @jax.jit
            def step(params, state, key):
                def loss(p):
                    flow = unwrap(eqx.combine(p, static))
                    if name == "train":
                        return -flow.log_prob(x).mean()
                    draws, log_q = flow.sample_and_log_prob(key, (batch,))
                    return (log_q + 0.5 * (draws**2).sum(-1)).mean()

                grads = jax.grad(loss)(params)
                updates, state = optimizer.update(grads, state)
                return optax.apply_updates(params, updates), state

            self.state = (params, optimizer.init(params))

            def run():
                self.state = jax.block_until_ready(step(*self.state, key))

            return run
        call = {
            "log_prob": lambda m, _: m.log_prob(x),
            "sample": lambda m, key: m.sample(key, (batch,)),
            "sample_log_prob": lambda m, key: m.sample_and_log_prob(key, (batch,)),
        }[name]
        compiled = eqx.filter_jit(call)
        # The key is an argument: draws of a constant could be folded into the program.
        return lambda: jax.block_until_ready(compiled(self.model, key))

    def error(self, features: int) -> float:
        if self.family == "planar":
            return float("nan")
        x = jr.normal(jr.key(3), (256, features))
        narrow = self.model.log_prob(x)
        with jax.enable_x64(True):
            wide_model = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, self.model)
            wide = wide_model.log_prob(jnp.asarray(x, jnp.float64))
            return float(jnp.abs(wide - narrow).max())


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features)
