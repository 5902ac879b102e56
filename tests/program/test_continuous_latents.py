"""Continuous latents in a data plate: refused with their remedy, or maximised with an entry a row."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.evidence import log_evidence
from oracles.m_steps import same
from oracles.refusals import refuse
from oracles.tolerances import IDENTITY, SOLVERS
from pyro import poutine
from torch import Tensor, tensor

from em_pyro import EM, ParameterError
from em_pyro.compare import compare, em

ROWS, WORDS, TOPICS, VOCABULARY = 5, 12, 3, 6
MAXIMISE = {"share": "maximise"}


def words(seed: int = 0) -> Tensor:
    """Draw words of documents, shape (words, documents)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand((WORDS, ROWS), generator=generator) ** 2 * VOCABULARY).long()


def documents(x: Tensor, shape: Callable[[], Tensor] = lambda: torch.full((TOPICS,), 1.6), weight: Any = 1.0) -> None:
    """Topics of documents: a row of shares for each document, a topic for each word."""
    with pyro.plate("topics", TOPICS):
        table = pyro.sample("table", dist.Dirichlet(torch.full((VOCABULARY,), 1.3)))
    law = shape()
    with pyro.plate("documents", x.shape[1]), poutine.scale(scale=weight):
        share = pyro.sample("share", dist.Dirichlet(law))
        with pyro.plate("words", len(x)):
            topic = pyro.sample("topic", dist.Categorical(share))
            pyro.sample("word", dist.Categorical(table[topic]), obs=x)


def strengths() -> Tensor:
    """Shapes of the shares, fitted as well."""
    with pyro.plate("strengths", TOPICS):
        return pyro.sample("strength", dist.Gamma(2.0, 1.0))


def test_rows_of_shares_in_closed_form() -> None:
    """The plan has them, and the objective is Pyro's own."""
    x = words()
    plan = EM(documents, continuous=MAXIMISE).plan(x)
    assert {name: line.how for name, line in plan.lines.items()} == {"table": "closed form", "share": "closed form"}
    fit = EM(documents, continuous=MAXIMISE).fit(x)
    assert fit.converged, str(fit)
    assert fit.params["share"].shape == (ROWS, TOPICS)
    same(tensor(fit.objective), tensor(log_evidence(documents, x, params=fit.params)))


@pytest.mark.laws
def test_a_step_is_that_by_hand() -> None:
    """Shares of a document: its expected topics, and the shape less one."""
    x = words()
    start = EM(documents, continuous=MAXIMISE, max_steps=3, tol=0).fit(x).params
    share, table = start["share"], start["table"]
    joint = share.T[:, None, :] * table[:, x]  # topics, words, documents
    topics = (joint / joint.sum(0)).sum(1).T + 0.6
    fit = EM(documents, continuous=MAXIMISE, starts=start, max_steps=1, tol=0).fit(x)
    same(fit.params["share"], topics / topics.sum(-1, keepdim=True))


@pytest.mark.laws
@pytest.mark.parametrize("density", ["constrained", "unconstrained"])
def test_shapes_that_are_fitted_as_well(density: str) -> None:
    """The closed form of the shares is conditional then: swept, to the maximum that torch finds too."""
    x = words()

    def model(x: Tensor) -> None:
        documents(x, strengths)

    options: dict[str, Any] = {"continuous": MAXIMISE, "prior_density": density}
    plan = EM(model, **options).plan(x)
    assert plan["share"].how == "swept"
    assert "prior has parameters" in plan["share"].why
    start = EM(model, max_steps=1, tol=0, **options).fit(x).params
    step = EM(model, starts=start, max_steps=1, tol=0, **options).fit(x)
    assert step.objective > step.path[0]
    if density == "constrained":  # unbounded where shares and shapes go to zero together
        same(tensor(step.objective), tensor(log_evidence(model, x, params=step.params)))
        return
    swept = EM(model, starts=start, **options).fit(x)
    torch_only = EM(model, m_step={"share": "torch"}, starts=start, **options).fit(x)
    assert swept.converged
    assert torch_only.converged
    same(tensor(swept.objective), tensor(torch_only.objective), SOLVERS)


