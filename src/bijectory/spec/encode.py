"""From a live object to its specification."""

import inspect
import math
import numbers
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.errors import CheckpointError, check
from bijectory.spec.layers import TORCH_LAYERS
from bijectory.spec.registry import class_name

MAX_ELEMENTS = 2**16  # of one tensor argument: larger ones belong into a parameter or a buffer


def to_spec(obj: object) -> Any:
    """Specification of ``obj`` as JSON-able data.

    Args:
        obj: A flow, transform, density, network, bijection, or plain value.

    Raises:
        CheckpointError: If a part cannot be stored; the message names it, its place and the remedy.

    Example:
        >>> from bijectory import Affine
        >>> to_spec(Affine(2.0))
        {'$class': 'Affine', 'args': {'max_log_scale': 2.0}}
    """
    try:
        return _Encoder().encode(obj, "")
    except RecursionError as error:
        raise CheckpointError("the model is nested too deeply to be stored; use a flat Chain.") from error


def at(path: str) -> str:
    """A place in the composition, for people."""
    return path.lstrip(".") or "the model itself"


class _Encoder:
    def __init__(self) -> None:
        self.nodes: dict[int, dict[str, Any]] = {}  # id(module) -> its node
        self.open: set[int] = set()
        self.shared = 0

    def encode(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            number = float(value)
            return number if math.isfinite(number) else {"$float": repr(number)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.Size):
            return {"$size": list(value)}
        if type(value) is tuple:
            return {"$tuple": self._items(value, path)}
        if type(value) is list or type(value) in (nn.ModuleList, nn.ParameterList):
            return self._items(value, path)
        if type(value) in (dict, nn.ModuleDict):
            return self._dict(dict(value.items()), path)
        return self._part(value, path)

    def _items(self, values: Any, path: str) -> list[Any]:
        return [self.encode(v, f"{path}[{i}]") for i, v in enumerate(values)]

    def _dict(self, values: dict[Any, Any], path: str) -> dict[str, Any]:
        if all(isinstance(k, str) and not k.startswith("$") for k in values):
            return {k: self.encode(v, f"{path}[{k!r}]") for k, v in values.items()}
        pairs = [[self.encode(k, f"{path} (a key)"), self.encode(v, f"{path}[{k!r}]")] for k, v in values.items()]
        return {"$dict": pairs}

    def _tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        if value.numel() > MAX_ELEMENTS or value.is_complex() or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f"{at(path)}: a {value.dtype} tensor of shape {tuple(value.shape)} cannot be a stored argument (at most "
                f"{MAX_ELEMENTS} real, dense elements); keep it as a parameter or buffer and its shape as the argument."
            )
        flat = [self.encode(v, path) for v in value.detach().cpu().reshape(-1).tolist()]
        return {"$tensor": {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "data": flat}}

    def _part(self, value: Any, path: str) -> dict[str, Any]:
        key = id(value)
        check(key not in self.open, CheckpointError, f"{at(path)}: a {type(value).__name__} contains itself.")
        if key in self.nodes:
            node = self.nodes[key]
            if "id" not in node:
                node["id"], self.shared = self.shared, self.shared + 1
            return {"$ref": node["id"]}
        name, arguments = self._arguments(value, path)
        node = {"$class": name, "args": {}}
        if isinstance(value, nn.Module):  # formulas are equal by value; only modules have an identity to keep
            self.nodes[key] = node
        self.open.add(key)
        node["args"] = {k: self.encode(v, f"{path}.{k}") for k, v in arguments.items()}
        self.open.remove(key)
        return node

    def _arguments(self, value: Any, path: str) -> tuple[str, dict[str, Any]]:
        cls = type(value)
        name = class_name(cls)
        if name is None:
            layer = TORCH_LAYERS.get(f"torch.nn.{cls.__name__}")
            if layer is not None and layer.cls is cls:
                return f"torch.nn.{cls.__name__}", layer.read(value)
            what = f"{value!r}" if inspect.isroutine(value) else f"a {cls.__module__}.{cls.__qualname__}"
            raise CheckpointError(
                f"{at(path)}: {what} cannot be stored; use a part of the library, or decorate a class "
                "of your own with @bijectory.register."
            )
        arguments = {}
        for parameter in inspect.signature(cls).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                raise CheckpointError(f"{at(path)}: {name} takes **{parameter.name}; name its arguments to store it.")
            if not hasattr(value, parameter.name):
                raise CheckpointError(
                    f"{at(path)}: {name} does not keep its argument {parameter.name!r}; set self.{parameter.name} in "
                    "__init__."
                )
            arguments[parameter.name] = getattr(value, parameter.name)
        return name, arguments
