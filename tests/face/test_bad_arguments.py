"""Arguments that are data and that no law has: totals that are not whole, scales below zero, gaps among covariates."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import refuse
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError

pytestmark = pytest.mark.usefixtures("earlier_values")

COUNTS = tensor([1.0, 2.0, 3.0, 0.0, 2.0])
Law = Callable[[Tensor, Tensor], dist.TorchDistribution]


def mixture(law: Law, known: Tensor, y: Tensor) -> None:
    """Two states of one number above zero; `known` is what each row brings."""
    rate = pyro.param("rate", tensor([0.2, 0.4], dtype=y.dtype), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("y", law(rate[z], known), obs=y)


def known(at_three: float) -> Tensor:
    """Numbers of rows, of which one is another."""
    return torch.where(torch.arange(5) == 2, at_three, 4.0)


TOTALS: dict[str, Law] = {
    "Binomial": lambda p, n: dist.Binomial(n, p),
    "Binomial of logits": lambda p, n: dist.Binomial(n, logits=p),
    "BetaBinomial": lambda a, n: dist.BetaBinomial(a, 2 * a, total_count=n),
    "ExtendedBinomial": lambda p, n: dist.ExtendedBinomial(n, p),
    "ExtendedBetaBinomial": lambda a, n: dist.ExtendedBetaBinomial(a, 2 * a, total_count=n),
}


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_whole(name: str) -> None:
    """The density has a value at a total of 3.5; no such law sums to one."""
    pattern = r'^Site "y": expected total_count of \w+ to be a whole number, got 3\.5 at index \(2,\)\. '
    refuse("data", pattern, mixture, TOTALS[name], known(3.5), COUNTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_whole_totals_of_any_kind_are_taken(dtype: torch.dtype) -> None:
    """A whole number may be a float."""
    assert EM(mixture).fit(TOTALS["Binomial"], known(3.0).to(dtype), COUNTS).converged


def test_a_total_by_state() -> None:
    """Where no row differs, the first is named."""
    pattern = r'^Site "y": expected total_count of Binomial to be a whole number, got 3\.5 at index \(0,\)\. '

    def model(y: Tensor) -> None:
        p = pyro.param("p", tensor([0.2, 0.4]), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", dist.Binomial(tensor([4.0, 3.5])[z], p[z]), obs=y)

    refuse("data", pattern, model, COUNTS)


def test_totals_of_columns() -> None:
    """Rows with several counts each: the row and the column."""

    def model(y: Tensor) -> None:
        p = pyro.param("p", tensor([0.2, 0.4]), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", dist.Binomial(tensor([3.0, 4.5]), p[z].unsqueeze(-1)).to_event(1), obs=y)

    refuse("data", r"got 4\.5 at index \(0, 1\)\. ", model, torch.stack([COUNTS, COUNTS], -1))


def test_what_is_masked_has_any_total() -> None:
    """It is not looked at."""
    totals = known(3.5)
    fits = [
        EM(mixture).fit(lambda p, n: dist.Binomial(n, p).mask(n == n.floor()), totals, COUNTS),
        EM(mixture).fit(lambda p, n: dist.Binomial(n, p).mask(torch.arange(5) != 2), known(4.0), COUNTS),
    ]
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, rel=SOLVERS)


def test_a_row_without_weight_has_any_total() -> None:
    """It does not count."""

    def model(totals: Tensor, y: Tensor, weights: Tensor) -> None:
        with pyro.poutine.scale(scale=weights):
            mixture(TOTALS["Binomial"], totals, y)

    weights = torch.where(torch.arange(5) == 2, 0.0, 1.0)
    assert EM(model).fit(known(3.5), COUNTS, weights).log_likelihood < 0


def test_other_rows_have_whole_totals() -> None:
    """Asked of a fitted model likewise."""
    fit = EM(mixture).fit(TOTALS["Binomial"], known(3.0), COUNTS)
    with pytest.raises(DataError, match=r"to be a whole number, got 3\.5 at index \(2,\)"):
        fit.posterior_on(TOTALS["Binomial"], known(3.5), COUNTS)


KNOWN: dict[str, tuple[Law, float]] = {
    "Normal": (lambda loc, scale: dist.Normal(loc, scale), -1.0),
    "Normal of no width": (lambda loc, scale: dist.Normal(loc, scale), 0.0),
    "Normal of a gap": (lambda loc, scale: dist.Normal(loc, scale), torch.nan),
    "Gamma": (lambda rate, shape: dist.Gamma(shape, rate), -2.5),
    "NegativeBinomial": (lambda p, r: dist.NegativeBinomial(r, p), -2.5),
    "StudentT": (lambda loc, df: dist.StudentT(df, loc, 1.0), -2.5),
    "LogNormal": (lambda loc, scale: dist.LogNormal(loc, scale), -1.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_arguments_are_those_of_a_law(name: str) -> None:
    """The data are to blame, not the start: site, argument, bound and row."""
    law, bad = KNOWN[name]
    pattern = rf'^Site "y": expected \w+ of \w+ within GreaterThan\w*\(lower_bound=0.*, got {bad} at index \(2,\)\. '
    refuse("data", pattern, mixture, law, known(bad), COUNTS + (name in ("Gamma", "LogNormal")))


def test_known_shares_of_a_latent() -> None:
    """A share below zero, in a row."""

    def model(share: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.2, 0.4]))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.stack([share, 1 - share], -1)))
            pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)

    pattern = r'^Site "z": expected probs of Categorical .*, got \[-0\.5, 1\.5\] at index \(2,\)\. '
    refuse("data", pattern, model, torch.where(torch.arange(5) == 2, -0.5, 0.25), COUNTS)


COVARIATES: dict[str, Law] = {
    "Normal": lambda slope, x: dist.Normal(slope * x, 1.0),
    "Bernoulli": lambda slope, x: dist.Bernoulli(logits=slope * x),
    "Poisson": lambda slope, x: dist.Poisson(torch.exp(slope * x)),
}


@pytest.mark.parametrize("name", COVARIATES)
def test_a_gap_among_covariates(name: str) -> None:
    """Not the start is to blame, and the row is named."""
    pattern = r'^Site "y": expected \w+ of \w+ to be a number in every row, got nan at index \(2,\)\. '
    y = COUNTS.clamp(max=1.0) if name == "Bernoulli" else COUNTS
    refuse("data", pattern, mixture, COVARIATES[name], known(torch.nan), y, methods="step fit posterior")
