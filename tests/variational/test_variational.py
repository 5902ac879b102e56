"""Variational Bayes over the zoo: the bound never falls, laws have means in order, and what has no law is named."""

from collections.abc import Callable, Mapping
from math import lgamma, log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import (
    discrete_hmm,
    factor_analysis,
    gaussian_mixture,
    hidden_markov,
    latent_classes,
    poisson_mixture,
    topics,
)
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from programs.loops import stored
from torch import Tensor, tensor

from em_pyro import EMError, NormalWishart, ParameterError, PlanError, StickBreaking, VariationalEM, VariationalFit
from em_pyro.fit.starting.starts import starting_points
from em_pyro.variational.choose import choose
from em_pyro.variational.climbing.climb import climb


def flat(size: int, count: float = 1.0) -> dist.Dirichlet:
    """A Dirichlet of equal shapes."""
    return dist.Dirichlet(torch.full((size,), count))


def chain_priors(**more: Any) -> dict[Any, Any]:
    """Of the states of a chain, and of what they emit."""
    return {"initial": flat(2), "transition": flat(2), **more}


def pair(dim: int) -> NormalWishart:
    """A vague law of means and precisions."""
    return NormalWishart(torch.zeros(dim), 0.1, torch.eye(dim), dim + 1.0)


def zoo() -> Mapping[str, tuple[Callable[..., None], dict[Any, Any], tuple[Any, ...]]]:
    """Models as they stand, priors by name, data."""
    answers = latent_classes.simulate(100)
    counts = topics.simulate(20)
    words = topics.simulate_unigrams(20)
    series = torch.poisson(torch.tensor([2.0, 9.0]).repeat_interleave(6)).repeat(3, 1)
    items = {f"item_{j}": flat(size) for j, size in enumerate(answers[2])}
    mixture = gaussian_mixture.simulate(60)
    return {
        "latent classes": (latent_classes.latent_classes, {"weights": flat(2), **items}, answers),
        "topics": (topics.plsa, {"share": flat(2, 0.5), "topics": flat(12, 0.2)}, counts),
        "unigrams": (topics.unigrams, {"weights": flat(2), "topics": flat(12, 0.2)}, words),
        "hidden Markov": (hidden_markov.poisson, chain_priors(rate=dist.Gamma(1.0, 0.1)), (series,)),
        "as one site": (discrete_hmm.poisson, chain_priors(rate=dist.Gamma(1.0, 0.1)), (series,)),
        "normal chain": (hidden_markov.gaussian, chain_priors(**{}) | {("loc", "scale"): pair(1)}, (series,)),
        "independent": (gaussian_mixture.diagonal, {"weights": flat(3), ("loc", "scale"): pair(1)}, (mixture, 3)),
        "process": (
            gaussian_mixture.full,
            {"weights": StickBreaking(0.5), ("loc", "scale_tril"): pair(2)},
            (mixture, 5),
        ),
    }


def fitted(name: str, **options: Any) -> VariationalFit:
    """A model of `zoo` fitted."""
    model, priors, args = zoo()[name]
    return VariationalEM(model, priors, **options).fit(*args)


@pytest.mark.parametrize("name", zoo())
def test_the_bound_never_falls(name: str) -> None:
    """To an end, from the model's own start; laws have the shapes of the parameters; the store is as it was."""
    fit = fitted(name)
    assert fit.converged
    assert fit.acceleration is not None or fit.num_steps == len(fit.path) - 1
    assert fit.elbo == fit.path[-1]
    assert all(b >= a - IDENTITY * abs(a) for a, b in zip(fit.path, fit.path[1:], strict=False))
    program = fit.prepared.program
    assert {n: v.shape for n, v in fit.params.items()} == {n: p.initial.shape for n, p in program.parameters.items()}
    assert not stored()
    assert "evidence lower bound" in str(fit)


def test_rows_that_are_merged_are_rows() -> None:
    """A few values many times, kept once with a weight each, have the bound that they have one by one."""
    counts = torch.arange(5.0).repeat(300)
    priors = {"weights": WEIGHTS, "rate": PRIOR}
    fit = VariationalEM(KINDS, priors, tol=0, max_steps=20).fit(counts)
    engine = fit.prepared.engine
    assert engine.unmerged is not None
    every = climb(
        fit.prepared.of_all_rows,
        choose(engine.full, priors),
        starting_points(fit.prepared, 1, 0)[0],
        tol=0,
        max_steps=20,
        told=lambda *_: None,
    )
    assert distance(tensor(fit.path), tensor(every.path)) < IDENTITY


