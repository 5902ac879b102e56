"""A forgotten constraint: a fit does not leave the arguments that a law has, whatever the formulas give beyond."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit, ObjectiveError
from em_pyro.program import site

LABELS = tensor([0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
TABLE = tensor([[5.0, 0.0, 0.0], [4.0, 1.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.float64)
HITS = tensor([1.0, 2, 2, 3, 1, 0, 2, 4, 1, 2], dtype=torch.float64)
Law = Callable[[Tensor], dist.TorchDistribution]

LAWS: dict[str, tuple[Law, Tensor, constraints.Constraint]] = {
    "Categorical": (lambda p: dist.Categorical(p), LABELS, constraints.simplex),
    "OneHotCategorical": (lambda p: dist.OneHotCategorical(p), torch.eye(3).double()[LABELS], constraints.simplex),
    "Multinomial": (lambda p: dist.Multinomial(5, p), TABLE, constraints.simplex),
    "DirichletMultinomial": (lambda p: dist.DirichletMultinomial(p, 5), TABLE, constraints.positive),
    "BetaBinomial": (lambda p: dist.BetaBinomial(p[0], p[1], 10), HITS, constraints.positive),
    "independent": (lambda p: dist.BetaBinomial(p[:2], p[2], 10).to_event(1), HITS.reshape(5, 2), constraints.positive),
}


def fitted(name: str, *, stated: bool) -> Fit:
    """Fit one law, with the constraint of its argument or without it."""
    law, data, constraint = LAWS[name]
    value = torch.ones(3, dtype=torch.float64) / 3

    def model() -> None:
        p = pyro.param("p", value, constraint=constraint if stated else constraints.real)
        with pyro.plate("rows", len(data)):
            pyro.sample("y", law(p), obs=data)

    pyro.clear_param_store()
    return EM(model).fit()


@cache
def usual(name: str) -> Fit:
    """The fit with the constraint, made once."""
    return fitted(name, stated=True)


@pytest.mark.parametrize("name", LAWS)
def test_no_fit_is_higher_than_with_the_constraint(name: str) -> None:
    """It ends as high, at the boundary perhaps, and there it is not confirmed."""
    fit = fitted(name, stated=False)
    assert fit.objective == pytest.approx(usual(name).objective, abs=1e-4)
    assert bool((fit.params["p"] >= 0).all())


@pytest.mark.parametrize("kind", [dist.Dirichlet, dist.Beta])
def test_a_family_that_is_left_says_so(kind: type[dist.TorchDistribution]) -> None:
    """Its formulas, too, have values below zero: the ending asks for the constraint."""
    rows = torch.tensor([[0.98, 1e-2, 1e-2], [1e-4, 1e-4, 0.9998], [1e-6, 0.999998, 1e-6], [0.5, 0.5 - 1e-5, 1e-5]])
    rows = rows.double() / rows.double().sum(-1, keepdim=True)

    def model() -> None:
        a = pyro.param("a", torch.ones(3, dtype=torch.float64))
        with pyro.plate("rows", len(rows)):
            law, data = (kind(a), rows) if kind is dist.Dirichlet else (kind(a[0], a[1]), rows[:, 0])
            pyro.sample("y", law, obs=data)

    pyro.clear_param_store()
    fit = EM(model).fit()
    assert fit.converged or any("constraint" in note for note in fit.notes)
    assert bool((fit.params["a"] > 0).all())


POSITIVE: dict[str, tuple[Law, Tensor, list[float]]] = {
    "Gamma": (lambda a: dist.Gamma(a, 1.0), tensor([2.1, 2.5, 1.2, 1.6, 2.4, 1.9, 0.4, 3.8]), [1.0, 30.0]),
    "Beta": (lambda a: dist.Beta(a, 1.0), tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.15]), [1.0, 50.0]),
    "VonMises": (lambda a: dist.VonMises(0.0, a), tensor([0.3, -0.2, 2.9, -3.0, 1.4, 0.1]), [1.0, 3.0]),
    "Bernoulli": (lambda a: dist.Bernoulli(a), tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]), [0.3, 1.0]),
    "Poisson": (lambda a: dist.Poisson(a), tensor([1.0, 4.0, 0.0, 9.0]), [0.1, 50.0]),
}
"""Laws of a positive number or a probability, data, and starts from which a step would leave what they may be."""


@pytest.mark.parametrize("name", POSITIVE)
def test_a_shape_without_its_constraint_ends_as_high(name: str) -> None:
    """A step that leaves the law is none: the maximum is that of the constraint."""
    law, data, start = POSITIVE[name]
    data, ends = data.double(), []

    def model(constraint: constraints.Constraint) -> None:
        a = pyro.param("a", tensor(start, dtype=torch.float64), constraint=constraint)
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
            pyro.sample("y", law(a[z]), obs=data)

    for constraint in (constraints.real, constraints.unit_interval if name == "Bernoulli" else constraints.positive):
        pyro.clear_param_store()
        ends.append(EM(model).fit(constraint))
    assert [end.outcome for end in ends] == ["converged"] * 2
    assert ends[0].objective == pytest.approx(ends[1].objective, abs=1e-4)


@pytest.mark.parametrize("name", POSITIVE)
def test_a_start_that_is_no_law(name: str) -> None:
    """The argument is named with its value, and what it may be."""
    law, data, _ = POSITIVE[name]

    def model() -> None:
        a = pyro.param("a", tensor([-0.5, 0.6], dtype=torch.float64))
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
            pyro.sample("y", law(a[z]), obs=data.double())

    pyro.clear_param_store()
    with pytest.raises(ObjectiveError, match=rf'"y": \w+ of {name} is -0.5, not within .*constraints'):
        EM(model).fit()


def test_a_fit_that_ends_at_no_law_is_not_confirmed() -> None:
    """A known multiple of a probability: torch cuts off what is above one, and the objective is level there."""
    hits = tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)

    def model() -> None:
        a = pyro.param("a", tensor([0.15, 0.6], dtype=torch.float64))
        with pyro.plate("rows", len(hits)):
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
            pyro.sample("y", dist.Bernoulli(2 * a[z]), obs=hits)

    pyro.clear_param_store()
    fit = EM(model).fit()
    assert fit.outcome == "unconfirmed"
    assert any("probs of Bernoulli is" in note and "give its parameter a constraint" in note for note in fit.notes)


def test_states_share_no_more_than_one() -> None:
    """A sequence of labels has a probability: its logarithm is not above zero."""

    def chain() -> None:
        begin, table = (pyro.param(name, torch.ones(3, 3).double()) for name in ("begin", "table"))
        z = 0
        for t in pyro.markov(range(4)):
            z = pyro.sample(f"z_{t}", dist.Categorical(begin[z]))
            pyro.sample(f"y_{t}", dist.Categorical(table[z]), obs=tensor(0))

    pyro.clear_param_store()
    assert EM(chain, max_steps=5).fit().objective <= 1e-9


class Own(dist.TorchDistribution):
    """A law of the user's own, which says nothing of its arguments."""

    support = constraints.real

    def __init__(self, concentration: Tensor) -> None:
        """Keep an argument that may well be negative, under a name that torch has for a law inside another, too."""
        self.concentration = self._gamma = concentration
        super().__init__(concentration.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Normal around it."""
        return dist.Normal(self.concentration, 1.0).log_prob(value)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Own":
        """Return the same for more rows."""
        return Own(self.concentration.expand(batch_shape))


def test_a_concentration_that_is_a_vector_is_any() -> None:
    """Of a law on the sphere: its length is one shape, and its entries may be below zero."""
    pole = torch.nn.functional.normalize(
        tensor([[-1.0, 0.1, -0.4], [-0.8, -0.3, -0.2], [-0.9, 0.2, 0.3]]).double(), dim=-1
    )

    def model() -> None:
        a = pyro.param("a", tensor([-0.5, 0.1, 0.2], dtype=torch.float64))
        with pyro.plate("rows", len(pole)):
            pyro.sample("y", dist.VonMises3D(a.expand(len(pole), 3)), obs=pole)

    pyro.clear_param_store()
    fit = EM(model).fit()
    assert fit.converged
    assert fit.objective == pytest.approx(float(dist.VonMises3D(fit.params["a"]).log_prob(pole).sum()))
    assert torch.allclose(fit.params["a"] / fit.params["a"].norm(), pole.sum(0) / pole.sum(0).norm(), atol=1e-4)


def test_a_law_that_says_nothing_of_its_arguments() -> None:
    """It is left as it is."""

    def model() -> None:
        a = pyro.param("a", tensor(0.5, dtype=torch.float64))
        with pyro.plate("rows", len(HITS)):
            pyro.sample("y", Own(a.expand(len(HITS))), obs=-HITS)

    pyro.clear_param_store()
    assert float(EM(model).fit().params["a"]) == pytest.approx(-float(HITS.mean()))


@pytest.mark.parametrize("name", ["Categorical", "Multinomial"])
def test_without_it_a_fit_ends_where_there_is_no_law(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a likelihood that is none."""
    height = usual(name).objective
    monkeypatch.setattr(site, "lawful", lambda _, log_prob: log_prob)
    assert fitted(name, stated=False).objective > height + 1.0
