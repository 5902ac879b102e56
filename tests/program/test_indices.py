"""What a model takes as indices and is none: the error names the argument, what is wrong with it, and the remedy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from em_pyro import EM, DataError, ParameterError
from em_pyro.program.data import indices, passed

Y = np.sin(np.arange(12.0))
KIND = np.arange(12) % 3


def bracket(table: Tensor, kind: Any) -> Tensor:
    """Select as most do."""
    return table[kind]


def gathered(table: Tensor, kind: Any) -> Tensor:
    """Select by a function that wants a tensor."""
    return table.gather(0, kind)


def selected(table: Tensor, kind: Any) -> Tensor:
    """Select along a dimension."""
    return torch.index_select(table, 0, kind)


def one_hot(table: Tensor, kind: Any) -> Tensor:
    """Select by a product."""
    return torch.nn.functional.one_hot(kind, 3).double() @ table


def model_of(select: Callable[[Tensor, Any], Tensor]) -> Callable[..., None]:
    """Return a model with a mean for each kind of row."""

    def model(y: Any, kind: Any) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 0.5, 1.0]))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(select(loc, kind), 1.0), obs=y)

    return model


def with_gap(values: np.ndarray) -> np.ndarray:
    """Return the same with a number that is missing."""
    found = values.astype(float)
    found[3] = np.nan
    return found


WRONG: dict[str, tuple[Any, str]] = {
    "truth values": (KIND > 0, "truth values, which torch takes for a mask. Pass what .long()"),
    "gaps": (with_gap(KIND), r"nan at index \(3,\). Remove the row"),
    "fractions": (torch.tensor(KIND, dtype=torch.float64), "float64. Pass what .long()"),
    "words": (np.array(["a", "b", "c"], dtype=object)[KIND], "object .*Number them: pd.factorize"),
    "from one": (KIND + 1, r"3 at index \(2,\).*They count from zero"),
    "below": (KIND - 5, r"-(5|4) at index .*They count from zero"),
    "bytes": (KIND.astype(np.uint8), "uint8, which torch takes for a mask"),
    "none": (np.array([0, 1, None] * 4, dtype=object), r"None at index \(2,\)"),
    "short fractions": (torch.tensor(KIND).bfloat16(), "bfloat16. Pass what .long()"),
    "days": (np.datetime64("2020-01-01") + KIND, "Number them"),
}


@pytest.mark.parametrize("select", [bracket, gathered, selected, one_hot])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_index_is_named(name: str, select: Callable[[Tensor, Any], Tensor]) -> None:
    """The error is of data, whatever the model selects by."""
    kind, said = WRONG[name]
    if name == "bytes" and select is not bracket:
        return  # the others take bytes for what they are, or say so by another word
    with pytest.raises(DataError, match=f'Argument "kind": expected whole numbers.*{said}'):
        EM(model_of(select)).fit(Y, kind)


def test_a_sparse_tensor_is_named() -> None:
    """It has no entries by place."""
    with pytest.raises(DataError, match=r'Argument "kind": .*layout torch.sparse_coo\. Make it dense'):
        EM(model_of(bracket)).fit(Y, torch.tensor(KIND).to_sparse())


@pytest.mark.parametrize("made", ["Series", "array", "Int64", "category", "boolean"])
def test_columns_of_a_frame(made: str) -> None:
    """Columns of pandas, with what they call missing."""
    pd = pytest.importorskip("pandas")
    kinds = {
        "Series": pd.Series(with_gap(KIND)),
        "array": pd.Series(with_gap(KIND)).to_numpy(),
        "Int64": pd.array([*KIND[:-1], None], dtype="Int64"),
        "category": pd.Series(["a", "b", "c"] * 4).astype("category"),
        "boolean": pd.array([True, False, None] * 4, dtype="boolean"),
    }
    with pytest.raises(DataError, match='Argument "kind": expected whole numbers'):
        EM(model_of(bracket)).fit(pd.Series(Y), pd.Series(kinds[made]) if made != "array" else kinds[made])


def test_inside_a_dict_and_beside_another() -> None:
    """An entry of a dict is named; of two that are wrong, one after the other."""

    def both(data: dict[str, Any]) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 0.5, 1.0]))
        with pyro.plate("rows", len(data["y"])):
            pyro.sample("y", dist.Normal(loc[data["kind"]] + loc[data["other"]], 1.0), obs=data["y"])

    good = {"y": torch.tensor(Y), "kind": torch.tensor(KIND), "other": torch.tensor(KIND)}
    assert EM(both).fit(good).params["loc"].shape == (3,)
    with pytest.raises(DataError, match=r"""Argument "data"\['other'\]: .*truth values"""):
        EM(both).fit({**good, "other": torch.tensor(KIND > 0)})
    with pytest.raises(DataError, match=r"""Argument "data"\['(kind|other)'\]: .*truth values"""):
        EM(both).fit({**good, "kind": torch.tensor(KIND > 0), "other": torch.tensor(KIND > 0)})


def test_new_rows_of_a_fit() -> None:
    """Truth values are named; a number that the fitted parameters have no entry for is what these lack."""
    fit = EM(model_of(bracket)).fit(torch.tensor(Y), torch.tensor(KIND))
    with pytest.raises(DataError, match='Argument "kind": .*truth values'):
        fit.posterior_on(Y[:5], KIND[:5] > 0)
    with pytest.raises(ParameterError, match='Parameter "loc"'):
        fit.posterior_on(torch.tensor(Y[:3]), torch.tensor([0, 3, 1]))


def test_other_errors_of_the_model_stay_its_own() -> None:
    """An index of the model itself that is wrong is no argument's fault."""

    def model(y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(loc[torch.tensor(7)], 1.0), obs=y)

    with pytest.raises(IndexError, match="out of bounds"):
        EM(model).fit(torch.tensor(Y))


@pytest.mark.parametrize("fault", ["nothing is said", "no run is tried"])
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error is torch's own; without runs the wrong argument would be named."""
    if fault == "nothing is said":
        monkeypatch.setattr(passed, "wrong_index", lambda *args, **options: "")
        with pytest.raises(IndexError):
            EM(model_of(bracket)).fit(Y, KIND > 0)
    else:
        monkeypatch.setattr(indices, "_is_gone", lambda *args: True)
        with pytest.raises(DataError, match='Argument "y"'):
            EM(model_of(bracket)).fit(Y, KIND > 0)
