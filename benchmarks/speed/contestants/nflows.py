"""nflows: its own coupling and masked autoregressive transforms."""

import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import MLP
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    MultiscaleCompositeTransform,
    OneByOneConvolution,
    PiecewiseRationalQuadraticCouplingTransform,
    ReversePermutation,
    SqueezeTransform,
)

from . import AUTOREGRESSIVE, BINS, BOUND, CHANNELS, COUPLINGS, HIDDEN, IMAGE, PIXELS, SCALES, STEPS
from .torch_operations import TorchContestant


class Net(MLP):
    """Its plain network, which takes no context, as its coupling layers call it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__([n_in], [n_out], list(HIDDEN))

    def forward(self, inputs, context=None):
        return super().forward(inputs)


class ConvNet(torch.nn.Sequential):
    """Three convolutions, as its coupling layers call them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        inner = [torch.nn.Conv2d(n_in, CHANNELS, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(CHANNELS, CHANNELS, 1)]
        super().__init__(*inner, torch.nn.ReLU(), torch.nn.Conv2d(CHANNELS, n_out, 3, padding=1))

    def forward(self, inputs, context=None):
        return super().forward(inputs)


def glow() -> torch.nn.Module:
    core, shape = MultiscaleCompositeTransform(SCALES), IMAGE
    for _ in range(SCALES):
        squeeze = SqueezeTransform()
        channels, height, width = squeeze.get_output_shape(*shape)
        mask = torch.tensor([1 if i < channels // 2 else -1 for i in range(channels)])
        steps = [squeeze]
        for _ in range(STEPS):
            steps += [ActNorm(channels), OneByOneConvolution(channels), AffineCouplingTransform(mask, ConvNet)]
        shape = core.add_transform(CompositeTransform(steps), (channels, height, width))
    return Flow(core, StandardNormal([PIXELS]))


def model(family: str, features: int) -> torch.nn.Module:
    layers: list = []
    if family == "glow":
        return glow()
    if family in ("real_nvp", "nsf_coupling"):
        for k in range(COUPLINGS):
            mask = torch.tensor([1 if (i < features // 2) == bool(k % 2) else -1 for i in range(features)])
            if family == "real_nvp":
                layers.append(AffineCouplingTransform(mask, Net))
            else:
                layers.append(
                    PiecewiseRationalQuadraticCouplingTransform(
                        mask, Net, num_bins=BINS, tails="linear", tail_bound=BOUND
                    )
                )
    elif family in ("maf", "nsf_ar"):
        sizes = {"hidden_features": HIDDEN[0], "num_blocks": len(HIDDEN), "use_residual_blocks": False}
        for k in range(AUTOREGRESSIVE):
            if family == "maf":
                layers.append(MaskedAffineAutoregressiveTransform(features, **sizes))
            else:
                spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
                layers.append(MaskedPiecewiseRationalQuadraticAutoregressiveTransform(features, **sizes, **spline))
            if k < AUTOREGRESSIVE - 1:
                layers.append(ReversePermutation(features))
    else:
        raise LookupError(family)
    return Flow(CompositeTransform(layers), StandardNormal([features]))


class Contestant(TorchContestant):
    def log_prob(self, model, x):
        return model.log_prob(x)

    def sample(self, model, n):
        return model.sample(n)

    def sample_log_prob(self, model, n):
        return model.sample_and_log_prob(n)


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(model(family, features))