def test_the_origin_does_not_matter() -> None:
    """Far from zero, with cells too narrow for one centre, steps are the same: nothing is lost to digits."""
    x, far = gaussian_mixture.simulate(60), 1e5
    start = {"loc": tensor([[0.0, 0.0], [4.0, 4.0]]), "scale_tril": torch.eye(2).repeat(2, 1, 1)}

    def fit(by: float) -> VariationalFit:
        law = NormalWishart(torch.zeros(2) + by, 0.1, torch.eye(2), 3.0)
        given = {**start, "loc": start["loc"] + by}
        return VariationalEM(gaussian_mixture.full, {"weights": flat(2), ("loc", "scale_tril"): law}, starts=given,
                             tol=0, max_steps=10).fit(x + by)  # fmt: skip

    here, there = fit(0.0), fit(far)
    assert distance(tensor(here.path), tensor(there.path)) < SOLVERS
    narrow = torch.cat([x * 1e-3, x * 1e-3 + 5.0])
    law = NormalWishart(torch.zeros(2), 0.1, 1e-6 * torch.eye(2), 3.0)
    found = VariationalEM(
        gaussian_mixture.full, {"weights": flat(2), ("loc", "scale_tril"): law}, max_steps=200
    ).fit(narrow)  # fmt: skip
    assert distance(found.params["weights"], tensor([0.5, 0.5])) < 1e-2
    assert found.converged


# ---- sticks ----------------------------------------------------------------------------------------------------------


def test_sticks_sorted_are_higher_and_in_the_order_of_the_states() -> None:
    """With few rows in the first state the order matters: sorted the bound is higher; means go with the states."""
    x = gaussian_mixture.simulate(60)
    rows = torch.cat([x[x[:, 0] < 2][:6], x[x[:, 0] >= 2]])
    start = {"loc": tensor([[0.0, 0.0], [4.0, 4.0], [9.0, 0.0]]), "scale_tril": torch.eye(2).repeat(3, 1, 1)}

    def fit(*, sort: bool) -> VariationalFit:
        priors = {"weights": StickBreaking(0.5, sort=sort), ("loc", "scale_tril"): pair(2)}
        return VariationalEM(gaussian_mixture.full, priors, starts=start).fit(rows, 3)

    sorted_, plain = fit(sort=True), fit(sort=False)
    assert sorted_.elbo > plain.elbo + 0.1
    assert sorted_.laws["weights"].order.tolist()[0] == 1
    assert sorted_.params["weights"].argmax() == 1
    assert distance(sorted_.params["weights"].sum(), 1.0) < IDENTITY
    assert plain.laws["weights"].order.tolist() == [0, 1, 2]


# ---- the posterior ---------------------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_the_laws() -> None:
    """Responsibilities add up to the counts of the laws; other rows have those of the same rows; points have others."""
    model, priors, args = zoo()["latent classes"]
    fit = VariationalEM(model, priors, tol=0, max_steps=400).fit(*args)
    shares = fit.posterior.marginal("kind")
    assert distance(1 + shares.sum(0), fit.laws["weights"].concentration) < SOLVERS
    answers, K, sizes, answered = args
    new = fit.posterior_on(answers[:7], K, sizes, answered[:7])
    assert distance(new.marginal("kind"), shares[:7]) < IDENTITY
    assert distance(new.log_evidence_by("person"), fit.posterior.log_evidence_by("person")[:7]) < IDENTITY
    assert distance(new.log_evidence, new.log_evidence_by("person").sum()) < IDENTITY
    divergence = sum(float(each.divergence(law)) for each, law in fit.held)
    assert distance(fit.posterior.log_evidence - divergence, fit.elbo) < SOLVERS


# ---- what is refused -------------------------------------------------------------------------------------------------


COUNTS, ROWS, WEIGHTS, TRIL = (
    torch.arange(5.0),
    torch.linspace(0, 3, 18).reshape(9, 2).double() % 1.1,
    flat(2),
    ("loc", "scale_tril"),
)
KINDS, FULL = poisson_mixture.poisson_mixture, gaussian_mixture.full
VAGUE, PRIOR = pair(2), dist.Gamma(1.0, 1.0)