@pytest.mark.laws
@pytest.mark.parametrize("shape", [lambda: torch.full((TOPICS,), 1.6), strengths], ids=["known", "fitted"])
@pytest.mark.parametrize("density", ["constrained", "unconstrained"])
def test_a_weight_of_two_is_the_row_twice(density: str, shape: Callable[[], Tensor]) -> None:
    """The prior of a row counts as often as the row."""
    x, weight = words(), tensor([1.0, 2.0, 1.0, 3.0, 1.0])
    twice = x[:, [0, 1, 1, 2, 3, 3, 3, 4]]
    options: dict[str, Any] = {"continuous": MAXIMISE, "prior_density": density, "max_steps": 2, "tol": 0}
    start = EM(lambda x: documents(x, shape), **options).fit(x).params
    more = {**start, "share": start["share"][[0, 1, 1, 2, 3, 3, 3, 4]]}
    weighted = EM(lambda x: documents(x, shape, weight), starts=start, **options)
    assert weighted.plan(x)["share"].closed_form
    one, other = weighted.fit(x), EM(lambda x: documents(x, shape), starts=more, **options).fit(twice)
    same(tensor(one.path), tensor(other.path), SOLVERS if "strength" in start else IDENTITY)
    same(one.params["share"][[0, 1, 1, 2, 3, 3, 3, 4]], other.params["share"], SOLVERS)


def test_weights_of_an_outer_plate() -> None:
    """Each row's density has the weight of that row, whatever dimensions stand to its right."""
    x, weight = tensor([[1.0, 2.0], [0.0, 3.0], [5.0, 4.0]]), tensor([1.0, 2.0, 0.5])

    def model(x: Tensor) -> None:
        shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", 3, dim=-2), poutine.scale(scale=weight[:, None]):
            rate = pyro.sample("rate", dist.Gamma(shape, 1.5))
            with pyro.plate("columns", 2, dim=-1):
                pyro.sample("x", dist.Poisson(rate), obs=x)

    start = {"shape": tensor(1.3), "rate": tensor([[1.1], [0.7], [3.0]])}
    em = EM(model, continuous={"rate": "maximise"}, starts=start, max_steps=0)
    assert em.plan(x)["rate"].how == "swept"
    rate = start["rate"].squeeze(-1)
    by_row = dist.Gamma(1.3, 1.5).log_prob(rate) + dist.Poisson(rate[:, None]).log_prob(x).sum(-1)
    same(tensor(em.fit(x).objective), dist.Gamma(2.0, 1.0).log_prob(tensor(1.3)) + (weight * by_row).sum())


