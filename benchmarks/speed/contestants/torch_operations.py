"""What all contestants on PyTorch share: how an operation is called and how a training step is taken."""

import copy
from collections.abc import Callable

import torch

from . import event_shape


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of one size for all velocities: rows of norm about 1, so that the flow bends and solvers have work."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / (p.shape[-1] ** 0.5 if p.dim() > 1 else 10.0))
    return model


class TorchContestant:
    """A model with operations; subclasses say how their library spells them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = self.evaluation = model
        self.parameters = sum(p.numel() for p in model.parameters())

    def operation(self, name: str, batch: int, features: int):
        x = torch.randn(batch, *event_shape(features), generator=torch.Generator().manual_seed(1))
        if name in ("train", "variational"):
            # A copy, so that a thousand timed steps do not change what the other operations see.
            model = self.training(self.clone(self.model).train())
            forget, move = self.optimizer(list(model.parameters()))

            def step():
                forget()
                if name == "train":
                    loss = -self.log_prob(model, x).mean()
                else:
                    draws, log_q = self.sample_log_prob(model, batch)
                    loss = (log_q + 0.5 * draws.square().flatten(1).sum(-1)).mean()
                loss.backward()
                move()

            return step
        call = {
            "log_prob": lambda: self.log_prob(self.evaluation, x),
            "sample": lambda: self.sample(self.evaluation, batch),
            "sample_log_prob": lambda: self.sample_log_prob(self.evaluation, batch),
        }[name]

        def run():
            with torch.no_grad():
                return call()

        return run

    def clone(self, model: torch.nn.Module) -> torch.nn.Module:
        """A copy with weights of its own."""
        return copy.deepcopy(model)

    def training(self, model: torch.nn.Module) -> torch.nn.Module:
        """The copy that is trained, made ready."""
        return model

    def optimizer(self, params: list[torch.nn.Parameter]) -> tuple[Callable[[], object], Callable[[], object]]:
        """What drops the gradients of Adam and what takes its step: as the libraries' own examples have it."""
        adam = torch.optim.Adam(params, 1e-4)
        return adam.zero_grad, adam.step

    def fine(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as its own reference; solvers are set to far more accuracy."""
        return model

    def error(self, features: int) -> float:
        """Largest difference of log_prob between float32 and the same weights in float64."""
        x = torch.randn(
            256 if features < 1000 else 8, *event_shape(features), generator=torch.Generator().manual_seed(2)
        )
        with torch.no_grad():
            narrow = self.log_prob(self.evaluation, x).double()
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                wide = self.log_prob(self.fine(self.clone(self.model).double()), x.double())
            finally:
                torch.set_default_dtype(default)
        return float((narrow - wide).abs().max())
