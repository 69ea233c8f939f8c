r"""Several members trained in one pass: their weights are stacked, and one step moves all.

Small networks leave a processor waiting for itself; five of them at once cost little more than two apart. Member ``k`` is
validated on its own part of the rows (the parts are disjoint) and trained on the others in its own order, so that every
row serves every purpose. They stop together, where their mean validation loss is best.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.objectives import Batch, nll
from bijectory.objectives.batch import Objective
from bijectory.training.callbacks import Callback
from bijectory.training.config import FitConfig
from bijectory.training.data import Data, as_data, prepare
from bijectory.training.fit import DEFAULTS, fit, initialize
from bijectory.training.state import FitResult


def fit_ensemble(
    members: Sequence[nn.Module],
    data: Tensor | tuple[Tensor | None, ...] | Data,
    *,
    objective: Objective = nll,
    config: FitConfig = DEFAULTS,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train models of one architecture in place, together.

    ``config.validation_fraction`` is the part of each member, at most ``1 / len(members)``.

    Args:
        members: Models that differ in their weights only.
        data: ``x`` ``(n, *event)``, or ``(x, c)``, without weights; with explicit validation rows all share these.
        objective: ``(model, batch) -> scalar``, capturable by ``torch.func.vmap``.
        config: Settings of ``fit``.
        callbacks: Watchers, called in order.

    Returns:
        Of the joint run; its losses are means over the members.

    Raises:
        ConfigError: If there is no member, or the rows carry weights.
        DataError, NonFiniteError: As in ``fit``.

    Example:
        >>> from bijectory import real_nvp
        >>> flows = [real_nvp(2, layers=2, hidden=(8,)) for _ in range(3)]
        >>> result = fit_ensemble(flows, torch.randn(100, 2), config=FitConfig(epochs=2, progress=False))
        >>> result.steps
        2
    """
    check(len(members) > 0, ConfigError, "an ensemble needs at least one member.")
    given = as_data(data)
    check(given.weight is None, ConfigError, "weights of rows are not for ensembles; fit the members one by one.")
    device = next(members[0].parameters()).device
    rows, held = prepare(given, config.replace(validation_fraction=0.0), device)
    n, generator = len(rows), torch.Generator().manual_seed(config.seed)
    part = 0 if held is not None else min(round(n * config.validation_fraction), n // max(len(members), 2))
    part = max(part, int(held is None and config.validation_fraction > 0))
    order = torch.randperm(n, generator=generator)
    train, valid = [], []
    for k in range(len(members)):
        turned = order.roll(-k * part)  # each begins with its own part; the parts are disjoint
        train.append(turned[part:][torch.randperm(n - part, generator=generator)])
        valid.append(turned[:part])
    with torch.no_grad():
        for member, index in zip(members, train, strict=True):
            initialize(member, rows.subset(index.to(device)))
    index = torch.stack(train, 1).to(device)
    stacked = Data(rows.x[index], None if rows.c is None else rows.c[index])
    if held is not None:
        shared = [
            None if t is None else t.unsqueeze(1).expand(-1, len(members), *t.shape[1:]) for t in (held.x, held.c)
        ]
        stacked = Data(stacked.x, stacked.c, x_val=shared[0], c_val=shared[1])
    elif part:
        index = torch.stack(valid, 1).to(device)
        stacked = Data(stacked.x, stacked.c, x_val=rows.x[index], c_val=None if rows.c is None else rows.c[index])
    model = Stack(members)
    clip = None if config.clip_norm is None else config.clip_norm / len(members) ** 0.5
    settings = config.replace(validation_fraction=0.0, clip_norm=clip)
    result = fit(model, stacked, objective=Joint(objective), config=settings, callbacks=callbacks)
    model.unstack(members)
    return result


class Stack(nn.Module):
    """The weights of all members, each with a first dimension of members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        params, buffers = torch.func.stack_module_state(list(members))
        self.names = list(params), list(buffers)
        self.weights = nn.ParameterList(nn.Parameter(p.detach()) for p in params.values())
        for k, name in enumerate(self.names[1]):
            self.register_buffer(f"_buffer{k}", buffers[name])
        self.count = len(members)
        self.one = [copy.deepcopy(members[0])]  # in a list: its own weights are not trained

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and buffers by the names they have in a member."""
        buffers = {name: self.get_buffer(f"_buffer{k}") for k, name in enumerate(self.names[1])}
        return dict(zip(self.names[0], self.weights, strict=True)), buffers

    def unstack(self, members: Sequence[nn.Module]) -> None:
        """Put the weights back into the members, in evaluation mode."""
        params, _ = self.state()
        with torch.no_grad():
            for k, member in enumerate(members):
                for name, p in member.named_parameters():
                    p.copy_(params[name][k])
                member.eval()


class _Loss(nn.Module):
    """An objective of a model as a module, whose weights can be handed in."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.objective(self.model, Batch(x, c))


class Joint:
    """Mean loss over the members: the gradients are those of single fits but for a factor, which AdamW ignores."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.__qualname__ = getattr(objective, "__qualname__", type(objective).__qualname__)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Rows ``(n, members, *event)``."""
        if not isinstance(model, Stack):
            raise ConfigError(f"the objective of an ensemble takes a Stack, got {type(model).__name__}.")
        one = _Loss(model.one[0].train(model.training), self.objective)
        params, buffers = ({f"model.{k}": v for k, v in part.items()} for part in model.state())

        def loss(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor, c: Tensor | None) -> Tensor:
            return torch.func.functional_call(one, (p, b), (x, c))

        each = torch.vmap(loss, (0, 0, 1, None if batch.c is None else 1), randomness="different")
        return each(params, buffers, batch.x, batch.c).mean()
