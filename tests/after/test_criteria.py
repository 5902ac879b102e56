"""Information criteria: which rows count, which entropy, and what is refused."""

import pickle
from collections.abc import Callable
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, hidden_markov, random_effects
from oracles.agreement import close
from programs.zoo import simulated
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Criteria, Fit, ParameterError

LOC, SCALE = tensor([-1.0, 1.0]), constraints.positive


def start(name: str) -> Fit:
    """Return a fit of a model of the zoo that has taken no step: its criteria are of the start."""
    model, args = simulated(name)
    return EM(model, max_steps=0).fit(*args)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("gaussian-full", 200),
        ("hmm-gaussian", 5),
        ("discrete-hmm-gaussian", 5),
        ("hmm-factorial", 4),
        ("unigrams", 40),
        ("linear-system", 5),
        ("local-level", 1),
        ("effects-intercepts", 20),
        ("effects-nested", 8),
        ("effects-crossed", 8),
        ("factors-mixture", 200),
    ],
)
def test_rows(name: str, n: int) -> None:
    """Rows of the plate that owns the latents; a chain is one, a group is one; of crossed groups the fewer."""
    found = start(name).criteria()
    assert found.n == n
    assert f"n                 {n}" in str(found)


def test_criteria_are_what_their_formulas_say() -> None:
    """Each from the same five numbers; another n takes its place in each."""
    fit = start("gaussian-full")
    share, height = fit.posterior.marginal("component"), fit.log_likelihood
    entropy = -float((share * share.log()).sum())
    for found, n in ((fit.criteria(), 200), (fit.criteria(n=50.0), 50)):
        close(found.entropy, entropy)
        close(found.aic, -2 * height + 2 * 11)
        close(found.bic, -2 * height + 11 * log(n))
        close(found.sabic, -2 * height + 11 * log((n + 2) / 24))
        close(found.icl, -2 * height + 11 * log(n) + 2 * entropy)
        close(found.relative_entropy, 1 - entropy / (200 * log(2)))
    assert (fit.aic, fit.bic, fit.icl) == (fit.criteria().aic, fit.criteria().bic, fit.criteria().icl)
    assert fit.num_parameters == fit.criteria().parameters == 11


def test_entropy_of_a_chain_is_joint() -> None:
    """Of states that follow one another it is less than those of the states one by one."""
    model, (y, *rest) = simulated("hmm-gaussian")
    fit = EM(model, max_steps=0).fit(y[:, :3])
    shares = [fit.posterior.marginal(f"state_{t}") for t in range(3)]
    alone = sum(-float(torch.xlogy(p, p).sum()) for p in shares)
    assert 0 < fit.criteria().entropy < alone - 1e-3


def test_gaussian_latents_add_no_entropy() -> None:
    """Without discrete latents ICL is BIC, and there is no relative entropy."""
    found = start("effects-intercepts").criteria()
    assert found.entropy == 0.0
    assert found.icl == found.bic
    assert found.relative_entropy != found.relative_entropy
    assert "relative entropy" not in str(found)


def mixture(x: Tensor, weights: Tensor | float = 1.0, seen: Tensor | None = None) -> None:
    """Two normals, rows with weights, some of them not seen."""
    loc = pyro.param("loc", LOC)
    seen = torch.ones(len(x), dtype=torch.bool) if seen is None else seen
    with pyro.plate("rows", len(x)), poutine.scale(scale=weights):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0).mask(seen), obs=x)


def test_weights_add_up() -> None:
    """Rows with a weight are so many rows: every criterion is that of the rows repeated."""
    x, counts = torch.linspace(-2, 2, 5), tensor([1, 3, 2, 4, 1])
    one = EM(mixture, max_steps=0).fit(x, counts.double()).criteria()
    pyro.clear_param_store()
    other = EM(mixture, max_steps=0).fit(x.repeat_interleave(counts)).criteria()
    assert one.n == other.n == 11
    for name in ("log_likelihood", "aic", "bic", "sabic", "icl", "entropy", "relative_entropy"):
        close(getattr(one, name), getattr(other, name))


