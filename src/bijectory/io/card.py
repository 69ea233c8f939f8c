"""The model card: what a stored model is, for the person who finds the folder."""

import importlib
import itertools
from typing import Any

import torch
from torch import nn

from bijectory.io.fs import grouped, size
from bijectory.recipes import RECIPES
from bijectory.spec import to_spec


def describe(model: nn.Module) -> str:
    """One line about the structure of a model, equal neighbours counted.

    Args:
        model: A flow or another storable part.

    Raises:
        CheckpointError: If a part cannot be stored.

    Example:
        >>> from bijectory import real_nvp
        >>> describe(real_nvp(4, layers=8))
        'Flow(8 × Coupling(Affine) → StandardNormal)'
    """
    return _label(to_spec(model))


def _label(node: Any) -> str:
    name, arguments = node.get("$class", "shared"), node.get("args", {})
    if name == "Chain":
        groups = itertools.groupby(_label(t) for t in arguments["transforms"])
        counted = [(label, len(list(group))) for label, group in groups]
        return " → ".join(f"{n} × {label}" if n > 1 else label for label, n in counted) or "identity"
    if name == "Flow":
        return f"Flow({_label(arguments['transform'])} → {_label(arguments['base'])})"
    inner = arguments.get("bijection") or arguments.get("transform") or arguments.get("flow")
    return f"{name}({_label(inner)})" if isinstance(inner, dict) else name.removeprefix("torch.nn.")


def model_card(model: nn.Module, metadata: dict[str, Any] | None = None, *, name: str = "run") -> str:
    """Markdown text of a model card (``README.md`` of a run folder).

    Args:
        model: The flow.
        metadata: What is known beyond the model. ``recipe`` names the recipe; a value that is itself a dict becomes a table
            under its key (``{"held out": {"log-likelihood [nats]": 1.25}}``); plain values join the first table.
        name: Folder that the loading example shows.

    Raises:
        CheckpointError: If a part cannot be stored.

    Example:
        >>> from bijectory import real_nvp
        >>> model_card(real_nvp(4), {"recipe": "real_nvp"}).splitlines()[0]
        '# real_nvp'
    """
    metadata = dict(metadata or {})
    recipe = RECIPES.get(str(metadata.pop("recipe", "")))
    context = getattr(model, "context", 0)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    tensors = model.state_dict().values()
    facts = {
        "recipe": f"`{recipe.name}`: {recipe.summary} {recipe.paper}, {recipe.year}" if recipe else None,
        "structure": describe(model),
        "event shape": tuple(getattr(model, "event_shape", ())) or None,
        "context": f"{context} features" if context else "none",
        "parameters": grouped(sum(p.numel() for p in model.parameters())),
        "dtype": ", ".join(dtypes) or "none",
        "size": size(sum(t.numel() * t.element_size() for t in tensors)),
        "written by": f"bijectory {importlib.import_module('bijectory').__version__}, torch {torch.__version__}",
    }
    tables = {key: metadata.pop(key) for key in list(metadata) if isinstance(metadata[key], dict)}
    given = "c" if context else ""
    kind = "an exact density" if getattr(model, "exact", True) else "a bound on the probability"
    return "\n".join(
        [
            f"# {recipe.name if recipe else type(model).__name__}",
            "",
            f"A normalizing flow: {kind} p(x{' | c' if context else ''}) that can be evaluated and sampled.",
            "",
            _table({**{k: v for k, v in facts.items() if v is not None}, **metadata}),
            *(f"## {_cell(title)}\n\n{_table(rows)}" for title, rows in tables.items()),
            "## Use it",
            "",
            "```python",
            "import bijectory",
            f'flow = bijectory.load("{name}")',
            f"flow.log_prob(x{', c' if given else ''}), flow.sample(10{', c' if given else ''})",
            "```",
            "",
            "Nothing in this folder can execute: `config.json` is data, `model.safetensors` holds tensors.",
            "",
        ]
    )


def _table(rows: dict[str, Any]) -> str:
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
