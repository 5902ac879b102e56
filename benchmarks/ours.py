"""The contender: `EM` on plain Pyro models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .problem import Array, Problem


class Result(NamedTuple):
    """What a fit of a fixed number of iterations reports."""

    log_likelihood: float
    planning: float | None = None
    plan: str = ""


Run = Callable[[int], Result]
Contender = Callable[[Problem], Run]


def exact(model: Callable[..., Any], *args: Any, start: dict[str, Array], options: dict[str, Any] | None = None) -> Run:
    """Fit `model(*args)` from `start`; planning is done once and kept, as it is between calls of `EM.fit`."""
    import pyro
    import torch

    from em_pyro import EM

    pyro.clear_param_store()
    known = inspect.signature(EM).parameters
    for name in options or {}:
        if name not in known:
            raise ImportError(f"this version of em_pyro has no option {name}")
    begin = {name: torch.as_tensor(value) for name, value in start.items()}
    em = EM(model, starts=begin, tol=0.0, **(options or {}))

    def run(iterations: int) -> Result:
        em.max_steps = iterations
        fit = em.fit(*args)
        return Result(fit.log_likelihood, fit.plan.seconds, str(fit.plan))

    return run


def full(problem: Problem) -> Run:
    """`em_pyro.models.gaussian_mixture.full`."""
    import torch
    from em_pyro.models import gaussian_mixture

    return exact(gaussian_mixture.full, torch.as_tensor(problem.rows["x"]), _size(problem), start=problem.start)


def diagonal(problem: Problem) -> Run:
    """`em_pyro.models.gaussian_mixture.diagonal`."""
    import torch
    from em_pyro.models import gaussian_mixture

    return exact(gaussian_mixture.diagonal, torch.as_tensor(problem.rows["x"]), _size(problem), start=problem.start)


def coins(problem: Problem) -> Run:
    """`em_pyro.models.coins.coins`, ten tosses a sequence."""
    import torch
    from em_pyro.models import coins as zoo

    return exact(zoo.coins, torch.as_tensor(problem.rows["heads"]), 10, _size(problem), start=problem.start)


def coins_row_by_row(problem: Problem) -> Run:
    """Fit `coins` with equal rows kept apart."""
    import torch
    from em_pyro.models import coins as zoo

    data = torch.as_tensor(problem.rows["heads"])
    return exact(zoo.coins, data, 10, _size(problem), start=problem.start, options={"collapse": False})


def answers(problem: Problem) -> Run:
    """`em_pyro.models.bernoulli_mixture`: all items are one site, by `.to_event(1)`."""
    import torch
    from em_pyro.models.bernoulli_mixture import bernoulli_mixture

    return exact(bernoulli_mixture, torch.as_tensor(problem.rows["x"]), _size(problem), start=problem.start)


def answers_loop(problem: Problem) -> Run:
    """Fit the same, with one site an item, in a Python loop."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch import Tensor
    from torch.distributions import constraints

    def items(x: Tensor, K: int) -> None:
        weights = pyro.param(
            "weights", torch.full((K,), 1 / K, dtype=x.dtype, device=x.device), constraint=constraints.simplex
        )
        half = torch.full((K, x.shape[1]), 0.5, dtype=x.dtype, device=x.device)
        probs = pyro.param("probs", half, constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(weights))
            for j in range(x.shape[1]):
                pyro.sample(f"answer_{j}", dist.Bernoulli(probs[kind, j]), obs=x[:, j])

    return exact(items, torch.as_tensor(problem.rows["x"]), _size(problem), start=problem.start)


def answers_zoo(problem: Problem) -> Run:
    """`em_pyro.models.latent_classes`: one Categorical site and one parameter an item."""
    import torch
    from em_pyro.models.latent_classes import latent_classes

    x, probs = problem.rows["x"], problem.start["probs"]
    torch.set_default_dtype(torch.as_tensor(x).dtype)  # the answers are integers and do not say
    items = {f"item_{j}": np.stack([1 - probs[:, j], probs[:, j]], -1) for j in range(x.shape[1])}
    start = {"weights": problem.start["weights"], **items}
    return exact(latent_classes, torch.as_tensor(x).long(), _size(problem), start=start)


def words(problem: Problem) -> Run:
    """A mixture whose rows are categories out of many, one site a column."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch import Tensor
    from torch.distributions import constraints

    def columns(x: Tensor, K: int, V: int) -> None:
        weights = pyro.param("weights", torch.full((K,), 1 / K, dtype=torch.float64), constraint=constraints.simplex)
        flat = torch.full((x.shape[1], K, V), 1 / V, dtype=torch.float64)
        probs = pyro.param("probs", flat, constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(weights))
            for j in range(x.shape[1]):
                pyro.sample(f"word_{j}", dist.Categorical(probs[j, kind]), obs=x[:, j])

    V = problem.start["probs"].shape[-1]
    return exact(columns, torch.as_tensor(problem.rows["x"]).long(), _size(problem), V, start=problem.start)


def topics(problem: Problem) -> Run:
    """Probabilistic latent semantic analysis: a topic a word, a row of shares a document."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch import Tensor
    from torch.distributions import constraints

    def analysis(document: Tensor, word: Tensor, sizes: tuple[int, int, int]) -> None:
        documents, K, V = sizes
        flat = torch.full((documents, K), 1 / K, dtype=torch.float64)
        share = pyro.param("share", flat, constraint=constraints.simplex)
        flat = torch.full((K, V), 1 / V, dtype=torch.float64)
        probs = pyro.param("probs", flat, constraint=constraints.simplex)
        with pyro.plate("rows", len(word)):
            topic = pyro.sample("topic", dist.Categorical(share[document]))
            pyro.sample("word", dist.Categorical(probs[topic]), obs=word)

    document, word = (torch.as_tensor(problem.rows[name]).long() for name in ("document", "word"))
    sizes = (*problem.start["share"].shape, problem.start["probs"].shape[-1])
    return exact(analysis, document, word, sizes, start=problem.start)


