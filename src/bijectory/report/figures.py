"""Figures of a report; drawn without a display and without touching the caller's matplotlib state."""

import io
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from bijectory.report.content import Content, scores

DATA, MODEL, QUIET = "#1f4e79", "#d9822b", "#8a8f98"
MAX_CORNER, MAX_QQ, MAX_POINTS = 6, 12, 3000


def learning_curves(content: Content) -> Figure:
    """Training and validation log-likelihood by epoch; of another objective than the likelihood, its loss."""
    figure, ax = new_figure(6.4, 3.2)
    likelihood = content.objective == "nll"
    sign = -1 if likelihood else 1
    epochs = [h["epoch"] for h in content.history]
    for key, color, label in (("train_loss", QUIET, "training"), ("val_loss", MODEL, "validation")):
        values = [h.get(key) for h in content.history]
        if any(v is not None for v in values):
            ax.plot(
                epochs, [np.nan if v is None else sign * v for v in values], color=color, label=label, marker=".", ms=4
            )
    ax.set(xlabel="epoch", ylabel="log-likelihood, nats a row" if likelihood else f"loss: {content.objective}")
    ax.legend(frameon=False)
    return figure


def likelihoods(content: Content) -> Figure:
    """Mean held-out log-likelihood with its interval, next to the baselines."""
    rows = scores(content)[::-1]
    figure, ax = new_figure(6.4, 0.5 + 0.42 * len(rows))
    for i, row in enumerate(rows):
        color = MODEL if row.name == "this flow" else QUIET
        ax.errorbar(row.nats, i, xerr=[[row.nats - row.low], [row.high - row.nats]], fmt="o", color=color, capsize=3)
    ax.set_yticks(range(len(rows)), [r.name for r in rows])
    ax.set(xlabel="held-out nats a row, with 95 % interval", ylim=(-0.6, len(rows) - 0.4))
    return figure


def corner(content: Content) -> Figure:
    """Held-out rows against draws, column by column and pair by pair."""
    d = min(len(content.columns), MAX_CORNER)
    x, y = content.heldout[:MAX_POINTS, :d], content.samples[:MAX_POINTS, :d]
    figure = _blank(1.7 * d + 0.6, 1.7 * d + 0.4)
    axes = figure.subplots(d, d, squeeze=False)
    limits = [np.quantile(np.concatenate((x[:, j], y[:, j])), (0.002, 0.998)) for j in range(d)]
    for i in range(d):
        for j in range(d):
            ax = axes[i, j]
            ax.set_visible(j <= i)
            if j < i:
                for points, color in ((x, DATA), (y, MODEL)):
                    ax.plot(points[:, j], points[:, i], ".", ms=1.2, alpha=0.35, color=color, rasterized=True)
                _limit(ax.set_ylim, limits[i])
            elif j == i:
                low, high = limits[j]
                bins = np.linspace(low, high if high > low else low + 1, 41).tolist()
                for points, color, label in ((x, DATA, "held-out rows"), (y, MODEL, "samples")):
                    ax.hist(points[:, j], bins=bins, density=True, histtype="step", color=color, label=label)
                ax.set_yticks([])
            _limit(ax.set_xlim, limits[j])
            _label(ax, content.columns[j] if i == d - 1 else "", content.columns[i] if j == 0 and i > 0 else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", frameon=False)
    return figure


def latent_qq(content: Content) -> Figure:
    """Quantiles of each latent of the held-out rows against the standard normal."""
    d = min(content.latents.shape[1], MAX_QQ)
    columns = min(d, 4)
    rows = -(-d // columns)
    figure = _blank(1.9 * columns + 0.4, 1.9 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for j, ax in enumerate(axes):
        ax.set_visible(j < d)
        if j < d:
            z = np.sort(content.latents[:, j])
            q = stats.norm.ppf((np.arange(len(z)) + 0.5) / len(z))
            keep = np.unique(np.linspace(0, len(z) - 1, min(len(z), 500)).astype(int))
            ax.plot([-4, 4], [-4, 4], color=QUIET, lw=0.8)
            ax.plot(q[keep], z[keep], ".", ms=2.5, color=MODEL)
            ax.set(xlim=(-4, 4), ylim=(-4.5, 4.5), title=f"latent {j}")
            ax.title.set_fontsize(8)
    return figure


def likelihood_histogram(content: Content) -> Figure:
    """Log-likelihood of held-out rows against that of the model's own draws."""
    figure, ax = new_figure(6.4, 3.0)
    both = np.concatenate((content.log_prob, content.sample_log_prob))
    both = both[np.isfinite(both)]
    low, high = np.quantile(both, (0.005, 1.0)) if len(both) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 61).tolist()
    for values, color, label in (
        (content.log_prob, DATA, "held-out rows"),
        (content.sample_log_prob, MODEL, "samples"),
    ):
        ax.hist(values[np.isfinite(values)], bins=bins, density=True, histtype="step", color=color, label=label)
    ax.set(xlabel="log-likelihood, nats", ylabel="density")
    ax.legend(frameon=False, loc="upper left")
    return figure


FIGURES: dict[str, tuple[str, Callable[[Content], Figure]]] = {
    "likelihoods": ("Held-out log-likelihood against classical densities", likelihoods),
    "learning": ("Learning curves", learning_curves),
    "corner": ("Held-out rows against samples", corner),
    "histogram": ("How typical held-out rows are", likelihood_histogram),
    "latent_qq": ("Latents of held-out rows against the standard normal", latent_qq),
}


def to_png(figure: Figure) -> bytes:
    """Render a figure to PNG bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": "bijectory"})
    return buffer.getvalue()


def _blank(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes."""
    figure = _blank(width, height)
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _limit(set_limit: Callable[[float, float], object], limits: np.ndarray) -> None:
    if limits[1] > limits[0]:
        set_limit(float(limits[0]), float(limits[1]))


def _label(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=6, labelbottom=bool(x), labelleft=bool(y))
