"""Rows that a fit has not seen: how they are dealt, cut out of the arguments, and predicted."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, hidden_markov, latent_classes
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, EMError, ModelError, ParameterError, cross_validate

X = torch.cat([torch.linspace(-1.3, 1.0, 12), torch.linspace(3.5, 6.1, 11)]).double()
CLOUD = gaussian_mixture.simulate(30, 2, 2).double()


def normal(x: Tensor, rows: Mapping[str, Any] | None = None) -> None:
    """One normal, whose maximum is known."""
    loc, scale = pyro.param("loc", tensor(0.0)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def test_one_normal_by_hand() -> None:
    """Means and standard deviations of the other folds, densities of this one."""
    found = cross_validate(normal, X, plate="rows", folds=4, tol=1e-13)
    assert sorted(torch.bincount(found.fold).tolist()) == [5, 6, 6, 6]
    for i in range(4):
        rest, here = X[found.fold != i], X[found.fold == i]
        law = dist.Normal(rest.mean(), rest.std(correction=0))
        close(found.per_row[found.fold == i], law.log_prob(here))
        close(found.per_fold[i], float(law.log_prob(here).sum()))
    close(float(found), float(found.per_fold.sum()))
    assert found.total == float(found)
    assert f"{found.total:.4f}" in str(found)


def test_leave_one_out() -> None:
    """As many folds as rows."""
    x = X[:7]
    found = cross_validate(normal, x, plate="rows", folds=7, tol=1e-13)
    assert sorted(found.fold.tolist()) == list(range(7))
    close(found.total, sum(float(one(x, i)) for i in range(7)))


def one(x: Tensor, i: int) -> Tensor:
    """Predict a row from the others."""
    rest = torch.cat([x[:i], x[i + 1 :]])
    return dist.Normal(rest.mean(), rest.std(correction=0)).log_prob(x[i])


def test_seeds_deal_otherwise() -> None:
    """The same seed the same folds."""
    folds = [cross_validate(normal, X, plate="rows", seed=seed, max_steps=1).fold for seed in (0, 0, 1)]
    assert torch.equal(folds[0], folds[1])
    assert not torch.equal(folds[0], folds[2])


def test_of_a_mixture_it_is_what_fits_say() -> None:
    """Fold by fold the log evidence of the fit of the others."""
    model = partial(gaussian_mixture.full, K=2)
    found = cross_validate(model, CLOUD, plate="points", folds=3)
    for i in range(3):
        with pyro.get_param_store().scope():
            fit = EM(model).fit(CLOUD[found.fold != i])
            close(found.per_fold[i], fit.posterior_on(CLOUD[found.fold == i]).log_evidence)
    assert found.outcomes == ("converged",) * 3


@pytest.mark.parametrize(
    "argument",
    [
        lambda x: (x,),
        lambda x: (x.numpy(),),
        lambda x: ([x],),
        lambda x: ({"x": x, "name": "a"},),
        lambda x: ((x, 3),),
    ],
    ids=["tensor", "array", "list", "dict", "tuple"],
)
def test_arguments_of_other_kinds(argument: Callable[[Tensor], Any]) -> None:
    """Rows inside arrays, lists, tuples and dicts are found."""

    def model(data: Any) -> None:
        x = data["x"] if isinstance(data, dict) else data[0] if isinstance(data, (list, tuple)) else data
        normal(torch.as_tensor(x))

    want = cross_validate(normal, X, plate="rows", max_steps=3)
    close(float(cross_validate(model, *argument(X), plate="rows", max_steps=3)), float(want))


def test_a_list_of_rows() -> None:
    """One entry a row."""

    def model(rows: list[Tensor]) -> None:
        normal(torch.stack(rows))

    want = cross_validate(normal, X, plate="rows", max_steps=3)
    close(float(cross_validate(model, list(X), plate="rows", max_steps=3)), float(want))


def regression(x: Tensor, y: Tensor, prior: Tensor, unit: float = 1.0) -> None:
    """Covariates in columns, `(2, rows)`; a matrix and a number that are not by row."""
    coef = pyro.param("coef", torch.zeros(2))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal((coef[:, None] * x).sum(0) + prior.sum(), unit), obs=y)


def test_rows_along_another_dimension() -> None:
    """Each argument is cut where it has the rows; others are passed whole, by name too."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 14, generator=generator).double(), torch.randn(14, generator=generator).double()
    found = cross_validate(regression, x, y, plate="rows", folds=2, model_kwargs={"prior": torch.zeros(3, 3).double()})
    for i in range(2):
        rest, here = found.fold != i, found.fold == i
        coef = torch.linalg.lstsq(x[:, rest].T, y[rest, None]).solution[:, 0]
        close(found.per_fold[i], float(dist.Normal(coef @ x[:, here], 1.0).log_prob(y[here]).sum()), 1e-6)


def test_two_dimensions_as_long_as_the_plate() -> None:
    """It is not clear which has the rows: the error says how to tell."""
    generator = torch.Generator().manual_seed(0)
    x, y, square = (torch.randn(*s, generator=generator).double() for s in ((2, 6), (6,), (6, 6)))
    with pytest.raises(ParameterError, match=r"got 2 in shape \(6, 6\)\. Say which: dims=\{2: 0\}"):
        cross_validate(regression, x, y, square, plate="rows", folds=2)
    found = cross_validate(regression, x, y, square, plate="rows", folds=2, dims={2: None})
    assert found.per_row.shape == (6,)
    named = cross_validate(
        regression, x, y, plate="rows", folds=2, dims={"prior": None}, model_kwargs={"prior": square}
    )
    close(float(named), float(found))
    for dims in ({0: 0}, {0: 5}, {1: "a"}, {3: 0}):
        with pytest.raises((ParameterError, TypeError)):
            cross_validate(regression, x, y, square, plate="rows", folds=2, dims={2: None, **dims})  # type: ignore[dict-item]