def factors(problem: Problem) -> Run:
    """`em_pyro.models.factor_analysis.factor_analysis`."""
    import torch
    from em_pyro.models import factor_analysis

    x, k = torch.as_tensor(problem.rows["x"]), problem.start["loadings"].shape[1]
    seen = (torch.as_tensor(problem.rows["seen"]) > 0,) if "seen" in problem.rows else ()
    return exact(factor_analysis.factor_analysis, x, k, *seen, start=problem.start, options={"acceleration": None})


def system(problem: Problem) -> Run:
    """A linear dynamical system without a loop: states without a density of their own, whose moves are scored."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    def model(y: torch.Tensor, k: int) -> None:
        transition = pyro.param("transition", torch.eye(k).to(y))
        emission = pyro.param("emission", y.new_ones(y.shape[1], k))
        loc = pyro.param("loc", y.mean(0))
        noise = pyro.param("noise", y.new_ones(y.shape[1]), constraint=constraints.positive)
        first = (torch.arange(len(y)) == 0).unsqueeze(-1)
        with pyro.plate("time", len(y)):
            state = pyro.sample("state", dist.Normal(y.new_zeros(k), 1.0).mask(first).to_event(1))
            pyro.sample("y", dist.Normal(state @ emission.T + loc, noise).to_event(1), obs=y)
        with pyro.plate("moves", len(y) - 1):
            pyro.sample("moved", dist.Normal(state[:-1] @ transition.T, 1.0).to_event(1), obs=state[1:])

    y, k = torch.as_tensor(problem.rows["y"]), len(problem.start["transition"])
    return exact(model, y, k, start=problem.start, options={"acceleration": None})


def system_in_torch(problem: Problem) -> Run:
    """The same without compiled loops."""
    from em_pyro import recursion

    run = system(problem)

    def planned(iterations: int) -> Result:
        with recursion("torch"):
            return run(iterations)

    return planned


def linear(problem: Problem) -> Run:
    """`em_pyro.models.regressions.linear`."""
    from em_pyro.models import regressions

    return _regressions(regressions.linear, problem)


def poisson(problem: Problem) -> Run:
    """`em_pyro.models.regressions.poisson`."""
    from em_pyro.models import regressions

    return _regressions(regressions.poisson, problem)


def logistic(problem: Problem) -> Run:
    """`em_pyro.models.regressions.logistic`."""
    from em_pyro.models import regressions

    return _regressions(regressions.logistic, problem)


def _regressions(model: Callable[..., Any], problem: Problem) -> Run:
    """Fit a mixture of regressions."""
    import torch

    x, y = (torch.as_tensor(problem.rows[name]) for name in ("x", "y"))
    return exact(model, x, y, _size(problem), start=problem.start)


def hmm_loop(problem: Problem) -> Run:
    """`em_pyro.models.hidden_markov.gaussian`: a `pyro.markov` loop."""
    import torch
    from em_pyro.models import hidden_markov

    y, S = torch.as_tensor(problem.rows["y"]), len(problem.start["initial"])

    def model(y: torch.Tensor) -> None:
        hidden_markov.gaussian(y, S=S)

    return exact(model, y, start=problem.start)


def hmm_site(problem: Problem) -> Run:
    """`em_pyro.models.discrete_hmm.gaussian`: one `dist.DiscreteHMM` site."""
    import torch
    from em_pyro.models import discrete_hmm

    y, S = torch.as_tensor(problem.rows["y"]), len(problem.start["initial"])

    def model(y: torch.Tensor) -> None:
        discrete_hmm.gaussian(y, S=S)

    return exact(model, y, start=problem.start)


def hmm_symbols(problem: Problem) -> Run:
    """`em_pyro.models.discrete_hmm.categorical`: one `dist.DiscreteHMM` site."""
    import torch
    from em_pyro.models import discrete_hmm

    y, (S, C) = torch.as_tensor(problem.rows["y"]).long(), problem.start["probs"].shape

    def model(y: torch.Tensor) -> None:
        discrete_hmm.categorical(y, S=S, C=C)

    torch.set_default_dtype(torch.as_tensor(problem.rows["y"]).dtype)  # whole numbers do not say
    return exact(model, y, start=problem.start)


def _size(problem: Problem) -> int:
    return len(problem.start["weights"])