BY_ROW: dict[str, tuple[Any, Any, Any]] = {
    "Gamma, Poisson": (lambda: dist.Gamma(2.0, 0.7), dist.Poisson, lambda x: (x + 1.0) / 1.7),
    "Beta, Bernoulli": (lambda: dist.Beta(2.0, 3.0), dist.Bernoulli, lambda x: ((x > 1) + 1.0) / 4.0),
    "Normal, Normal": (lambda: dist.Normal(1.0, 2.0), lambda a: dist.Normal(a, 1.0), lambda x: (x + 0.25) / 1.25),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_rows_of_other_conjugate_pairs(name: str) -> None:
    """Each row has the mode of its own posterior."""
    prior, law, mode = BY_ROW[name]
    x = tensor([0.0, 1.0, 4.0, 2.0, 2.0, 7.0])

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            value = pyro.sample("value", prior())
            pyro.sample("x", law(value), obs=(x > 1).double() if "Bernoulli" in name else x)

    assert EM(model, continuous={"value": "maximise"}).plan(x)["value"].how == "closed form"
    fit = EM(model, continuous={"value": "maximise"}).fit(x)
    same(fit.params["value"], mode(x))
    same(tensor(fit.objective), tensor(log_evidence(model, x, params=fit.params)))


def test_rows_without_a_closed_form() -> None:
    """Torch fits them, in the density that is asked for."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = tensor([0.0, 1.0, 4.0, 2.0])
    fit = EM(model, continuous={"rate": "maximise"}, prior_density="unconstrained").fit(x)
    rate = fit.params["rate"]
    assert float((x - rate - rate.log()).abs().max()) < 1e-4  # the slope in log(rate) under a standard normal


def test_a_plate_of_some_rows() -> None:
    """A latent in a plate of the data that does not hold them all: a table of laws for every feature."""

    def model(x: Tensor) -> None:
        features = pyro.plate("features", 4, dim=-2)
        with features, pyro.plate("components", 2, dim=-1):
            p = pyro.sample("p", dist.Dirichlet(torch.full((3,), 1.5)))
        with pyro.plate("rows", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            with features as which:
                pyro.sample("x", dist.Categorical(p[which[:, None], z]), obs=x)

    x = (torch.rand((4, 9), generator=torch.Generator().manual_seed(1)) * 3).long()
    fit = EM(model, continuous={"p": "maximise"}).fit(x)
    assert fit.plan["p"].how == "closed form"
    assert fit.converged
    same(tensor(fit.objective), tensor(log_evidence(model, x, params=fit.params)))


def test_the_plan_is_kept_outside_of_plates() -> None:
    """There a continuous latent is maximised in any case; saying so changes nothing."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = tensor([0.3, 1.2])
    fits = [EM(model, continuous=choice).fit(x) for choice in (None, {"loc": "maximise"})]
    assert fits[0].path == fits[1].path
    assert EM(model, continuous={"loc": "maximise"}).fit(x).posterior_on(tensor([1.0])).log_evidence < 0


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_the_refusal_names_the_remedy() -> None:
    """A continuous latent in a data plate is never maximised unasked."""
    refuse("model", r'^Site "share".*EM\(continuous=\{"share": "maximise"\}\)', documents, words())


@pytest.mark.parametrize("name", ["shares", "topic", "word"])
def test_what_is_no_continuous_latent(name: str) -> None:
    """An unknown name, a discrete latent and what is observed, by name."""
    pattern = rf'^continuous: expected names .*\[\'share\', \'table\'\], got "{name}"'
    refuse("parameter", pattern, documents, words(), continuous={name: "maximise", **MAXIMISE})


@pytest.mark.parametrize(
    ("continuous", "pattern"),
    [
        ({"share": "sample"}, 'continuous\\["share"\\]: expected "integrate" or "maximise", got \'sample\''),
        ("share", "expected continuous to be a dict"),
    ],
)
def test_what_cannot_be_done_with_them(continuous: Any, pattern: str) -> None:
    """When the EM is built."""
    with pytest.raises(ParameterError, match=pattern):
        EM(documents, continuous=continuous)


def test_what_has_no_exact_integral() -> None:
    """Only normal latents have one."""
    pattern = '^continuous\\["share"\\]: expected "maximise", got "integrate" for a Dirichlet: .*quadrature'
    refuse("parameter", pattern, documents, words(), continuous={"share": "integrate"})


@pytest.mark.parametrize("columns", [ROWS - 2, ROWS, ROWS + 1])
def test_other_rows_have_no_entry(columns: int) -> None:
    """As many of them, too: the entries are those of other documents."""
    x = words()
    fit = EM(documents, continuous=MAXIMISE, max_steps=2).fit(x)
    assert abs(fit.posterior.log_evidence - fit.log_likelihood) < IDENTITY * (1 + abs(fit.log_likelihood))
    with pytest.raises(ParameterError, match='Site "share": expected the rows that were fitted'):
        fit.posterior_on(torch.cat([words(1), words(2)], 1)[:, :columns])


def test_a_race_with_rows_of_their_own() -> None:
    """It may be run, and not be judged on rows that were held out."""
    options: dict[str, Any] = {"args": (words(),), "budget_seconds": 0.2, "max_steps": 4, "echo": lambda line: None}
    race = compare(documents, contenders={"em": em()}, continuous=MAXIMISE, **options)
    assert race.lanes[0].points
    with pytest.raises(ParameterError, match='Site "share": expected the rows that were fitted'):
        compare(documents, contenders={"em": em()}, continuous=MAXIMISE, held_out=(words(1),), **options)
