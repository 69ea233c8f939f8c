"""Block neural autoregressive flow: one network, increasing in each feature, is the map."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP, BlockDense
from bijectory.ops.blocks import log_matmul, log_tanh_slope
from bijectory.ops.monotone import monotone_inverse
from bijectory.ops.precision import as_precise_as, full_precision
from bijectory.ops.scalar import where_valid
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform

Residual = Literal["gated", "plain"]
_ITERATIONS = 24  # 20 reach the last bit in float64 at weights far sharper than trained ones
_PAD = 1e-3  # of the bracket: its ends are exact, up to rounding


class BlockAutoregressive(Transform):
    r"""Block autoregressive map :math:`z = \alpha f(x) + (1 - \alpha) x` with a gate :math:`\alpha = \sigma(g)`.

    :math:`f` is a perceptron with tanh, each layer of :math:`d \times d` blocks: positive on the diagonal, free below, zero
    above. So :math:`z_i` depends on :math:`x_{\le i}`, increases in :math:`x_i`, and

    .. math::
        \frac{\partial f_i}{\partial x_i} = B^{(L)}_{ii} \prod_{\ell < L} \operatorname{diag}(1 - h_\ell^2) B^{(\ell)}_{ii}

    is a product of positive matrices, computed in logarithms. As :math:`f` is bounded, only the residual makes the map
    reach the whole space: there is no variant without one.

    The inverse goes feature by feature, each a bracketed root. Blocks that read known features are evaluated once; a root
    takes 26 evaluations of one feature's diagonal blocks, :math:`d` times smaller than the network. NaN in the event
    that a root is not reached. It starts as no special map: :math:`f` is a random network with slopes about one.

    Args:
        features: Number of features.
        context: Width of the context, which a perceptron turns into an offset for every unit; 0 for none.
        units: Units of a feature in each hidden layer, at least one layer.
        residual: "gated", or "plain" for :math:`z = f(x) + x`.
        hidden: Hidden widths of the context's network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features * (sum(units) + 1))``, layer by layer.

    Raises:
        ConfigError: On a number below 1, no hidden layer, or an unknown residual.

    References:
        Block Neural Autoregressive Flow, De Cao, Titov, Aziz 2019, arXiv:1904.04676, section 3.

    Example:
        >>> z, ladj = BlockAutoregressive(3)(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    solver = "bracketed root"

    def __init__(
        self,
        features: int,
        context: int = 0,
        units: Sequence[int] = (32,),
        residual: Residual = "gated",
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        ok = len(units) >= 1 and all(n >= 1 for n in units)
        check(ok, ConfigError, f"units must hold at least one number, each at least 1, got {tuple(units)}.")
        check(residual in get_args(Residual), ConfigError, f"residual must be gated or plain, got {residual!r}.")
        self.features, self.context, self.units, self.residual = features, context, tuple(units), residual
        self.hidden = tuple(hidden)
        self.layers = nn.ModuleList(
            BlockDense(features, i, o, nn.init.calculate_gain("tanh") if k else 1.0)
            for k, (i, o) in enumerate(itertools.pairwise((1, *units, 1)))
        )
        self.gate = nn.Parameter(torch.zeros(())) if residual == "gated" else None
        self.net = (net or MLP(0, features * (sum(units) + 1), hidden, context)) if context else None

    def _dense(self) -> list[BlockDense]:
        return list(self.layers)  # type: ignore[arg-type]

    def _mix(self) -> tuple[Tensor, Tensor]:
        """Logarithms of the weights of ``f(x)`` and ``x``."""
        if self.gate is None:
            zero = self._dense()[0].bias.new_zeros(())
            return zero, zero
        return nn.functional.logsigmoid(self.gate), nn.functional.logsigmoid(-self.gate)

    def _offsets(self, c: Tensor | None, batch: torch.Size) -> list[Tensor]:
        """What is added in every layer: the bias ``(d * o, 1)``, with a context ``(d * o, N)``."""
        biases = [layer.bias.unsqueeze(-1) for layer in self._dense()]
        if self.net is None or c is None:
            return biases
        raw = as_precise_as(biases[0], self.net(c[..., :0], c))
        columns = raw.expand(*batch, raw.shape[-1]).movedim(-1, 0).reshape(raw.shape[-1], math.prod(batch))
        return [b + o for b, o in zip(biases, columns.split([len(b) for b in biases]), strict=True)]

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        offsets = self._offsets(c, x.shape[:-1])
        with full_precision(x.device.type):
            return self._map(x, offsets)

    def _map(self, x: Tensor, offsets: list[Tensor]) -> tuple[Tensor, Tensor]:
        columns = x.movedim(-1, 0).reshape(self.features, -1)
        h, slope = columns, columns.new_zeros(self.features, 1, 1)
        for k, (layer, offset) in enumerate(zip(self._dense(), offsets, strict=True)):
            weight, log_diagonal = layer.matrix()
            if k:
                slope = slope + log_tanh_slope(h).unflatten(0, (self.features, -1))
                h = torch.tanh(h)
            h = torch.addmm(offset, weight, h)
            slope = log_matmul(log_diagonal, slope)
        log_f, log_x = self._mix()
        z = log_f.exp() * h + log_x.exp() * columns
        ladj = torch.logaddexp(log_f + slope.squeeze(1), log_x)
        total = ladj.sum(0, dtype=torch.promote_types(ladj.dtype, torch.float32))
        return z.reshape(self.features, *x.shape[:-1]).movedim(0, -1), total.reshape(x.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        offsets = self._offsets(c, z.shape[:-1])
        with full_precision(z.device.type):
            x = self._invert(z, offsets)
            return x, -self._map(x, offsets)[1]

    def _invert(self, z: Tensor, added: list[Tensor]) -> Tensor:
        columns = z.movedim(-1, 0).reshape(self.features, -1)
        matrices = [layer.matrix() for layer in self._dense()]
        weights = [w.unflatten(0, (self.features, -1)).unbind(0) for w, _ in matrices]
        blocks = [log_b.exp().unbind(0) for _, log_b in matrices]
        offsets = [o.unflatten(0, (self.features, -1)).unbind(0) for o in added]
        known: list[Tensor] = [columns[:0] for _ in self.layers]  # inputs of each layer, as far as features are known
        for i, z_i in enumerate(columns.unbind(0)):
            before = [
                torch.addmm(offset[i], weight[i][:, : len(h)], h)
                for offset, weight, h in zip(offsets, weights, known, strict=True)
            ]
            x_i = self._root(z_i, [b[i] for b in blocks], before)
            h = x_i.unsqueeze(0)
            for k, (block, rest) in enumerate(zip(blocks, before, strict=True)):
                known[k] = torch.cat((known[k], h))
                h = torch.tanh(torch.addmm(rest, block[i], h))
        return known[0].reshape(self.features, *z.shape[:-1]).movedim(0, -1)

    def _root(self, z: Tensor, blocks: list[Tensor], before: list[Tensor]) -> Tensor:
        """One feature ``(N,)``, given the positive blocks ``(o, i)`` and what known features add, ``(o, N)``."""
        log_f, log_x = self._mix()
        a, r = log_f.exp(), log_x.exp()

        def increasing(x: Tensor) -> Tensor:
            h = torch.addmm(before[0], blocks[0], x.unsqueeze(0))
            for block, rest in zip(blocks[1:], before[1:], strict=True):
                h = torch.addmm(rest, block, torch.tanh(h))
            return a * h.squeeze(0) + r * x

        with torch.no_grad():  # tanh is bounded, and so is f: the bracket is exact
            middle, reach = (z - a * before[-1].squeeze(0)) / r, (a / r) * blocks[-1].sum()
            reach = (1 + _PAD) * reach + 16 * torch.finfo(z.dtype).eps * (1 + middle.abs())
        x, residual = monotone_inverse(
            increasing, z, (), middle - reach, middle + reach, iterations=_ITERATIONS, expansions=0
        )
        return where_valid(residual <= torch.finfo(z.dtype).eps ** 0.75 * (1 + z.abs()), x)
