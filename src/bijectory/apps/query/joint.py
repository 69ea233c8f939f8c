"""The joint density of a table with some of its columns fixed."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Flow
from bijectory.errors import ConfigError, DataError, check
from bijectory.tables import Column, Schema, preprocess
from bijectory.tables.frame import check_columns
from bijectory.tables.schema import check_domain, check_finite

PART = 8192  # rows of one pass through the flow


class Joint:
    """The joint density with some columns fixed, as a function of the rest in standardised units."""

    def __init__(self, model: TableFlow, known: Mapping[Any, float], rng: np.random.Generator) -> None:
        schema = model.schema
        self.model, self.rng = model, rng
        self.values = {str(name): float(value) for name, value in known.items()}
        check_columns(pd.DataFrame(columns=schema.names), list(self.values))
        columns = [c for c in schema.columns if c.name in self.values]
        vector = np.array([[self.values[c.name] for c in columns]])
        check_finite(vector, [c.name for c in columns], "Give finite values.")
        check_domain(vector, columns)
        for c in columns:
            same = c.kind != "constant" or c.role == "given" or self.values[c.name] == c.value
            check(same, DataError, f"column {c.name!r} is always {c.value}; {self.values[c.name]} has probability 0.")
        absent = [c.name for c in schema.givens if c.name not in self.values]
        check(not absent, ConfigError, f"this density is conditional: {', '.join(absent)} must be known too.")
        given = {c.name: [self.values[c.name]] for c in schema.columns if c.role == "given" and c.name in self.values}
        self.given = given or None
        self.context = schema.encode_given(given) if schema.givens else None
        self.fixed = [k for k, c in enumerate(schema.targets) if c.name in self.values]
        self.rest = [k for k, c in enumerate(schema.targets) if c.name not in self.values]
        self.cells = any(schema.targets[k].step is not None for k in self.fixed)
        self.prep = preprocess(schema.targets)

    def pool(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the joint: standardised fixed columns, standardised rest."""
        seed = int(self.rng.integers(2**31))
        c = None if self.context is None else torch.from_numpy(np.repeat(self.context, n, axis=0))
        shape: Any = n if c is None else ()
        with torch.no_grad():
            x = self.model.flow.sample(shape, c, generator=torch.Generator().manual_seed(seed))
            u = self.prep.forward(x)[0].numpy()
        u = u[np.isfinite(u).all(1)]
        return u[:, self.fixed], u[:, self.rest]

    def place(self, n: int) -> np.ndarray:
        """The known values in data units, ``(n, fixed)``, anywhere in the cells of dequantized columns."""
        x = np.zeros((n, len(self.model.schema.targets)))
        for k in self.fixed:
            x[:, k] = self.values[self.model.schema.targets[k].name]
        return self.model.schema.place(x, self.rng.random(x.shape))[:, self.fixed]

    def centre(self) -> np.ndarray:
        """The known values in standardised units, ``(fixed,)``."""
        return self._standard(self.place(1))[0]

    def log_prob(self, r: np.ndarray) -> np.ndarray:
        """``log p(k, r)``: per unit of the data for the fixed columns, per standardised unit for the rest."""
        with torch.inference_mode():
            parts = np.array_split(np.arange(len(r)), max(1, -(-len(r) // PART)))
            found = [self.value(torch.from_numpy(r[part]), self.place(len(part))) for part in parts]
            return torch.cat(found).numpy()

    def value(self, r: torch.Tensor, known: np.ndarray) -> torch.Tensor:
        """The same, with gradients, at known values that are placed in their cells, ``(n, fixed)``; ``-inf`` for NaN."""
        columns: list[torch.Tensor] = [torch.empty(0)] * len(self.model.schema.targets)
        for k, column in zip(self.fixed, torch.from_numpy(self._standard(known)).unbind(1), strict=True):
            columns[k] = column
        for k, column in zip(self.rest, r.unbind(1), strict=True):
            columns[k] = column
        x, ladj = self.prep.inverse(torch.stack(columns, 1))
        safe = torch.isfinite(x).all(1) & torch.isfinite(ladj)
        x = torch.where(safe[:, None], x, x[safe][:1].detach() if bool(safe.any()) else torch.zeros(()))
        c = None if self.context is None else torch.from_numpy(self.context).expand(len(x), -1)
        joint = self.model.flow.log_prob(x, c)
        # log|dx/du| of all columns less that of the fixed ones, which stay in data units
        volume = ladj - self._volume(known)
        return torch.where(safe & torch.isfinite(joint), joint + volume, -torch.inf)

    def rows(self, r: np.ndarray) -> pd.DataFrame:
        """All columns of a table for draws of the rest."""
        u = np.zeros((len(r), len(self.model.schema.targets)))
        u[:, self.rest] = r
        u[:, self.fixed] = self.centre()
        with torch.inference_mode():
            x = self.prep.inverse(torch.from_numpy(u))[0].numpy()
        place = {c.name: x[:, k] for k, c in enumerate(self.model.schema.targets)}
        columns = {}
        for c in self.model.schema.columns:
            constant = self.values.get(c.name, c.value)
            settled = c.name in place and c.name not in self.values
            columns[c.name] = c.settle(place[c.name]) if settled else np.full(len(r), constant)
        return pd.DataFrame(columns)

    def _standard(self, known: np.ndarray) -> np.ndarray:
        targets = [self.model.schema.targets[k] for k in self.fixed]
        return preprocess(targets).forward(torch.from_numpy(known))[0].numpy()

    def _volume(self, known: np.ndarray) -> torch.Tensor:
        targets = [self.model.schema.targets[k] for k in self.fixed]
        return -preprocess(targets).forward(torch.from_numpy(known))[1]


def as_table(model: TableFlow | Flow) -> TableFlow:
    """A flow as that of a table with the columns x0, x1, ..."""
    if isinstance(model, TableFlow):
        return model
    vector = len(model.event_shape) == 1 and not model.context and model.embed is None
    check(vector, ConfigError, "queries need a joint density of vectors, without a context; use flow.sample(n, c).")
    columns = tuple(Column(name=f"x{k}") for k in range(model.event_shape[0]))
    return TableFlow(copy.deepcopy(model).cpu().double(), Schema(columns=columns, rows=0))