def test_a_length_that_is_no_number_of_rows() -> None:
    """A vector that happens to be as long as the plate, and is no data: densities of rows change, so it is refused."""
    x, y, prior = torch.randn(2, 8).double(), torch.randn(8).double(), torch.ones(8).double()
    with pytest.raises(ModelError, match="the same density whatever other rows"):
        cross_validate(regression, x, y, prior, plate="rows", folds=2)
    cross_validate(regression, x, y, prior, plate="rows", folds=2, dims={2: None})


def centred(x: Tensor) -> None:
    """Work out a mean of all rows."""
    normal(x - x.mean())


def test_rows_that_depend_on_others() -> None:
    """A held-out row would be centred by held-out rows."""
    with pytest.raises(ModelError, match="pass as an argument"):
        cross_validate(centred, X, plate="rows")


def test_closures_and_numbers_of_rows() -> None:
    """Data that are no arguments cannot be cut; a number of rows that is passed does not follow."""
    with pytest.raises(ParameterError, match="Pass the data as an argument"):
        cross_validate(lambda: normal(X), plate="rows")

    def sized(x: Tensor, n: int) -> None:
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", n):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ModelError, match="to have 5 rows, got 23. Say with dims="):
        cross_validate(sized, X, len(X), plate="rows")


def test_sequences() -> None:
    """Rows of a chain are sequences, with their lengths."""
    y = torch.linspace(-1, 1, 24).reshape(6, 4).double()
    lengths = tensor([4, 3, 4, 2, 4, 4])
    found = cross_validate(hidden_markov.gaussian, y, lengths, plate="sequence", folds=3, max_steps=5)
    assert found.per_row.shape == (6,)
    with pyro.get_param_store().scope():
        rest = found.fold != 0
        fit = EM(hidden_markov.gaussian, max_steps=5).fit(y[rest], lengths[rest])
        close(found.per_fold[0], fit.posterior_on(y[~rest], lengths[~rest]).log_evidence)


def weighted(x: Tensor, counts: Tensor) -> None:
    """Rows count by their weights."""
    with poutine.scale(scale=counts):
        normal(x)


def test_weights_count() -> None:
    """Of a row of weight two, twice its log evidence."""
    found = cross_validate(weighted, X, torch.full((len(X),), 2.0).double(), plate="rows", tol=1e-13)
    close(float(found), 2 * float(cross_validate(normal, X, plate="rows", tol=1e-13)))


def test_every_fold_starts_as_the_whole_would() -> None:
    """From initialisers and weights of modules, which stay; what a fit has left in the store is not read."""
    pyro.param("loc", tensor(7.0))
    net = torch.nn.Linear(1, 1).double()

    def model(x: Tensor) -> None:
        line = pyro.module("net", net)
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc + line(x.new_ones(1))[0], 1.0), obs=x)

    before = {name: value.clone() for name, value in net.state_dict().items()}

    starts: list[float] = []

    def callback(state: Any) -> bool:
        starts.append(float(state.params["loc"].detach()))
        return True

    cross_validate(model, X, plate="rows", folds=3, callback=callback, m_step={"loc": "fixed"})
    assert starts == [0.0] * 3
    assert float(pyro.param("loc").detach()) == 7.0
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert "scale" not in pyro.get_param_store()


def test_categories_of_a_fold() -> None:
    """A category that only the held-out rows have is an error that says so, with its fold."""
    answers = torch.zeros(6, 2, dtype=torch.long)
    answers[::2] = 1
    answers[5, 1] = 2
    with pytest.raises(EMError, match="fold|rows"):
        cross_validate(latent_classes.latent_classes, answers, plate="person", folds=6, max_steps=2)


def test_a_row_that_is_impossible_has_no_evidence() -> None:
    """A category that the others never show has probability zero: the error names it."""
    answers = torch.zeros(6, 2, dtype=torch.long)
    answers[0] = 1
    with pytest.raises(DataError, match="cross_validate, fold"):
        cross_validate(
            latent_classes.latent_classes, answers, plate="person", folds=6, model_kwargs={"categories": [2, 2]}
        )


def joined(x: Tensor) -> None:
    """One latent for all rows."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_rows_that_a_latent_joins() -> None:
    """They have no evidence of their own."""
    with pytest.raises(ParameterError, match="joins them"):
        cross_validate(joined, X, plate="rows", max_steps=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plate": "points"}, "expected plate to be one of"),
        ({"folds": 1}, "expected folds to be a number from 2 to 23"),
        ({"folds": 24}, "expected folds"),
        ({"folds": 2.0}, "expected folds"),
        ({"dims": {"x": 0}}, "expected dims to name arguments"),
        ({"dims": [0]}, "expected dims to be a dict"),
        ({"seed": None}, "expected seed"),
        ({"tol": -1}, "expected tol"),
        ({"x": 1}, 'cross_validate: expected options of EM, .*, got "x"'),
    ],
)
def test_bad_options(change: dict[str, Any], said: str) -> None:
    """Refused, by name."""
    with pytest.raises(ParameterError, match=said):
        cross_validate(normal, X, **{"plate": "rows", **change})


def test_numpy_is_cut_as_it_is() -> None:
    """A model that asks for arrays gets arrays."""

    def model(x: Any) -> None:
        assert isinstance(x, np.ndarray)
        normal(torch.from_numpy(np.ascontiguousarray(x)))

    cross_validate(model, X.numpy(), plate="rows", folds=2, max_steps=2)
