"""From images or rows to a variational autoencoder: look, split, train, measure."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn

from bijectory.apps.images.fit import KEPT_BYTES, look, seeded, split_images, thin
from bijectory.apps.images.schema import Layout
from bijectory.apps.kind import SCHEMA
from bijectory.apps.tabular import SPLITS
from bijectory.apps.vae.build import Net, build_vae
from bijectory.apps.vae.likelihoods import LIKELIHOODS
from bijectory.apps.vae.run import PARTS, VaeModel
from bijectory.apps.vae.schema import Binarize, VaeSchema, find_rows
from bijectory.densities import Density
from bijectory.errors import ConfigError, DataError, check
from bijectory.io.fs import atomic_write
from bijectory.objectives import BinarizedData, NegativeElbo
from bijectory.spec import to_spec
from bijectory.tables import Split
from bijectory.tables.split import split_rows
from bijectory.training import Anneal, Callback, Data, FitConfig, FitResult, fit
from bijectory.training.evaluate import quietly

if TYPE_CHECKING:
    from bijectory.apps.vae.model import VAE
    from bijectory.training.state import Run

WATCHED, SCORED, WEIGHTED = 500, 2000, 200  # events for the history of terms, for bounds and for log-likelihoods
SAMPLES = 1000
WARM_UP_STEPS = 2000  # of the KL term, at most; and at most a fifth of the run


@dataclasses.dataclass(frozen=True)
class VaeFit:
    """What came out of ``fit_vae``.

    Attributes:
        model: The autoencoder with its data layout.
        result: What the training loop says. Its losses are negative bounds in nats per event; each record of its history
            has "reconstruction" and "kl" too, of held-out events.
        split: Numbers of the images or rows in the three parts.
        data: All images or rows, as they were given.
        scores: For each part "elbo", "reconstruction", "kl", their number and the standard error of the first; for the
            last part held out also "log_likelihood" of some events, its standard error and the median effective draws.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 2, (300, 4, 4))
        >>> config = FitConfig(epochs=2, progress=False)
        >>> fitted = fit_vae(images, latent=2, posterior="planar", hidden=(8,), config=config)
        >>> fitted.model, sorted(fitted.scores), sorted(fitted.result.history[0])[:3]
        (VaeModel(1 x 4 x 4, latent 2), ['test', 'train', 'validation'], ['epoch', 'kl', 'lr'])
    """

    model: VaeModel
    result: FitResult
    split: Split
    data: np.ndarray
    scores: dict[str, dict[str, float]]

    @property
    def vae(self) -> "VAE":
        """The model of events."""
        return self.model.vae

    @property
    def test(self) -> np.ndarray:
        """Images or rows that training never saw."""
        return self.data[self.split.test]


class ElboHistory(Callback):
    """Adds the terms of the bound to each record of the history: "reconstruction" and "kl", at weights as validated.

    Args:
        x: Events, some held-out ones.
        binarize: Whether they are intensities, to be binarized (always in the same way).
        seed: Of the draws.

    Example:
        >>> ElboHistory(torch.zeros(5, 3)).x.shape
        torch.Size([5, 3])
    """

    def __init__(self, x: Tensor, *, binarize: bool = False, seed: int = 0) -> None:
        self.x, self.binarize, self.seed = x, binarize, seed

    def on_epoch(self, run: "Run", record: dict[str, float]) -> None:
        """Measure."""
        with quietly(run.model, self.seed), run.averaged():
            x = torch.bernoulli(self.x) if self.binarize else self.x
            _, reconstruction, kl = run.model.elbo(x)  # type: ignore[operator]  # a VAE
            record |= {"reconstruction": float(reconstruction.mean()), "kl": float(kl.mean())}


def vae_config(rows: int, **changes: Any) -> FitConfig:
    """Settings of training that suit a number of images or rows: batches of 64, of 128 from 20,000 on."""
    defaults: dict[str, Any] = {"batch_size": 64 if rows < 20_000 else 128, "clip_norm": 50.0}
    return FitConfig(**{**defaults, **changes})


def fit_vae(
    data: Any,
    *,
    latent: int = 32,
    posterior: str | Density = "diagonal",
    posterior_args: Mapping[str, Any] | None = None,
    likelihood: str | None = None,
    net: Net = "dense",
    hidden: Sequence[int] = (300, 300),
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    prior: str | Density | None = None,
    prior_args: Mapping[str, Any] | None = None,
    binarize: Binarize = "no",
    levels: int | None = None,
    layout: Layout | None = None,
    warm_up: int | None = None,
    free_bits: float = 0.0,
    samples: int = 1,
    test_fraction: float = 0.1,
    config: FitConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> VaeFit:
    """Fit a variational autoencoder to images with whole-number pixels, or to rows of numbers.

    Events are split by content into training, validation (``config.validation_fraction``) and test parts. Rows are
    standardised; their log-likelihoods are given in the units of the data.

    Args:
        data: Images as for ``fit_images``, or rows ``(n, columns)`` (an array or a data frame of numbers).
        latent: Width of the latent.
        posterior: "diagonal", "planar", "sylvester", "iaf", "real_nvp", "nsf", "cnf", or a conditional density.
        posterior_args: Arguments of a posterior given by name, see ``amortized_posterior``.
        likelihood: None: "bernoulli" for two levels or binarized images, "logistic" for others, "gaussian" for rows.
        net: "dense", or "gated" (convolutions for images).
        hidden: See ``build_vae``.
        encoder: A module of your own, see ``VAE``.
        decoder: A module of your own.
        prior: None for the standard normal, a recipe's name, or a density.
        prior_args: Arguments of a recipe.
        binarize: "dynamic" or "threshold" for grey images as binary ones, see ``VaeSchema``.
        levels: Number of levels of a pixel; None looks.
        layout: As for ``fit_images``.
        warm_up: Steps in which the weight of the KL term rises to 1; None for a fifth of the run, at most 2000; 0 for none.
        free_bits: Nats of the KL term that cost nothing.
        samples: Draws of the posterior in training.
        test_fraction: Part that training never sees.
        config: Settings of training; None for ``vae_config``.
        dtype: Precision of training and of the model.
        device: Where to train.
        out: Run folder for model, schema, metrics and checkpoints; None writes nothing.
        resume: Go on from the last checkpoint in ``out``.
        callbacks: Watchers of the training loop.

    Raises:
        DataError, DomainError, NonFiniteError: If the data cannot be used; the remedy is named.
        ConfigError: On contradictory arguments or unknown names.
        CheckpointError: If ``out`` is given and a network of your own cannot be stored.

    Example:
        >>> fit_vae(np.zeros((20, 4, 4), dtype=int) + np.arange(20)[:, None, None], likelihood="bernoulli")
        Traceback (most recent call last):
        ...
        bijectory.errors.ConfigError: the bernoulli likelihood takes two levels, the images have 20; pass binarize=...
    """
    check(0 <= test_fraction < 1, ConfigError, f"test_fraction={test_fraction} must be in [0, 1).")
    check(warm_up is None or warm_up >= 0, ConfigError, f"warm_up must not be negative, got {warm_up}.")
    array, schema = _look(data, binarize, levels, layout)
    likelihood = _likelihood(likelihood, schema)
    settings = config or vae_config(len(array))
    settings = settings.replace(out=out if out is not None else settings.out, resume=resume or settings.resume)
    with seeded(settings.seed):
        vae = build_vae(
            schema.event_shape,
            latent=latent,
            posterior=posterior,
            posterior_args=posterior_args,
            likelihood=likelihood,
            net=net,
            hidden=hidden,
            encoder=encoder,
            decoder=decoder,
            prior=prior,
            prior_args=prior_args,
            levels=schema.levels,
        ).to(device=device, dtype=dtype)
    split, schema = _split(array, schema, settings, test_fraction)
    if not len(split.validation):
        settings = settings.replace(validation_fraction=0.0)
    model = VaeModel(vae, schema)
    shown = array if schema.images is None else schema.images.decode(array)
    if settings.out is not None:
        to_spec(vae)  # a network that cannot be stored is refused before the training
        _store(settings.out, array, schema, split)

    def part(index: np.ndarray) -> Tensor:
        return model.tensor(schema.intensities(shown[index]))

    objective = NegativeElbo(free_bits=free_bits, samples=samples)
    dynamic = binarize == "dynamic"
    held = split.validation if len(split.validation) else split.train
    watchers: list[Callback] = [ElboHistory(part(held[:WATCHED]), binarize=dynamic, seed=settings.seed)]
    steps = _warm_up(warm_up, settings, len(split.train))
    if steps:
        watchers.append(Anneal(objective, steps=steps))
    given = Data(part(split.train), x_val=part(split.validation) if len(split.validation) else None)
    loss = BinarizedData(objective) if dynamic else objective  # type: ignore[arg-type]
    result = fit(vae, given, objective=loss, config=settings, callbacks=[*watchers, *callbacks])  # type: ignore[arg-type]
    vae.cpu()
    scores = {} if result.stop_reason == "non_finite" else _scores(model, shown, split, settings.seed)
    if settings.out is not None and result.stop_reason != "non_finite":
        facts = {
            "posterior": posterior if isinstance(posterior, str) else type(posterior).__name__,
            "prior": "standard normal" if prior is None else prior if isinstance(prior, str) else type(prior).__name__,
            "likelihood": likelihood,
            "latent": latent,
            "binarize": binarize,
            "stop_reason": result.stop_reason,
            "best_epoch": result.best_epoch,
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "scores": scores,
            "history": result.history,
        }
        model.save(settings.out, metadata=facts)
    return VaeFit(model, result, split, shown, scores)


def _look(data: Any, binarize: Binarize, levels: int | None, layout: Layout | None) -> tuple[np.ndarray, VaeSchema]:
    known = ("no", "dynamic", "threshold")
    check(binarize in known, ConfigError, f"binarize={binarize!r}; use one of {', '.join(known)}.")
    shape = np.shape(data)
    if len(shape) != 2:
        array, images, _ = look(data, None, levels, layout)
        grey = binarize == "no" or images.levels > 2
        check(grey, ConfigError, f"binarize={binarize!r}, but the images are binary already; leave it out.")
        return array, VaeSchema(images=images, binarize=binarize, rows=len(array))
    odd = binarize == "no" and levels is None and layout is None
    check(odd, ConfigError, f"binarize, levels and layout are for images; the data are rows of shape {shape}.")
    rows = find_rows(data)
    check(len(rows) >= 2 and rows.shape[1] >= 1, DataError, f"rows have shape {shape}; give two rows at least.")
    scale = rows.std(0)
    constant = np.flatnonzero(scale == 0)
    check(not len(constant), DataError, f"column {constant[:4].tolist()} is constant; drop it.")
    return rows, VaeSchema(loc=tuple(rows.mean(0).tolist()), scale=tuple(scale.tolist()), rows=len(rows))


def _likelihood(name: str | None, schema: VaeSchema) -> str:
    if name is None:
        return "gaussian" if schema.images is None else "bernoulli" if schema.levels == 2 else "logistic"
    check(name in LIKELIHOODS, ConfigError, f"there is no likelihood {name!r}; use one of {', '.join(LIKELIHOODS)}.")
    rows = schema.images is None
    check(not rows or name == "gaussian", ConfigError, f"rows need the gaussian likelihood, not {name!r}.")
    message = f"the bernoulli likelihood takes two levels, the images have {schema.levels}; pass binarize=..."
    check(name != "bernoulli" or schema.levels == 2, ConfigError, message)
    return name


def _split(array: np.ndarray, schema: VaeSchema, settings: FitConfig, test: float) -> tuple[Split, VaeSchema]:
    """The three parts; rows are standardised by what is trained on."""
    if schema.images is not None:
        return split_images(array, settings.validation_fraction, test, settings.seed), schema
    split = split_rows(array, validation=settings.validation_fraction, test=test, seed=settings.seed)
    train = array[split.train]
    scale = np.where(train.std(0) > 0, train.std(0), array.std(0))
    return split, schema.model_copy(update={"loc": tuple(train.mean(0).tolist()), "scale": tuple(scale.tolist())})


def _warm_up(asked: int | None, settings: FitConfig, rows: int) -> int:
    if asked is not None:
        return asked
    total = settings.total_steps(-(-rows // min(settings.batch_size, rows)))
    return WARM_UP_STEPS if total is None else min(WARM_UP_STEPS, total // 5)


def _scores(model: VaeModel, data: np.ndarray, split: Split, seed: int) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for part in PARTS:
        index = thin(getattr(split, part), SCORED)
        if len(index) > 1:
            bound, reconstruction, kl = (t.numpy() for t in model.elbo(data[index], seed=seed))
            error = float(bound.std(ddof=1) / np.sqrt(len(bound)))
            out[part] = {"events": len(index), "elbo": float(bound.mean()), "standard_error": error}
            out[part] |= {"reconstruction": float(reconstruction.mean()), "kl": float(kl.mean())}
    if out:
        last = list(out)[-1]
        found = model.log_likelihood(data[thin(getattr(split, last), WEIGHTED)], SAMPLES, seed=seed)
        out[last] |= {"log_likelihood": found.mean, "log_likelihood_error": found.standard_error}
        out[last] |= {"log_likelihood_events": len(found.ess), "median_ess": float(found.ess.median())}
    return out


def _store(out: Path, array: np.ndarray, schema: VaeSchema, split: Split) -> None:
    out.mkdir(parents=True, exist_ok=True)
    small = array.dtype if schema.images is None else np.uint8 if schema.images.levels <= 256 else np.uint16
    most = max(2, KEPT_BYTES // (int(np.prod(array.shape[1:])) * np.dtype(small).itemsize))
    parts = {p: np.ascontiguousarray(array[thin(getattr(split, p), most)].astype(small)) for p in PARTS}
    atomic_write(out / SPLITS, [to_bytes(parts)])
    schema.save(out / SCHEMA)
