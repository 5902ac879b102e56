"""Parameters that start where they move nothing: logits of 40, log-rates of -700, values beyond a clamp."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.m_steps import how
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.reading.recognise as recognise
from em_pyro import EM, Fit
from em_pyro.fit import loop

Y = (torch.arange(40) % 4 > 0).double()
N = (torch.arange(40) % 5).double()
X = torch.stack([torch.ones(40).double(), torch.linspace(-1.0, 1.0, 40).double()], -1)

Law = Callable[[Tensor], Any]


def one(law: Law, start: Any, y: Tensor) -> Callable[[], None]:
    """All rows have one law, of one parameter."""

    def model() -> None:
        a = pyro.param("a", torch.as_tensor(start, dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", law(a), obs=y)

    return model


def fitted(model: Callable[..., None], **options: Any) -> Fit:
    """Fit from an empty store."""
    pyro.clear_param_store()
    return EM(model, **options).fit()


SATURATED: dict[str, tuple[Law, Any, Tensor, float]] = {
    "a logit": (lambda a: dist.Bernoulli(logits=a), 40.0, Y, Y.mean().logit().item()),
    "minus a logit": (lambda a: dist.Bernoulli(logits=-a), -45.0, Y, -Y.mean().logit().item()),
    "a probability": (lambda a: dist.Bernoulli(torch.sigmoid(a)), -800.0, Y, Y.mean().logit().item()),
    "a log-rate": (lambda a: dist.Poisson(a.exp()), -700.0, N, N.mean().log().item()),
    "a logit of five": (lambda a: dist.Binomial(5, logits=a), 60.0, N, (N.mean() / 5).logit().item()),
}


@pytest.mark.parametrize("name", SATURATED)
def test_a_saturated_parameter_is_read(name: str) -> None:
    """It has the closed form that it has elsewhere, and the fit has its maximum."""
    law, start, y, expected = SATURATED[name]
    model = one(law, start, y)
    assert how(model) == {"a": "closed form"}
    fit = fitted(model)
    assert fit.converged
    close(fit.params["a"], expected, SOLVERS)


@pytest.mark.parametrize("start", [[40.0, 41.0], [[40.0, 0.0], [60.0, 1.0]]], ids=["all states", "one column"])
def test_entries_of_a_table(start: Any) -> None:
    """Saturated entries beside others, or none but these, are parameters as all are."""
    table = torch.tensor(start, dtype=torch.float64)
    data = torch.stack([Y, (N > 1).double()], -1) if table.dim() > 1 else Y

    def model() -> None:
        a = pyro.param("a", table)
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            law = dist.Bernoulli(logits=a[z])
            pyro.sample("y", law.to_event(1) if data.dim() > 1 else law, obs=data)

    assert how(model) == {"a": "closed form"}
    fit = fitted(model, max_steps=50)
    assert all((p.mean(0) - data.mean(0)).abs().max() < 1e-3 for p in [torch.sigmoid(fit.params["a"])])


def test_a_regression() -> None:
    """Logits that are saturated in all rows: Newton's method, and its maximum."""
    law = lambda a: dist.Bernoulli(logits=X @ a)  # noqa: E731
    started, usual = (fitted(one(law, start, Y)) for start in ([60.0, 0.0], [0.0, 0.0]))
    assert started.converged
    close(started.params["a"], usual.params["a"], SOLVERS)


def test_blind_probes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second look elsewhere the logit would enter no site."""
    monkeypatch.setattr(recognise, "elsewhere", lambda *_: {})
    assert how(one(SATURATED["a logit"][0], 40.0, Y)) != {"a": "closed form"}


PLATEAUS: dict[str, tuple[Law, float]] = {
    "softplus": (lambda a: dist.Poisson(torch.nn.functional.softplus(a) + 1e-300), -800.0),
    "a constant beside exp": (lambda a: dist.Normal(0.0, 1 + a.exp()), -800.0),
    "tanh": (lambda a: dist.Normal(5 * torch.tanh(a), 1.0), 50.0),
    "clamp": (lambda a: dist.Normal(a.clamp(-10, 10), 1.0), 20.0),
    "floor": (lambda a: dist.Normal(a.floor(), 1.0), 20.5),
    "relu": (lambda a: dist.Normal(torch.relu(a), 1.0), -30.0),
}


LEFT = ("a constant beside exp", "tanh", "clamp", "softplus", "relu")
"""Those from which a way leads off: to zero, or to one of the values that are tried."""


@pytest.mark.parametrize("name", [name for name in PLATEAUS if name not in LEFT])
def test_a_plateau_is_no_maximum(name: str) -> None:
    """No slope leads away, though elsewhere it is higher, or single rows would be likelier: the parameter is named."""
    law, start = PLATEAUS[name]
    fit = fitted(one(law, start, N))
    assert fit.outcome == "unconfirmed"
    assert any(said in note and '"a"' in note for note in fit.notes for said in ("plateau", "have no slope"))
    close(EM(one(law, start, N)).posterior().log_evidence, law(fit.params["a"]).log_prob(N).sum(), SOLVERS)


@pytest.mark.parametrize("name", LEFT)
def test_a_fit_comes_off_a_plateau(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the maximum; and where no way is looked for, it is the same as no maximum."""
    law, start = PLATEAUS[name]
    fit = fitted(one(law, start, N))
    assert fit.converged
    assert any("left a plateau" in note for note in fit.notes)
    close(fit.log_likelihood, fitted(one(law, 0.5, N)).log_likelihood, SOLVERS)
    monkeypatch.setattr(loop, "leave_plateau", lambda *_: None)
    stuck = fitted(one(law, start, N))
    assert stuck.outcome == "unconfirmed"
    assert any("plateau" in note and '"a"' in note for note in stuck.notes)


def test_a_parameter_without_effect() -> None:
    """Nothing is higher elsewhere where nothing depends on it: it is not identified."""

    def model() -> None:
        a, b = (pyro.param(name, tensor(50.0, dtype=torch.float64)) for name in "ab")
        with pyro.plate("rows", len(N)):
            pyro.sample("y", dist.Normal(b + 0 * a, 1.0), obs=N)

    fit = fitted(model)
    assert fit.converged
    assert any("not identified" in note and '"a"' in note for note in fit.notes)


def test_a_plateau_of_a_positive_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that starts where its effect is rounding has next to no slope, and comes off."""

    def model() -> None:
        a = pyro.param("a", tensor(1e-300, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("rows", len(N)):
            pyro.sample("y", dist.Poisson(1.0 + a), obs=N)

    fit = fitted(model)
    assert fit.converged
    close(fit.params["a"], N.mean() - 1, SOLVERS)
    monkeypatch.setattr(loop, "leave_plateau", lambda *_: None)
    stuck = fitted(model)
    assert stuck.outcome == "unconfirmed"
    assert any("plateau" in note and '"a"' in note for note in stuck.notes)