REFUSED: Mapping[str, tuple[Callable[..., None], dict[Any, Any], Tensor, type[EMError], str]] = {
    "none": (KINDS, {"rate": PRIOR}, COUNTS, PlanError, '"weights", got none'),
    "another": (KINDS, {"weights": dist.Beta(1.0, 1.0)}, COUNTS, PlanError, "rows that add up"),
    "not conjugate": (KINDS, {"weights": WEIGHTS, "rate": dist.LogNormal(0.0, 1.0)}, COUNTS, PlanError, "a Gamma"),
    "no closed form": (
        poisson_mixture.negative_binomial_mixture,
        {"weights": WEIGHTS, "total_count": PRIOR, "probs": dist.Beta(1.0, 1.0)},
        COUNTS,
        PlanError,
        '"total_count"',
    ),
    "scale unknown": (FULL, {"weights": WEIGHTS, "loc": dist.Normal(0.0, 1.0)}, ROWS, PlanError, "NormalWishart"),
    "wrong way round": (FULL, {"weights": WEIGHTS, TRIL[::-1]: VAGUE}, ROWS, PlanError, "the first"),
    "one name": (FULL, {"weights": WEIGHTS, "loc": VAGUE}, ROWS, PlanError, "two parameters"),
    "dimensions": (FULL, {"weights": WEIGHTS, TRIL: pair(3)}, ROWS, ParameterError, "2 coordinates"),
    "unknown name": (FULL, {"weight": WEIGHTS}, ROWS, ParameterError, '"weight"'),
    "twice": (FULL, {"loc": dist.Normal(0.0, 1.0), TRIL: VAGUE}, ROWS, ParameterError, "got two"),
    "shape": (FULL, {"weights": flat(3), TRIL: VAGUE}, ROWS, ParameterError, "broadcast"),
    "continuous": (factor_analysis.factor_analysis, {}, ROWS, PlanError, "continuous and integrated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_law_is_named(name: str) -> None:
    """By parameter, with the reason; nothing is left in the store."""
    model, priors, data, error, said = REFUSED[name]
    with pytest.raises(error) as raised:
        VariationalEM(model, priors).fit(data)
    assert said in str(raised.value)
    assert not stored()


def test_what_enters_no_site_keeps_its_prior() -> None:
    """The weight of the only component: the bound is that of the rates alone."""
    prior = dist.Dirichlet(tensor([3.0]))
    fit = VariationalEM(KINDS, {"weights": prior, "rate": PRIOR}).fit(COUNTS, 1)
    assert fit.laws["weights"] is prior
    want = lgamma(11) - 11 * log(6) - sum(lgamma(x + 1) for x in range(5))
    assert distance(fit.elbo, want) < IDENTITY


def test_priors_of_the_program_are_read() -> None:
    """One that depends on parameters, and one beside another in `priors=`, are refused."""

    def model(x: Tensor, *, hyper: bool = False) -> None:
        shape = pyro.param("shape", tensor(1.0), constraint=dist.constraints.positive) if hyper else 2.0
        rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.arange(5.0)
    assert distance(VariationalEM(model).fit(x).laws["rate"].concentration, 12.0) < IDENTITY
    with pytest.raises(ParameterError, match="no second prior"):
        VariationalEM(model, {"rate": dist.Gamma(1.0, 1.0)}).fit(x)
    with pytest.raises(EMError, match="known"):
        VariationalEM(lambda x: model(x, hyper=True), {"shape": dist.Gamma(1.0, 1.0)}).fit(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormalWishart(torch.zeros(2), 0.0, torch.eye(2), 3.0),
        lambda: NormalWishart(torch.zeros(2), 1.0, torch.eye(2), 1.0),
        lambda: NormalWishart(torch.zeros(2), 1.0, torch.eye(3), 3.0),
        lambda: NormalWishart(torch.zeros(2), 1.0, -torch.eye(2), 3.0),
        lambda: NormalWishart(torch.zeros(3, 2), torch.ones(2), torch.eye(2), 3.0),
        lambda: StickBreaking(0.0),
        lambda: VariationalEM(KINDS, priors=[1]),  # type: ignore[arg-type]
        lambda: VariationalEM(KINDS, tol=-1.0),
        lambda: VariationalEM(KINDS, progress="no"),  # type: ignore[arg-type]
        lambda: VariationalEM(KINDS, acceleration="quasi-newton"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    """At once."""
    with pytest.raises(ParameterError, match="expected"):
        make()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_every_option_does_something() -> None:
    """Starts, their seed, the cap, the tolerance, the callback and the bar."""
    assert fitted("process", max_steps=3).outcome == "step limit"
    assert fitted("process", tol=1e-3).num_steps < fitted("process").num_steps
    many = fitted("process", starts=4)
    assert len(many.starts) == 4
    assert many.elbo == max(level for level, _ in many.starts)
    assert "best of 4 starts" in str(many)
    assert fitted("process", starts=4, seed=1).starts[1:] != many.starts[1:]
    seen = list[float]()

    def watch(state: Any) -> bool:
        seen.append(state.objective)
        assert set(state.params) == {"weights", "loc", "scale_tril"}
        return state.step == 4

    fit = fitted("process", callback=watch)
    assert fit.outcome == "stopped"
    assert tuple(seen) == fit.path[1:]


def test_the_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error."""
    fitted("latent classes", progress=True)
    assert "steps" in capsys.readouterr().err
