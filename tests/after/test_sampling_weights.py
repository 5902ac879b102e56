"""Robust standard errors of weighted rows: weights that are numbers of rows, and weights that rows were drawn with."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit, ParameterError

K = torch.arange(90, dtype=torch.float64)
X = torch.stack([torch.ones_like(K), -1 + 2 * (K * 0.7548776662466927 % 1)], -1)
Y = 0.3 + X[:, 1] + (0.4 + X[:, 1].abs()) * torch.special.ndtri((K * 0.5698402909980532 + 0.25) % 1)
COUNTS = torch.floor(1 + 3 * (K * 0.3183098861837907 % 1))
WEIGHTS = 0.2 + 4 * (K * 0.3183098861837907 % 1)
VALUES = torch.where(K % 3 == 0, Y, Y + 4)


def line(y: Tensor, x: Tensor, weights: Tensor) -> None:
    """Regress, each row with its weight."""
    coef = pyro.param("coef", torch.zeros(2))
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with poutine.scale(scale=weights), pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ coef, scale), obs=y)


def mixture(y: Tensor, weights: Tensor) -> None:
    """Mix two Normals of one scale, each row with its weight."""
    share = pyro.param("share", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with poutine.scale(scale=weights), pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(loc[z], scale), obs=y)


def clustered(y: Tensor, weights: Tensor) -> None:
    """The same mixture, rows in groups of three as they were drawn."""
    share = pyro.param("share", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with (
        poutine.scale(scale=weights),
        pyro.plate("units", len(y), dim=-2),
        pyro.plate("rows", y.shape[1], dim=-1),
    ):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(loc[z], scale), obs=y)


def fitted(model: Any, *args: Tensor, **options: Any) -> Fit:
    """Fit from an empty store, close to the top."""
    pyro.clear_param_store()
    return EM(model, tol=1e-12, **options).fit(*args)


def by_hand(fit: Fit, y: Tensor, weights: Tensor, power: int, groups: Tensor | None = None) -> Tensor:
    """The sandwich `A^-1 (sum_i w_i^power s_i s_i') A^-1` of the mixture, by torch's derivatives of its densities.

    Coordinates are the first share, the locations and the scale; with `groups` weighted scores are added up in them.
    """

    def densities(v: Tensor) -> Tensor:
        normals = dist.Normal(v[1:3].unsqueeze(-1), v[3]).log_prob(y)
        return (torch.stack([v[0], 1 - v[0]]).log().unsqueeze(-1) + normals).logsumexp(0)

    v = torch.cat([fit.params["share"][:1], fit.params["loc"], fit.params["scale"].reshape(1)]).double()
    bread = torch.linalg.inv(torch.autograd.functional.hessian(lambda u: (weights * densities(u)).sum(), v))
    scores = torch.autograd.functional.jacobian(densities, v) * (weights ** (power / 2)).unsqueeze(-1)
    if groups is not None:
        scores = torch.zeros(int(groups.max()) + 1, 4).index_add(0, groups, scores)
    return (bread @ scores.mT @ scores @ bread).diagonal().sqrt()


def flat(se: dict[str, Tensor]) -> Tensor:
    """Put standard errors in the order of `by_hand`."""
    return torch.cat([se["share"][:1], se["loc"], se["scale"].reshape(1)])


@pytest.mark.parametrize("weights", ["frequency", "probability"])
def test_a_regression_is_statsmodels(weights: str) -> None:
    """Numbers of rows: OLS (HC0) of the rows one by one. Sampling weights: WLS (HC0)."""
    models = pytest.importorskip("statsmodels.api")
    x, y = X.numpy(), Y.numpy()
    if weights == "frequency":
        many = COUNTS.long()
        found = models.OLS(Y.repeat_interleave(many).numpy(), X.repeat_interleave(many, 0).numpy()).fit(cov_type="HC0")
        fit = fitted(line, Y, X, COUNTS)
    else:
        found = models.WLS(y, x, weights=WEIGHTS.numpy()).fit(cov_type="HC0")
        fit = fitted(line, Y, X, WEIGHTS)
    close(fit.params["coef"], torch.tensor(found.params), SOLVERS)
    close(fit.information("robust", weights=weights).se["coef"], torch.tensor(found.bse), SOLVERS)


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize(("weights", "power"), [("frequency", 1), ("probability", 2)])
def test_a_mixture_is_the_sandwich_written_out(weights: str, power: int, collapse: bool) -> None:  # noqa: FBT001
    """Of rows that are all there twice, with the one weight and the other, merged or not."""
    y, w = VALUES.round(decimals=1).repeat(2), torch.cat([WEIGHTS, WEIGHTS.flip(0)])
    fit = fitted(mixture, y, w, collapse=collapse)
    close(flat(fit.information("robust", weights=weights).se), by_hand(fit, y, w, power), SOLVERS)


def test_units_of_a_sample() -> None:
    """Rows that were drawn in groups: scores are added up, each with its weight, and the groups are independent."""
    y, w = VALUES.reshape(30, 3), WEIGHTS.reshape(30, 3)
    fit = fitted(clustered, y, w)
    groups = torch.arange(30).repeat_interleave(3)
    found = fit.information("robust", plate="units", weights="probability")
    close(flat(found.se), by_hand(fit, y.reshape(-1), w.reshape(-1), 2, groups), SOLVERS)


def test_the_unit_of_sampling_weights_does_not_matter() -> None:
    """Twice the weights are the same sample; twice the numbers of rows are twice the data."""
    fits = [fitted(mixture, VALUES, c * WEIGHTS) for c in (1, 2)]
    once, twice = (flat(fit.information("robust", weights="probability").se) for fit in fits)
    close(once, twice, SOLVERS)
    once, twice = (flat(fit.information("robust").se) for fit in fits)
    close(once, twice * 2**0.5, SOLVERS)


def test_a_row_of_no_weight_is_not_there() -> None:
    """A sample with a row of weight zero is the sample without it."""
    w = WEIGHTS.clone()
    w[::5] = 0
    there = w > 0
    whole, less = fitted(mixture, VALUES, w), fitted(mixture, VALUES[there], w[there])
    close(*(flat(fit.information("robust", weights="probability").se) for fit in (whole, less)), SOLVERS)


def test_the_table_says_what_weights_are() -> None:
    """In a line, for sampling weights."""
    fit = fitted(mixture, VALUES, WEIGHTS)
    assert "sampling weights" in str(fit.information("robust", weights="probability"))
    assert "sampling weights" not in str(fit.information("robust"))


@pytest.mark.parametrize("kind", ["observed", "opg", "complete"])
def test_sampling_weights_have_no_likelihood(kind: str) -> None:
    """What counts a weight as so many rows is refused for them."""
    with pytest.raises(ParameterError, match='expected kind="robust" for sampling weights'):
        fitted(mixture, VALUES, WEIGHTS).information(kind, weights="probability")


def test_what_is_no_weight_is_refused() -> None:
    """Another word; rows without weights."""
    fit = fitted(mixture, VALUES, WEIGHTS)
    with pytest.raises(ParameterError, match=r"weights: expected one of \['frequency', 'probability'\]"):
        fit.information("robust", weights="sampling")

    def bare(y: Tensor) -> None:
        mixture(y, tensor(1.0))

    with pytest.raises(ParameterError, match=r"got none.*poutine.scale"):
        fitted(bare, VALUES).information("robust", weights="probability")
