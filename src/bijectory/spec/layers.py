"""The layers of ``torch.nn`` that a specification may contain, with their constructor arguments.

``torch.nn`` keeps most arguments as attributes; the exceptions (``bias`` is a tensor or None, ``Sequential`` names its
children) are why this is an explicit table.
"""

import dataclasses
from collections import OrderedDict
from typing import Any

from torch import nn


@dataclasses.dataclass(frozen=True)
class Layer:
    """How one class of ``torch.nn`` is stored.

    Attributes:
        cls: The class.
        names: Constructor arguments that are kept as attributes.
        bias: Whether there is an argument ``bias: bool`` whose attribute is a tensor or None.
    """

    cls: type[nn.Module]
    names: tuple[str, ...] = ()
    bias: bool = False

    def read(self, module: nn.Module) -> dict[str, Any]:
        """Constructor arguments of a live layer."""
        if self.cls is nn.Sequential:
            return {"modules": dict(module.named_children())}
        arguments = {n: getattr(module, n) for n in self.names}
        return arguments | ({"bias": module.bias is not None} if self.bias else {})

    def build(self, arguments: dict[str, Any]) -> nn.Module:
        """The layer, from its arguments."""
        if self.cls is nn.Sequential:
            return nn.Sequential(OrderedDict(arguments["modules"]))
        unknown = arguments.keys() - {*self.names, *(("bias",) if self.bias else ())}
        if unknown:
            raise TypeError(f"{self.cls.__name__} has no argument {sorted(unknown)[0]!r}")
        return self.cls(**arguments)


_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_POOL = ("kernel_size", "stride", "padding")
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")

_LAYERS = (
    Layer(nn.Linear, ("in_features", "out_features"), bias=True),
    Layer(nn.Bilinear, ("in1_features", "in2_features", "out_features"), bias=True),
    Layer(nn.Conv1d, _CONV, bias=True),
    Layer(nn.Conv2d, _CONV, bias=True),
    Layer(nn.Conv3d, _CONV, bias=True),
    Layer(nn.Embedding, ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type")),
    Layer(nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine"), bias=True),
    Layer(nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    Layer(nn.BatchNorm1d, _NORM),
    Layer(nn.BatchNorm2d, _NORM),
    Layer(nn.Dropout, ("p", "inplace")),
    Layer(nn.Flatten, ("start_dim", "end_dim")),
    Layer(nn.Unflatten, ("dim", "unflattened_size")),
    Layer(nn.MaxPool1d, _POOL),
    Layer(nn.MaxPool2d, _POOL),
    Layer(nn.AvgPool1d, _POOL),
    Layer(nn.AvgPool2d, _POOL),
    Layer(nn.AdaptiveAvgPool1d, ("output_size",)),
    Layer(nn.AdaptiveAvgPool2d, ("output_size",)),
    Layer(nn.Identity),
    Layer(nn.ReLU, ("inplace",)),
    Layer(nn.LeakyReLU, ("negative_slope", "inplace")),
    Layer(nn.ELU, ("alpha", "inplace")),
    Layer(nn.SELU, ("inplace",)),
    Layer(nn.CELU, ("alpha", "inplace")),
    Layer(nn.SiLU, ("inplace",)),
    Layer(nn.Mish, ("inplace",)),
    Layer(nn.GELU, ("approximate",)),
    Layer(nn.PReLU, ("num_parameters",)),
    Layer(nn.Softplus, ("beta", "threshold")),
    Layer(nn.Softmax, ("dim",)),
    Layer(nn.Tanh),
    Layer(nn.Sigmoid),
    Layer(nn.Sequential),
)

TORCH_LAYERS: dict[str, Layer] = {f"torch.nn.{layer.cls.__name__}": layer for layer in _LAYERS}
