"""Frames of other libraries than pandas: rows and columns are found by what all of them have in common."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro
from em_pyro import EM, DataError, ParameterError

ROWS = 60
X = np.random.default_rng(0).normal(size=ROWS) + np.arange(ROWS) % 2 * 4.0
GROUP = np.arange(ROWS) % 3


class Sheet:
    """What polars has, and neither `items` nor `iloc`: names as `columns`, rows and columns by brackets."""

    def __init__(self, parts: dict[str, np.ndarray]) -> None:
        """Take columns by their names."""
        self.parts, self.columns = parts, [*parts]
        self.shape = (len(self), len(parts))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.parts.values())))

    def __getitem__(self, key: Any) -> Any:
        """Return a column by its name, or some rows."""
        return self.parts[key] if isinstance(key, str) else Sheet({n: part[key] for n, part in self.parts.items()})

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Return all columns side by side."""
        return np.stack([*self.parts.values()], 1)


COLUMNS = {"x": X, "group": GROUP}
FRAMES: dict[str, Any] = {
    "pandas": pd.DataFrame(COLUMNS),
    "pyarrow, a table": pa.table(COLUMNS),
    "pyarrow, a batch": pa.RecordBatch.from_pydict(COLUMNS),
    "another": Sheet(COLUMNS),
}
frames = pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)


def mixture(x: Any, group: Any) -> None:
    """Two clusters, and a level for every group."""
    level = pyro.param("level", torch.zeros(3))
    loc, scale = pyro.param("loc", tensor(3.0)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(level[group] + loc * z, scale), obs=x)


def of_frame(frame: Any) -> None:
    """The same of columns by name."""
    mixture(frame["x"], torch.tensor(np.asarray(frame["group"])))


def path(fit: Any) -> Tensor:
    """All objectives of a fit."""
    return tensor(fit.path)


def close(fit: Any, other: Any) -> None:
    """The same iterates, whatever the rows came in."""
    assert float((path(fit) - path(other)).abs().max()) < IDENTITY * abs(other.objective)


PLAIN: dict[str, Any] = {"tol": 0, "max_steps": 4, "acceleration": None}


@pytest.fixture
def expected() -> Any:
    """The fit of tensors."""
    pyro.clear_param_store()
    return EM(mixture, **PLAIN).fit(torch.from_numpy(X), torch.from_numpy(GROUP))


@frames
def test_a_frame_is_an_argument(frame: Any, expected: Any) -> None:
    """Whole, by its columns, and in batches."""
    pyro.clear_param_store()
    close(EM(of_frame, **PLAIN).fit(frame), expected)
    pyro.clear_param_store()
    close(EM(mixture, **PLAIN).fit(**em_pyro.columns(frame, mixture)), expected)
    pyro.clear_param_store()
    close(EM(of_frame, **PLAIN).fit_stream(lambda: iter([frame[:20], frame[20:]])), expected)


@frames
def test_some_rows_of_a_frame(frame: Any) -> None:
    """Slices of it, and rows drawn for folds."""
    x = torch.from_numpy(X), torch.from_numpy(GROUP)
    assert EM(of_frame, batches=3, tol=0, max_steps=2).fit(frame).num_steps == 2
    pyro.clear_param_store()
    held = em_pyro.cross_validate(of_frame, frame, plate="rows", folds=2, tol=1e-4)
    pyro.clear_param_store()
    assert float(held) == pytest.approx(float(em_pyro.cross_validate(mixture, *x, plate="rows", folds=2, tol=1e-4)))


@frames
def test_a_frame_that_has_changed_is_noticed(frame: Any) -> None:
    """What is in its columns belongs to what was planned."""
    held = {"frame": frame}

    def model() -> None:
        of_frame(held["frame"])

    em = EM(model)
    before = em.step()
    held["frame"] = frame[10:]
    assert em.step() < before - 10


def test_what_is_no_frame_is_named() -> None:
    """Nor a model."""
    with pytest.raises(DataError, match=r"^columns: expected a frame, which has columns, got ndarray\."):
        em_pyro.columns(X, mixture)
    with pytest.raises(ParameterError, match=r"^columns: expected a model, got str\. Pass columns\(frame, model\)\."):
        em_pyro.columns(FRAMES["pandas"], "x")  # type: ignore[arg-type]
