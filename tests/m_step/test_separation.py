"""What runs off to infinity holds up nothing else: separated components, and logits whose maximum is at infinity."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.problem import prepare

T = torch.linspace(-3.0, 3.0, 40, dtype=torch.float64)
X = torch.stack([torch.ones_like(T), T], -1)
NOISY = ((torch.sin(7.0 * T) + 0.5 * T) > 0).double()
STEP = (T > 0.4).double()
"""Separated by the covariate: its coefficients have no maximum."""


def side_by_side(x: Tensor, y: Tensor, group: Tensor, law: str = "logit") -> None:
    """Two regressions whose rows are known."""
    coef = pyro.param("coef", torch.zeros(2, 2, dtype=torch.float64))
    with pyro.plate("rows", len(y)):
        eta = (x * coef[group]).sum(-1)
        pyro.sample("y", dist.Bernoulli(logits=eta) if law == "logit" else dist.Geometric(logits=eta), obs=y)


def alone(y: Tensor, law: str) -> Tensor:
    """The coefficients of one regression by itself."""
    with pyro.get_param_store().scope():
        fit = EM(side_by_side, max_steps=3).fit(X, y, torch.zeros(len(y), dtype=torch.long), law)
    return fit.params["coef"][0]


@pytest.mark.parametrize("law", ["logit", "geometric"])
def test_a_separated_regression_holds_up_no_other(law: str) -> None:
    """The other reaches the maximum that it has alone, in one M-step."""
    noisy = NOISY if law == "logit" else NOISY + 2 * (T > 1.3)
    apart = STEP if law == "logit" else 0 * STEP
    group = torch.arange(2).repeat_interleave(len(T))
    em = EM(side_by_side)
    em.step(torch.cat([X, X]), torch.cat([noisy, apart]), group, law)
    close(em.params["coef"][0], alone(noisy, law), SOLVERS)


def mixed(x: Tensor, y: Tensor) -> None:
    """A mixture of logistic regressions that share a slope."""
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    level, slope = pyro.param("level", tensor([-1.4, 1.7])), pyro.param("slope", tensor(0.45))
    beside = pyro.param("beside", tensor(0.1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Bernoulli(logits=level[z] + slope * x + beside * (torch.arange(len(y)) % 7 == 0)), obs=y)


def test_a_set_in_which_something_runs_off_does_not_fall() -> None:
    """All coordinates share cells, and one has no maximum: the objective rises to the end."""
    y = torch.where(torch.arange(40) % 7 == 0, 1.0, NOISY)
    fit = EM(mixed, max_steps=100).fit(T, y)
    assert fit.outcome in ("converged", "step limit")
    pyro.clear_param_store()
    more = EM(mixed, starts=dict(fit.params), tol=1e-13, acceleration="squarem").fit(T, y)
    assert fit.outcome == "step limit" or more.objective - fit.objective < 1e-4


def test_coordinates_are_apart_where_they_share_no_cell() -> None:
    """Groups are; a shared slope joins them, and so does a prior, which is one function."""

    def sets(model: object, *args: Tensor) -> list[int]:
        with pyro.get_param_store().scope():
            return [s.apart.count for s in prepare(model, args, {}, {}, check=True).plan.solvers if s.how == "Newton"]

    group = torch.arange(2).repeat_interleave(len(T))
    assert sets(side_by_side, torch.cat([X, X]), torch.cat([NOISY, STEP]), group) == [2]
    assert sets(mixed, T, NOISY) == [1]


def by_logits(x: Tensor, form: str) -> None:
    """One latent for all rows, whose logits are a function of the parameter."""
    p = pyro.param("p", tensor([0.3, -0.2] if form != "three" else [0.3, -0.2, 0.1], dtype=x.dtype))
    logits = {"itself": p, "minus": -p, "flipped": p.flip(-1), "three": -p, "doubled": -2 * p}[form]
    g = pyro.sample("g", dist.Categorical(logits=logits))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(tensor([0.0, 40.0, 80.0], dtype=x.dtype)[g], 1.0), obs=x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", ["itself", "minus", "flipped", "three", "doubled"])
def test_logits_may_run_to_infinity(form: str, dtype: torch.dtype) -> None:
    """The supremum is reached, by a parameter at which the model itself is defined."""
    x = tensor([0.0, 0.4, 1.0, 0.5, 3.1, 0.2, 0.3, -0.5], dtype=dtype)
    fit = EM(by_logits).fit(x, form)
    close(fit.log_likelihood, float(dist.Normal(0.0, 1.0).log_prob(x.double()).sum()), 1e-5)
    again = pyro.poutine.trace(pyro.poutine.condition(by_logits, {"g": tensor(0)})).get_trace(x, form)
    close(float(again.log_prob_sum().detach()), fit.log_likelihood, 1e-5)
