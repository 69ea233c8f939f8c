"""What all contestants on PyTorch share: how an operation is called and how a training step is taken."""

import copy

import torch


class TorchContestant:
    """A model with operations; subclasses say how their library spells them."""

    fused = False  # Adam as the library's own examples use it

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = self.evaluation = model
        self.parameters = sum(p.numel() for p in model.parameters())

    def operation(self, name: str, batch: int, features: int):
        x = torch.randn(batch, features, generator=torch.Generator().manual_seed(1))
        if name == "train":
            # A copy, so that a thousand timed steps do not change what the other operations see.
            model = copy.deepcopy(self.model).train()
            optimizer = torch.optim.Adam(model.parameters(), 1e-4, **({"fused": True} if self.fused else {}))

            def step():
                loss = -self.log_prob(model, x).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

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

    def error(self, features: int) -> float:
        """Largest difference of log_prob between float32 and the same weights in float64."""
        x = torch.randn(256, features, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            narrow = self.log_prob(self.evaluation, x).double()
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                wide = self.log_prob(copy.deepcopy(self.model).double(), x.double())
            finally:
                torch.set_default_dtype(default)
        return float((narrow - wide).abs().max())
