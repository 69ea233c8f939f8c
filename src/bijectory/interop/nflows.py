r"""Weights of nflows: its coupling and masked autoregressive flows of vectors, as flows of this library.

Read are permutations, pointwise affine maps, affine, additive and rational-quadratic couplings with residual networks, and
masked affine and rational-quadratic autoregressive layers with residual blocks. What differs only by constants goes into
the last layer of a network: the division of widths and heights by the square root of its width, the offset of the knot
slopes, and the order of its rows. So a spline here is the library's own ``RationalQuadratic``.

References: nflows, Durkan, Bekasov, Murray, Papamakarios, MIT licence, version 0.14 (the layout of its state dict and the
formulas).
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from bijectory.bijections import Bijection, RationalQuadratic, Shift
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import CheckpointError, ConfigError, check
from bijectory.interop.nflows_nets import ResidualConditioner, ResidualMade
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.masked import MaskedDense
from bijectory.spec import register
from bijectory.transforms import Autoregressive, Chain, Coupling, Permutation, Standardize, Transform

State = Mapping[str, Tensor]
EPSILON = 1e-3  # nflows' least scale
FLOOR = 1e-3  # nflows' least width, height and slope of a spline


@register
@dataclasses.dataclass(frozen=True)
class SigmoidScale(Bijection):
    r"""Affine map :math:`y = x (\sigma(a + 2) + 10^{-3}) + t`, that of nflows' affine couplings.

    Example:
        >>> round(float(SigmoidScale().forward(torch.ones(1), torch.zeros(2, 1))[0]), 3)
        0.882
    """

    @property
    def n_params(self) -> int:
        return 2

    def _log_scale(self, raw: Tensor) -> Tensor:
        return torch.logaddexp(logsigmoid(raw + 2), torch.full_like(raw, math.log(EPSILON)))

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _affine(x, phi[0], self._log_scale(phi[1]))

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _affine_inverse(y, phi[0], self._log_scale(phi[1]))


@register
@dataclasses.dataclass(frozen=True)
class SoftplusScale(Bijection):
    r"""Affine map :math:`y = x (\log(1 + e^a) + 10^{-3}) + t`, that of nflows' masked affine autoregressive layers.

    Example:
        >>> round(float(SoftplusScale().forward(torch.ones(1), torch.zeros(2, 1))[0]), 3)
        0.694
    """

    @property
    def n_params(self) -> int:
        return 2

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _affine(x, phi[0], (softplus(phi[1]) + EPSILON).log())

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _affine_inverse(y, phi[0], (softplus(phi[1]) + EPSILON).log())


def _affine(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    y = x * s.exp() + t
    return y, s.expand(y.shape)


def _affine_inverse(y: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    x = (y - t) * (-s).exp()
    return x, -s.expand(x.shape)


def from_nflows(state: State, *, tail_bound: float = 1.0, activation: str = "relu") -> Flow:
    """An ``nflows.flows.Flow`` over the standard normal from its state dict; the same densities, to rounding.

    Layers, sizes and numbers of bins are read off the weights. The flow can be trained on, stored and loaded (after
    ``import bijectory.interop``).

    Args:
        state: ``flow.state_dict()``.
        tail_bound: Half width of the box of splines, as it was given to nflows (whose default is 1); splines must have
            been made with ``tails="linear"``.
        activation: Name of the activation of the networks; nflows' default is ReLU.

    Raises:
        CheckpointError: If a layer is none of those of the module's docstring, the base another, or there is an embedding.
        ConfigError: If the activation is unknown.

    Example:
        >>> from bijectory.interop import from_nflows
        >>> flow = from_nflows(peer.state_dict(), tail_bound=3.0)  # doctest: +SKIP
    """
    known = ", ".join(ACTIVATIONS)
    check(activation in ACTIVATIONS, ConfigError, f"activation {activation!r} is none of {known}.")
    rest = [k for k in state if not k.startswith("_transform.") and k != "_distribution._log_z"]
    remedy = "only flows over StandardNormal without embedding are read; pass embedded contexts to the flow."
    check(not rest, CheckpointError, f"{', '.join(rest[:3])}: {remedy}")
    layers, features = _layers(dict(state), "_transform.", tail_bound, activation), _features(state)
    check(bool(layers), CheckpointError, "the state holds no transforms (keys _transform.*).")
    dtype = next(v.dtype for v in state.values() if v.is_floating_point())
    return Flow(Chain(*layers), StandardNormal(features)).to(dtype=dtype)


def _features(state: State) -> int:
    for key, value in state.items():
        if key.endswith("._permutation"):
            return len(value)
        if key.endswith(".identity_features"):
            return len(value) + len(state[key.replace("identity", "transform")])
        if key.endswith(".autoregressive_net.initial_layer.weight"):
            return value.shape[1]
    raise CheckpointError("the state holds no coupling, autoregressive layer or permutation of vectors.")


def _layers(state: State, prefix: str, bound: float, activation: str) -> list[Transform]:
    """The layers of a transform: its own, or those of its parts in order."""
    parts = [re.match(re.escape(prefix) + r"_transforms\.(\d+)\.", key) for key in state]
    numbers = sorted({int(m[1]) for m in parts if m})
    if numbers:
        # A layer without weights or buffers leaves no trace in a state dict, so none may be missing from the numbers.
        whole = numbers == list(range(numbers[-1] + 1))
        check(whole, CheckpointError, f"{prefix}: layers {numbers} have weights, others do not; they cannot be read.")
        return [layer for k in numbers for layer in _layers(state, f"{prefix}_transforms.{k}.", bound, activation)]
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if set(own) == {"_permutation"}:
        return [Permutation(own["_permutation"].tolist())]
    if set(own) == {"_shift", "_scale"}:
        features = _features(state)
        shift, scale = (own[k].double().expand(features) for k in ("_shift", "_scale"))
        return [Standardize(features, -shift / scale, 1 / scale)]
    if "transform_net.initial_layer.weight" in own and not any(k.startswith("unconditional") for k in own):
        return [_coupling(own, prefix, bound, activation)]
    if "autoregressive_net.initial_layer.weight" in own:
        return [_autoregressive(own, prefix, bound, activation)]
    raise CheckpointError(f"{prefix}: a layer with {', '.join(sorted(own)[:3])} is not read; see from_nflows.")


def _family(n_params: int, affine: Bijection, bound: float, name: str) -> Bijection:
    if n_params == 1:
        return Shift()
    if n_params == 2:
        return affine
    spline = n_params >= 5 and n_params % 3 == 2
    remedy = "neither affine nor a rational-quadratic spline with linear tails"
    check(spline, CheckpointError, f"{name}: {n_params} parameters for each feature are {remedy}.")
    return RationalQuadratic((n_params + 1) // 3, bound, min_bin=FLOOR, min_slope=FLOOR)


def _coupling(own: State, name: str, bound: float, activation: str) -> Coupling:
    kept, moved = own["identity_features"], own["transform_features"]
    net = {k.removeprefix("transform_net."): v for k, v in own.items() if k.startswith("transform_net.")}
    hidden, width = net["initial_layer.weight"].shape
    blocks, context = _blocks(net, name), width - len(kept)
    n_params, rest = divmod(len(net["final_layer.bias"]), len(moved))
    check(rest == 0, CheckpointError, f"{name}: the outputs do not fit {len(moved)} features.")
    family = _family(n_params, SigmoidScale(), bound, name)
    made = ResidualConditioner(len(kept), n_params * len(moved), hidden, blocks, context, activation)
    made.to(dtype=net["final_layer.weight"].dtype)
    spline = isinstance(family, RationalQuadratic)
    # Splines are feature-major, affine couplings plane-major, shifts first.
    rows = _by_plane(len(moved), n_params) if spline else torch.arange(n_params * len(moved))
    with torch.no_grad():
        _copy(made.initial, net, "initial_layer")
        for k, block in enumerate(made.steps):
            _copy(block.first, net, f"blocks.{k}.linear_layers.0")  # type: ignore[arg-type]
            _copy(block.second, net, f"blocks.{k}.linear_layers.1")  # type: ignore[arg-type]
            if context:
                _copy(block.gate, net, f"blocks.{k}.context_layer")  # type: ignore[arg-type]
        weight, bias = net["final_layer.weight"][rows], net["final_layer.bias"][rows]
        if spline:
            weight, bias = _native(weight, bias, family.bins, len(moved), math.sqrt(hidden))  # type: ignore[attr-defined]
        made.final.weight.copy_(weight)
        made.final.bias.copy_(bias)
    mask = torch.ones(len(kept) + len(moved), dtype=torch.bool)
    mask[moved] = False
    return Coupling(family, mask.tolist(), context, (hidden,), made)


def _autoregressive(own: State, name: str, bound: float, activation: str) -> Autoregressive:
    net = {k.removeprefix("autoregressive_net."): v for k, v in own.items()}
    units, features = net["initial_layer.weight"].shape
    context = net["context_layer.weight"].shape[1] if "context_layer.weight" in net else 0
    blocks = _blocks(net, name)
    n_params = len(net["final_layer.bias"]) // features
    family = _family(n_params, SoftplusScale(), bound, name)
    made = ResidualMade(features, n_params, units, blocks, context, activation)
    made.to(dtype=net["final_layer.weight"].dtype)
    rows = _by_plane(features, n_params)
    spline = isinstance(family, RationalQuadratic)
    if n_params == 2:  # scales come first there, shifts here
        rows = rows.reshape(2, features).flip(0).flatten()
    with torch.no_grad():
        _copy(made.initial, net, "initial_layer")
        pairs = zip(made.first, made.second, strict=True)
        for k, (first, second) in enumerate(pairs):
            _copy(first, net, f"blocks.{k}.linear_layers.0")  # type: ignore[arg-type]
            _copy(second, net, f"blocks.{k}.linear_layers.1")  # type: ignore[arg-type]
        for k, side in enumerate(made.sides):
            _copy(side, net, f"blocks.{k - 1}.context_layer" if k else "context_layer")  # type: ignore[arg-type]
        masked = torch.equal(net["final_layer.mask"][rows].bool(), made.final._mask.bool())
        check(masked, CheckpointError, f"{name}: its masks are random or in another order; these are not read.")
        weight, bias = net["final_layer.weight"][rows], net["final_layer.bias"][rows]
        if spline:  # without the division: the networks of nflows' autoregressive layers do not tell their width
            weight, bias = _native(weight, bias, family.bins, features, 1.0)  # type: ignore[attr-defined]
        made.final.weight.copy_(weight)
        made.final.bias.copy_(bias)  # type: ignore[union-attr]
    return Autoregressive(family, features, context, net=made)  # type: ignore[arg-type]


def _blocks(net: State, name: str) -> int:
    found = {m[1] for m in (re.match(r"blocks\.(\d+)\.", k) for k in net) if m}
    plain = all(f"blocks.{k}.linear_layers.1.weight" in net for k in found) and not any("batch_norm" in k for k in net)
    remedy = "only residual blocks without batch norm are read"
    check(plain, CheckpointError, f"{name}: {remedy} (use_residual_blocks=True, use_batch_norm=False).")
    return len(found)


def _by_plane(features: int, n_params: int) -> Tensor:
    """Rows ``f * P + p`` in the order ``p * features + f``."""
    return torch.arange(features * n_params).reshape(features, n_params).T.flatten()


def _native(weight: Tensor, bias: Tensor, bins: int, features: int, divisor: float) -> tuple[Tensor, Tensor]:
    """Plane-major rows of a spline whose widths and heights are divided, and whose slopes have no offset."""
    cut = 2 * bins * features
    scale = torch.ones_like(bias)
    scale[:cut] /= divisor
    offset = torch.zeros_like(bias)
    offset[cut:] = math.log(math.expm1(1 - FLOOR))
    return weight * scale[:, None], bias * scale - offset


def _copy(layer: nn.Linear | MaskedDense, state: State, key: str) -> None:
    if isinstance(layer, MaskedDense):
        same = torch.equal(state[f"{key}.mask"].bool(), layer._mask.bool())
        check(same, CheckpointError, f"{key}: its mask is random or of another order; these are not read.")
    layer.weight.copy_(state[f"{key}.weight"])
    if layer.bias is not None:
        layer.bias.copy_(state[f"{key}.bias"])
