"""Columns that a model takes by name: which are passed on, what is refused, and that the index comes back."""

from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro.nn import PyroModule
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit, ParameterError, columns, to_inference_data
from em_pyro.program.data.columns import index_of

pd = pytest.importorskip("pandas", reason="needs pandas: pip install 'em-pyro[data]'")

FRAME = pd.DataFrame(
    {
        "size": [1.0, 2.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0],
        "kind": [0, 1, 0, 1, 1, 0, 0, 1],
        "visits": [3, 11, 2, 9, 14, 1, 4, 10],
        "owner": list("xyxyxyxy"),
    },
    index=pd.Index(list("abcdefgh"), name="shop"),
)


def shops(visits: Tensor, size: Tensor, kind: Tensor, K: int = 2) -> None:
    """Let visits depend on what is not seen, on a size that multiplies, and on a kind that indexes."""
    share = pyro.param("share", torch.full((K,), 1 / K), constraint=constraints.simplex)
    rate = pyro.param("rate", torch.arange(1.0, K + 1), constraint=constraints.positive)
    ratio = pyro.param("ratio", tensor(1.5), constraint=constraints.positive)
    with pyro.plate("rows", len(visits)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("visits", dist.Poisson(rate[z] * size * torch.stack([torch.ones(()), ratio])[kind]), obs=visits)


def test_columns_go_to_arguments() -> None:
    """Those that the model names, as they are; others stay out, and what is given by name comes first."""
    taken = columns(FRAME, shops, K=3)
    assert list(taken) == ["visits", "size", "kind", "K"]
    assert taken["visits"] is not None
    assert taken["visits"].equals(FRAME["visits"])
    assert list(columns(FRAME, shops, size=tensor(1.0))) == ["visits", "kind", "size"]
    assert columns(FRAME.assign(K=1), shops, K=3)["K"] == 3

    def open_ended(visits: Tensor, **more: Any) -> None:
        """Take anything."""

    assert list(columns(FRAME, open_ended, other=1)) == ["visits", "other"]


def test_modules_and_open_ended_models() -> None:
    """A module takes what its `forward` names, in a partial too; `**columns` are all; a name that is none is said."""

    class Shops(PyroModule):
        def forward(self, visits: Tensor, *, shift: float = 0.0) -> None:
            """Take one column."""

    assert list(columns(FRAME, Shops())) == ["visits"]
    assert list(columns(FRAME, partial(Shops(), shift=1.0))) == ["visits"]
    assert list(columns(FRAME[["visits", "size"]], lambda **every: None)) == ["visits", "size"]
    with pytest.raises(ParameterError, match='expected a model that takes "visits" by name'):
        columns(FRAME, lambda visits, /: None)


def fitted(**data: Any) -> Fit:
    """Fit from a store of its own."""
    pyro.clear_param_store()
    return EM(shops, max_steps=5).fit(**data)


def test_the_fit_is_that_of_tensors() -> None:
    """And its posterior, which wants to know that the data have not changed, is there."""
    plain = fitted(**{name: torch.tensor(FRAME[name].to_numpy()) for name in ("visits", "size", "kind")})
    named = fitted(**columns(FRAME, shops))
    for name, value in plain.params.items():
        close(named.params[name], value)
    close(named.posterior.marginal("z"), plain.posterior.marginal("z"))
    assert list(named.simulate()) == ["visits"]


def test_a_column_that_changes_is_noticed() -> None:
    """What a frame holds is held to be what it was, as with tensors; converted columns too."""
    visits = np.array([3.0, 11.0, 2.0, 9.0])
    fit = fitted(visits=visits, size=FRAME["size"][:4], kind=FRAME["kind"][:4])
    visits[0] = 8.0
    with pytest.raises(DataError, match="since then argument visits has changed"):
        fit.posterior  # noqa: B018


def test_the_index_comes_back() -> None:
    """That of the frame that was fitted, or of the new rows; numbers where there is none, or several differ."""
    fit = fitted(**columns(FRAME, shops))
    table = fit.posterior.to_frame()
    assert table.index.equals(FRAME.index)
    assert table.index.name == "shop"
    close(table["z"].to_numpy(), fit.posterior.marginal("z"))
    new = FRAME.iloc[:3].set_axis([9, 7, 5])
    table = fit.posterior_on(**columns(new, shops)).to_frame()
    assert list(table.index) == [9, 7, 5]
    assert table.index.name == "rows"
    mixed = fitted(visits=FRAME["visits"].set_axis(range(8)), size=FRAME["size"], kind=FRAME["kind"])
    assert list(mixed.posterior.to_frame().index) == list(range(8))


def test_index_of() -> None:
    """Frames in lists and dicts are looked into; what is no frame has none."""
    passed = ([FRAME, 3], {"x": {"y": FRAME["size"]}, "z": "text", "w": np.zeros(8)})
    assert index_of(passed, 8).equals(FRAME.index)
    assert index_of(passed, 7) is None
    assert index_of(((FRAME, FRAME.reset_index()), {}), 8) is None


def test_arviz_has_the_index() -> None:
    """As the labels of rows, unless others are given."""
    pytest.importorskip("arviz", reason="needs ArviZ: pip install 'em-pyro[arviz]'")
    fit = fitted(**columns(FRAME, shops))
    assert list(to_inference_data(fit, draws=2).posterior.rows.values) == list("abcdefgh")
    assert list(to_inference_data(fit, draws=2, coords={"rows": range(8)}).posterior.rows.values) == list(range(8))


@pytest.mark.parametrize(
    ("frame", "others", "error", "said"),
    [
        (
            FRAME.rename(columns={"kind": "sort"}),
            {},
            ParameterError,
            'expected a column "kind", got size, sort, visits',
        ),
        (FRAME[["owner"]], {"visits": 1, "size": 1, "kind": 1}, ParameterError, "a column for some argument"),
        (FRAME, {"L": 3}, ParameterError, 'expected arguments of the model, visits, size, kind, K, got "L"'),
        (FRAME.assign(kind=FRAME["owner"]), {}, DataError, 'Column "kind": expected numbers, got .*pd.factorize'),
        (FRAME.assign(size=pd.Timestamp("2020-01-01")), {}, DataError, 'Column "size": expected numbers, got datetime'),
        ([1, 2], {}, DataError, "expected a frame, which has columns, got list"),
    ],
)
def test_what_does_not_fit_is_named(frame: Any, others: dict[str, Any], error: type[Exception], said: str) -> None:
    """Before the model runs."""
    with pytest.raises(error, match=said):
        columns(frame, shops, **others)


def test_a_column_that_is_not_there() -> None:
    """The frame that was asked is named, and what it has; a key of something else is the model's own affair."""

    def model(frame: Any, key: str = "y") -> None:
        with pyro.plate("rows", len(frame)):
            loc = pyro.param("loc", torch.tensor(0.0))
            pyro.sample("x", dist.Normal({"loc": loc}[key], 1.0), obs=torch.as_tensor(frame["x"].to_numpy()))

    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    with pytest.raises(DataError, match="""Argument "frame": expected a column 'x', got a DataFrame of "a", "b"."""):
        EM(model).fit(frame, "loc")
    with pytest.raises(KeyError, match="'y'"):
        EM(model).fit(frame)
