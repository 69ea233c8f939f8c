"""Dense layers whose output ``i`` increases in input ``i``."""

import math

import torch
from torch import Tensor, nn

from bijectory.nets.freezable import Freezable
from bijectory.ops.blocks import positive_blocks


class BlockDense(Freezable):
    """Affine layer with a block triangular, weight-normalised weight and positive diagonal blocks.

    Args:
        features: Number of blocks a side.
        inputs: Inputs of a feature.
        outputs: Outputs of a feature.
        gain: Multiplies the initial weights.

    References:
        Block Neural Autoregressive Flow, De Cao, Titov, Aziz 2019, arXiv:1904.04676, eq. 8-9 and section 3.3.

    Example:
        >>> weight, log_diagonal = BlockDense(3, 1, 4).matrix()
        >>> weight.shape, log_diagonal.shape, bool((weight[:4, 1:] == 0).all())
        (torch.Size([12, 3]), torch.Size([3, 4, 1]), True)
    """

    precomputed = ("_weight", "_log_diagonal")
    _weight: Tensor | None
    _log_diagonal: Tensor | None

    def __init__(self, features: int, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.features, self.inputs, self.outputs, self.gain = features, inputs, outputs, gain
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(features * outputs, features * inputs).uniform_(-bound, bound))
        # Rows of norm gain / sqrt(inputs), about the average of a feature's inputs, so that slopes are about the gain.
        self.log_scale = nn.Parameter(torch.full((features * outputs,), math.log(gain) - 0.5 * math.log(inputs)))
        self.bias = nn.Parameter(torch.empty(features * outputs).uniform_(-1, 1))
        self.register_buffer("_weight", None, persistent=False)  # set by freeze
        self.register_buffer("_log_diagonal", None, persistent=False)

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The weight ``(features * outputs, features * inputs)`` and the logarithms of its diagonal blocks."""
        if self._weight is None or self._log_diagonal is None:
            return positive_blocks(self.weight, self.log_scale, self.features)
        return self._weight, self._log_diagonal

    def precompute(self) -> None:
        """Mask, exponentiate and normalise the weight."""
        with torch.no_grad():
            self._weight, self._log_diagonal = positive_blocks(self.weight, self.log_scale, self.features)
