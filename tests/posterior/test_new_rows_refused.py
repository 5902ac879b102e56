"""Other rows that fitted values do not serve: an error that names the parameter, the plate or the model."""

import re
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from test_new_rows import classes, fitted
from torch import Tensor, tensor

from em_pyro import EM, DataError, ModelError, ParameterError

X = tensor([-0.3, 0.4, 5.8, 6.3, 11.9, 12.2], dtype=torch.float64)


def components(x: Tensor, K: int = 2) -> None:
    """Mix Normal distributions."""
    loc = pyro.param("loc", lambda: torch.linspace(0.0, 12.0, K))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def in_one_row(x: Tensor, K: int = 2) -> None:
    """Lay the table of two latents out in one row."""
    loc = pyro.param("loc", lambda: torch.linspace(0.0, 12.0, K * K))
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Categorical(torch.ones(K) / K))
        b = pyro.sample("b", dist.Categorical(torch.ones(K) / K))
        pyro.sample("x", dist.Normal(loc[K * a + b], 1.0), obs=x)


def one_by_one(x: Tensor, K: int = 2) -> None:
    """Name the components."""
    loc = torch.stack([pyro.param(f"loc{k}", tensor(6.0 * k)) for k in range(K)])
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def with_priors(x: Tensor, K: int = 2) -> None:
    """Give the locations a prior, in a plate of components."""
    with pyro.plate("components", K):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def hidden_states(x: Tensor, K: int = 2) -> None:
    """Hide the components in a site."""
    loc = pyro.param("loc", lambda: torch.linspace(0.0, 12.0, K))
    pyro.sample("x", dist.DiscreteHMM(torch.zeros(K), torch.eye(K).log_softmax(-1), dist.Normal(loc, 1.0)), obs=x)


@pytest.mark.parametrize("model", [components, in_one_row, one_by_one, with_priors, hidden_states])
@pytest.mark.parametrize("K", [2, 4])
def test_another_number_of_components(model: Callable[..., None], K: int) -> None:
    """Forgotten or larger, it is refused with the name and the fitted shape; of as many, it is answered."""
    fit = fitted(model, X, 3)
    assert fit.posterior_on(X[:2], 3).log_evidence < 0
    with pytest.raises(ParameterError, match=r'Parameter "loc\d?": expected .*(\(\d*,?\)|loc2).*, got .*fit these by'):
        fit.posterior_on(X[:2], K)


def own(x: Tensor) -> None:
    """Give every row an effect of its own, as its plate hands rows out."""
    effect = pyro.param("effect", lambda: torch.zeros(len(x)))
    with pyro.plate("rows", len(x)) as row:
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(effect[row] + z, 1.0), obs=x)


def own_at_once(x: Tensor) -> None:
    """Give every row an effect of its own, all at once."""
    effect = pyro.param("effect", torch.zeros(len(x)))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(effect + z, 1.0), obs=x)


@pytest.mark.parametrize("model", [own, own_at_once])
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_an_entry_for_each_row(model: Callable[[Tensor], None], rows: int) -> None:
    """Other rows have no entry."""
    fit = fitted(model, X)
    with pytest.raises(ParameterError, match=re.escape('Parameter "effect": expected rows that its fitted shape (6,)')):
        fit.posterior_on(torch.zeros(rows))


def test_an_entry_for_each_group() -> None:
    """Rows of some of the groups are no rows with an entry each."""

    def groups(x: Tensor, group: Tensor, G: int) -> None:
        effect = pyro.param("effect", lambda: torch.zeros(G))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
            pyro.sample("x", dist.Normal(effect[group] + z, 1.0), obs=x)

    fit = fitted(groups, X, torch.arange(6) % 4, 4)
    group = torch.tensor([3, 1])
    logs = dist.Normal(fit.params["effect"][group] + tensor([[0.0], [1.0]]), 1.0).log_prob(X[:2]) + tensor(0.5).log()
    close(fit.posterior_on(X[:2], group, 4).log_evidence_by("rows"), logs.logsumexp(0))
    with pytest.raises(ParameterError, match='Parameter "effect": .*out of bounds'):
        fit.posterior_on(X[:2], torch.tensor([0, 4]), 5)


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("full", [True, False])
def test_other_columns(columns: int, full: bool) -> None:  # noqa: FBT001
    """A profile of other length is refused, a single column too, although it could be broadcast."""

    def profiles(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.stack([x[0], x[-1]]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            each = dist.Normal(loc[z], 1.0).to_event(1)
            pyro.sample("x", dist.MultivariateNormal(loc[z], torch.eye(x.shape[1])) if full else each, obs=x)

    for at_fit in {3, 1} - {columns}:
        fit = fitted(profiles, torch.arange(12.0 * at_fit).reshape(12, at_fit).sin())
        with pytest.raises(
            ParameterError, match=re.escape(f'"loc": expected rows that its fitted shape (2, {at_fit})')
        ):
            fit.posterior_on(torch.zeros(5, columns))


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_other_covariates(columns: int, stated: bool) -> None:  # noqa: FBT001
    """Covariates are as many as coefficients: one is not taken for three."""

    def regressions(y: Tensor, x: Tensor) -> None:
        start = torch.arange(2.0 * x.shape[1]).reshape(2, -1)
        coef = pyro.param("coef", start if stated else lambda: start)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), 1.0), obs=y)

    fit = fitted(regressions, X, torch.arange(18.0).reshape(6, 3).sin())
    with pytest.raises(ParameterError, match=re.escape('"coef": expected rows that its fitted shape (2, 3) serves')):
        fit.posterior_on(X[:2], torch.ones(2, columns))


def test_a_module_of_other_width() -> None:
    """The weights of a module are named too."""
    layer = torch.nn.Linear(3, 2)

    def gated(y: Tensor, x: Tensor) -> None:
        net = pyro.module("net", layer)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(logits=net(x)))
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=y)

    x = torch.arange(18.0).reshape(6, 3).sin()
    fit = fitted(gated, X, x)
    logs = layer(x[:1]).detach().log_softmax(-1) + dist.Normal(tensor([0.0, 1.0]), 1.0).log_prob(X[:1, None])
    close(fit.posterior_on(X[:1], x[:1]).log_evidence, float(logs.logsumexp(-1)))
    with pytest.raises(ParameterError, match='Parameter "net.*weight": expected rows'):
        fit.posterior_on(X[:1], x[:1, :2])


def test_no_rows() -> None:
    """No rows are refused, by the plate or by what the model makes of them."""
    with pytest.raises(DataError, match='Plate "rows": expected at least one row'):
        fitted(components, X).posterior_on(X[:0])
    pyro.clear_param_store()
    with pytest.raises(DataError, match="expected at least one row, got none"):
        EM(classes, max_steps=2).fit(torch.tensor([[0, 1], [2, 2]]), stated=True).posterior_on(
            torch.zeros((0, 2), dtype=torch.long), stated=True
        )


def test_what_the_model_itself_refuses() -> None:
    """An error of the model that no parameter enters is handed on as the model's."""

    def careful(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 6.0]))
        if len(x) < 3:
            raise ValueError("three rows at least")
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    with pytest.raises(ModelError, match="ValueError: three rows at least") as refusal:
        fitted(careful, X).posterior_on(X[:2])
    assert isinstance(refusal.value.__cause__, ValueError)
