"""The indices that a plate hands out are those of `torch.arange`, whatever is done with them."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from agreement import close
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.program.indices import Indices

N = 6
TABLE = torch.arange(20.0) ** 2

USES: dict[str, Callable[[Tensor], Any]] = {
    "select": lambda rows: TABLE[rows],
    "select in place": lambda rows: TABLE.clone().index_fill_(0, rows, -1.0),
    "index_select": lambda rows: TABLE.index_select(0, rows),
    "gather": lambda rows: TABLE.gather(0, rows),
    "arithmetic": lambda rows: 2.0 * rows + rows % 3,
    "compare": lambda rows: rows == 2,
    "entry": lambda rows: rows[2],
    "slice": lambda rows: rows[1:4],
    "batch": lambda rows: TABLE.reshape(4, 5)[:, rows[:5]],
    "reshape": lambda rows: rows.reshape(2, 3).sum(0),
    "dtype": lambda rows: rows.double(),
    "one hot": lambda rows: torch.nn.functional.one_hot(rows),
    "loop": lambda rows: torch.stack([TABLE[i] for i in rows]),
    "list": lambda rows: rows.tolist(),
    "numpy": lambda rows: np.asarray(rows) + 1,
    "index of numpy": lambda rows: np.arange(20)[rows],
    "numpy method": lambda rows: rows.numpy(),
    "join": lambda rows: torch.cat([rows, rows]),
    "copy": lambda rows: copy.copy(rows) + 0,
    "deep copy": lambda rows: copy.deepcopy(rows) + 0,
    "pickle": lambda rows: pickle.loads(pickle.dumps(rows)),
    "size": lambda rows: (len(rows), rows.shape, rows.dim(), rows.dtype, rows.device),
    "put": lambda rows: torch.zeros(N).double().index_put((rows,), TABLE[:N].double()),
}


@pytest.mark.parametrize("use", USES)
def test_they_are_a_range(use: str) -> None:
    """Every use gives what it gives of a plain range, and nothing of a special kind."""
    rows = Indices(N, torch.device("cpu"))
    got, expected = USES[use](rows), USES[use](torch.arange(N))
    assert type(got) is type(expected)
    if isinstance(got, Tensor):
        assert torch.equal(got, expected)
        assert got.dtype == expected.dtype
    else:
        assert np.array_equal(got, expected) if isinstance(got, np.ndarray) else got == expected


def test_nothing_is_made_before_it_is_used() -> None:
    """To look at the size makes nothing; an operation does, once."""
    rows = Indices(N, torch.device("cpu"))
    assert (len(rows), rows.shape, repr(rows)) == (N, (N,), "arange(6)")
    assert rows._made is None
    assert (rows + 1).sum() == 21
    assert (rows + 1).sum() == 21
    assert rows.data_ptr() == rows.made().data_ptr() == rows.made().data_ptr()


def by_position(x: Tensor, group: Tensor) -> None:
    """Read data, a parameter and a known argument of each row by the indices of the plate."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    own = pyro.param("own", torch.zeros(3))
    with pyro.plate("rows", len(x)) as rows:
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind] + own[group[rows]], 1.0), obs=x[rows])


def in_order(x: Tensor, group: Tensor) -> None:
    """The same without indices."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    own = pyro.param("own", torch.zeros(3))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind] + own[group], 1.0), obs=x)


@pytest.mark.parametrize("m_step", [None, "torch"])
def test_a_program_may_use_them(m_step: str | None) -> None:
    """A program that reads by the indices of its plate takes the path of one that does not."""
    generator = torch.Generator().manual_seed(0)
    x, group = torch.randn(60, generator=generator), torch.randint(3, (60,), generator=generator)
    paths = []
    for model in (by_position, in_order):
        pyro.clear_param_store()
        fit = EM(model, max_steps=5, tol=0, m_step=dict.fromkeys(("loc", "own"), m_step) if m_step else {}).fit(
            x, group
        )
        paths.append(fit.path)
    close(*paths)
