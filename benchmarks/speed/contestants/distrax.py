"""distrax under jit: split couplings with a perceptron written out in JAX, which it leaves to its users."""

import itertools

import distrax
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from . import BINS, BOUND, COUPLINGS, HIDDEN


def network(key, inputs: int, outputs: int) -> list:
    widths = (inputs, *HIDDEN, outputs)
    keys = jr.split(key, len(widths) - 1)
    bound = [(n, m, 1 / n**0.5) for n, m in itertools.pairwise(widths)]
    return [
        (jr.uniform(k, (n, m), minval=-b, maxval=b), jnp.zeros(m)) for k, (n, m, b) in zip(keys, bound, strict=True)
    ]


def apply(params: list, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


class Contestant:
    def __init__(self, family: str, features: int) -> None:
        if family not in ("real_nvp", "nsf_coupling"):
            raise LookupError(family)  # distrax has no autoregressive bijector
        self.family, self.features = family, features
        # Its splines have slopes at the two ends of the box too, which "identity" ignores.
        self.planes = 2 if family == "real_nvp" else 3 * BINS + 1
        half, keys = features // 2, jr.split(jr.key(0), COUPLINGS)
        kept = [half if k % 2 == 0 else features - half for k in range(COUPLINGS)]
        self.params = [network(keys[k], n, self.planes * (features - n)) for k, n in enumerate(kept)]
        self.parameters = sum(a.size for a in jax.tree.leaves(self.params))

    def scalar(self, raw):
        if self.family == "real_nvp":
            return distrax.ScalarAffine(shift=raw[..., 0], log_scale=3 * jnp.tanh(raw[..., 1] / 3))
        return distrax.RationalQuadraticSpline(raw, -BOUND, BOUND, boundary_slopes="identity")

    def distribution(self, params: list):
        half = self.features // 2
        layers = [
            distrax.SplitCoupling(
                half,
                1,
                lambda x, p=p: apply(p, x).reshape(*x.shape[:-1], -1, self.planes),
                self.scalar,
                swap=bool(k % 2),
            )
            for k, p in enumerate(params)
        ]
        base = distrax.MultivariateNormalDiag(jnp.zeros(self.features), jnp.ones(self.features))
        # Its chain runs right to left; the inverse makes log_prob take the forward direction of every spline, as ours does.
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain(layers[::-1])))

    def operation(self, name: str, batch: int, features: int):
        x, key = jr.normal(jr.key(1), (batch, features)), jr.key(2)
        if name == "train":
            optimizer = optax.adam(1e-4)

            @jax.jit
            def step(params, state):
                grads = jax.grad(lambda p: -self.distribution(p).log_prob(x).mean())(params)
                updates, state = optimizer.update(grads, state)
                return optax.apply_updates(params, updates), state

            self.state = (self.params, optimizer.init(self.params))

            def run():
                self.state = jax.block_until_ready(step(*self.state))

            return run
        call = {
            "log_prob": lambda p: self.distribution(p).log_prob(x),
            "sample": lambda p: self.distribution(p).sample(seed=key, sample_shape=(batch,)),
            "sample_log_prob": lambda p: self.distribution(p).sample_and_log_prob(seed=key, sample_shape=(batch,)),
        }[name]
        compiled = jax.jit(call)
        return lambda: jax.block_until_ready(compiled(self.params))

    def error(self, features: int) -> float:
        x = jr.normal(jr.key(3), (256, features))
        narrow = self.distribution(self.params).log_prob(x)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda a: a.astype(jnp.float64), self.params)
            wide = self.distribution(params).log_prob(jnp.asarray(x, jnp.float64))
            return float(jnp.abs(wide - narrow).max())


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features)
