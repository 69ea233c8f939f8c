"""From a specification to a fresh object."""

import inspect
from typing import Any

import torch

from bijectory.errors import CheckpointError, check
from bijectory.spec.encode import MAX_ELEMENTS, at
from bijectory.spec.layers import TORCH_LAYERS
from bijectory.spec.registry import find_class

MAX_DEPTH = 500  # nesting of the JSON; a library part takes three or four levels
MAX_PARTS = 100_000  # parts, those reached through references counted each time


def from_spec(spec: Any, *, max_int: int | None = None) -> Any:
    """Build the object of a specification, with fresh weights.

    Args:
        spec: What ``to_spec`` returned, possibly after a trip through JSON.
        max_int: Refuse larger integers (``seed`` excepted): a guard for files of unknown origin.

    Raises:
        CheckpointError: If the specification is malformed, names an unknown class, or a constructor refuses.

    Example:
        >>> from_spec({"$class": "Affine", "args": {"max_log_scale": 2.0}})
        Affine(max_log_scale=2.0)
    """
    try:
        return _Decoder(max_int).decode(spec, "", 0)
    except RecursionError as error:
        raise CheckpointError("the specification is nested too deeply.") from error


class _Decoder:
    def __init__(self, max_int: int | None) -> None:
        self.max_int = max_int
        self.shared: dict[int, tuple[Any, int]] = {}  # id -> (object, number of parts in it)
        self.parts = 0

    def decode(self, value: Any, path: str, depth: int) -> Any:
        check(depth <= MAX_DEPTH, CheckpointError, f"the specification is nested deeper than {MAX_DEPTH} levels.")
        if value is None or isinstance(value, bool | str | float):
            return value
        if isinstance(value, int):
            return self._int(value, path)
        if isinstance(value, list):
            return [self.decode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
        check(isinstance(value, dict), CheckpointError, f"{at(path)}: {type(value).__name__} is not JSON.")
        if "$class" in value:
            return self._part(value, path, depth)
        if not any(str(k).startswith("$") for k in value):
            return {k: self.decode(v, f"{path}[{k!r}]", depth + 1) for k, v in value.items()}
        check(len(value) == 1, CheckpointError, f"{at(path)}: malformed value with keys {_short(sorted(value))}.")
        ((tag, content),) = value.items()
        try:
            return self._tagged(tag, content, path, depth)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{at(path)}: malformed value {_short(value)} ({error}).") from error

    def _int(self, value: int, path: str) -> int:
        if self.max_int is not None and abs(value) > self.max_int and not path.endswith(".seed"):
            raise CheckpointError(f"{at(path)}: {_short(value)} is out of proportion to the stored weights.")
        return value

    def _tagged(self, tag: str, content: Any, path: str, depth: int) -> Any:
        match tag:
            case "$tuple" | "$size" if isinstance(content, list):
                items = self.decode(content, path, depth + 1)
                return tuple(items) if tag == "$tuple" else torch.Size(items)
            case "$float" if content in ("inf", "-inf", "nan"):
                return float(content)
            case "$dtype":
                return self._dtype(content, path)
            case "$dict":
                return {self.decode(k, path, depth + 1): self.decode(v, path, depth + 1) for k, v in content}
            case "$ref" if content in self.shared:
                obj, parts = self.shared[content]
                self._count(parts)
                return obj
            case "$tensor":
                check(len(content["data"]) <= MAX_ELEMENTS, CheckpointError, f"{at(path)}: the tensor is too large.")
                flat = [self.decode(v, path, depth + 1) for v in content["data"]]
                dtype = self._dtype(content["dtype"], path)
                return torch.tensor(flat, dtype=dtype).reshape(content["shape"])
        raise CheckpointError(f"{at(path)}: malformed value {_short({tag: content})}.")

    def _dtype(self, name: Any, path: str) -> torch.dtype:
        dtype = getattr(torch, name, None) if isinstance(name, str) and name.isidentifier() else None
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"{at(path)}: {_short(name)} is not a dtype.")
        return dtype

    def _part(self, node: dict[str, Any], path: str, depth: int) -> Any:
        before = self.parts
        self._count(1)
        name: Any = node["$class"]
        arguments: Any = node.get("args")
        check(
            isinstance(arguments, dict) and node.keys() <= {"$class", "args", "id"} and type(node.get("id", 0)) is int,
            CheckpointError,
            f"{at(path)}: malformed part with keys {_short(sorted(node))}.",
        )
        layer = TORCH_LAYERS.get(name) if isinstance(name, str) else None
        cls = layer.cls if layer else find_class(name) if isinstance(name, str) else None
        if cls is None:
            raise CheckpointError(
                f"{at(path)}: unknown class {_short(name)}; import the module that registers it with @bijectory.register "
                "first, or update bijectory."
            )
        values = {k: self.decode(v, f"{path}.{k}", depth + 3) for k, v in arguments.items()}
        try:
            obj = layer.build(values) if layer else _construct(cls, values)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{at(path)}: {name} cannot be built from the specification: {error}") from error
        if "id" in node:
            self.shared[node["id"]] = (obj, self.parts - before)
        return obj

    def _count(self, parts: int) -> None:
        self.parts += parts
        check(self.parts <= MAX_PARTS, CheckpointError, f"the specification has more than {MAX_PARTS} parts.")


def _construct(cls: type, values: dict[str, Any]) -> Any:
    parameters = inspect.signature(cls).parameters
    unknown = [k for k in values if k not in parameters]
    check(not unknown, CheckpointError, f"{cls.__name__} has no argument {', '.join(map(_short, unknown))}.")
    positional: list[Any] = []
    for p in parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            positional += values.pop(p.name, ())
        elif p.kind is p.POSITIONAL_ONLY and p.name in values:
            positional.append(values.pop(p.name))
    return cls(*positional, **values)


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