def test_rows_of_which_nothing_is_seen_do_not_count() -> None:
    """Left out or masked is the same."""
    x, seen = torch.linspace(-2, 2, 5), tensor([True, False, True, True, False])
    one = EM(mixture, max_steps=0).fit(x, 1.0, seen).criteria()
    pyro.clear_param_store()
    other = EM(mixture, max_steps=0).fit(x[seen]).criteria()
    assert one.n == other.n == 3
    close(one.icl, other.icl)
    close(one.relative_entropy, other.relative_entropy)


def regression(x: Tensor, y: Tensor) -> None:
    """No latents."""
    slope, scale = pyro.param("slope", tensor(0.0)), pyro.param("scale", tensor(1.0), constraint=SCALE)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x, scale), obs=y)


def two_patterns(x: Tensor, y: Tensor) -> None:
    """One plate for each pattern of missing values, each with latents of its own."""
    loc = pyro.param("loc", LOC)
    for name, values in (("x", x), ("y", y)):
        with pyro.plate(f"rows_{name}", len(values)):
            z = pyro.sample(f"z_{name}", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample(name, dist.Normal(loc[z], 1.0), obs=values)


def series(x: Tensor, y: Tensor) -> None:
    """Two chains without a plate."""
    loc = pyro.param("loc", LOC)
    for name, values in (("x", x), ("y", y)):
        z: Any = 0
        for t in pyro.markov(range(len(values))):
            z = pyro.sample(f"z_{name}_{t}", dist.Categorical(tensor([[0.9, 0.1], [0.1, 0.9]])[z]))
            pyro.sample(f"{name}_{t}", dist.Normal(loc[z], 1.0), obs=values[t])


@pytest.mark.parametrize(
    ("model", "n", "said"),
    [(regression, 5, '"rows"'), (two_patterns, 10, '"rows_x", "rows_y"'), (series, 2, "outside all plates")],
)
def test_rows_of_other_programs(model: Callable[..., None], n: int, said: str) -> None:
    """Without latents the rows of what is observed; patterns add up; a chain by itself is one row."""
    found = EM(model, max_steps=0).fit(torch.linspace(-2, 2, 5), torch.linspace(-1, 2, 5)).criteria()
    assert found.n == n
    assert said in found.rows


@pytest.mark.parametrize("n", [0, -3, float("inf"), float("nan"), True, "all"])
def test_no_number_of_rows(n: Any) -> None:
    """What is no number above zero is refused."""
    with pytest.raises(ParameterError, match="expected n to be a number of rows"):
        start("coins").criteria(n=n)


def test_a_pickled_fit_keeps_its_criteria() -> None:
    """Once worked out they need no data."""
    fit = start("coins")
    want = fit.criteria()
    again = pickle.loads(pickle.dumps(fit))
    assert isinstance(again.criteria(), Criteria)
    assert again.criteria() == want
    assert again.num_parameters == want.parameters


def test_a_chain_says_that_it_is_one_row() -> None:
    """So BIC of a single series charges nothing for parameters, unless n is given."""
    fit = EM(hidden_markov.gaussian, max_steps=0).fit(torch.linspace(-1, 1, 6)[None])
    assert fit.bic == -2 * fit.log_likelihood
    close(fit.criteria(n=6).bic, -2 * fit.log_likelihood + fit.num_parameters * log(6))


def test_parameters_of_the_zoo() -> None:
    """Counted by hand: covariances in full, tied, by coordinate, and round; random effects."""
    x = gaussian_mixture.simulate(D=3)
    counts = {"full": 1 + 6 + 12, "tied": 1 + 6 + 6, "diagonal": 1 + 6 + 6, "spherical": 1 + 6 + 2}
    for name, want in counts.items():
        pyro.clear_param_store()
        assert EM(getattr(gaussian_mixture, name), max_steps=0).fit(x).num_parameters == want
    pyro.clear_param_store()
    assert EM(random_effects.intercepts, max_steps=0).fit(*random_effects.simulate()).num_parameters == 3
