"""A row of weight `w` is `w` rows with Gaussian latents of their own: evidence, iterates, posteriors, information."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.integrated import Integrated
from oracles.refusals import refuse
from oracles.steps import em_step, expect, q
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.gaussian.alike import steps
from em_pyro.fit.problem import Problem, prepare

WEIGHTS = [2.0, 1.0, 3.0, 0.0, 1.0, 2.0, 1.0, 1.0, 4.0, 1.0]
ROWS = len(WEIGHTS)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(name: str, value: Tensor) -> Tensor:
    """Declare a scale."""
    return pyro.param(name, value, constraint=constraints.positive)


def factors(x: Tensor, w: Tensor, seen: Tensor | None = None) -> None:
    """Rows with a factor."""
    loading, loc = pyro.param("loading", tensor([1.0, 0.5, 0.8])), pyro.param("loc", torch.zeros(3))
    scale = positive("scale", tensor([1.0, 2.0, 1.0]))
    with pyro.plate("rows", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        law = dist.Normal(z[..., None] * loading + loc, scale)
        pyro.sample("x", (law if seen is None else law.mask(seen)).to_event(1), obs=x)


def analysers(x: Tensor, w: Tensor, *, alone: bool = False) -> None:
    """Rows of two kinds with a factor of their own; or all rows are of one kind, which is known of none."""
    share = pyro.param("share", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loading = pyro.param("loading", tensor([[1.0, 0.5, 0.8], [-0.5, 0.6, 0.2]]))
    loc = pyro.param("loc", tensor([[-0.5, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    scale = positive("scale", tensor([1.0, 2.0, 1.0]))
    kind = pyro.sample("kind", dist.Categorical(share)) if alone else torch.tensor(0)
    with pyro.plate("rows", len(x)), poutine.scale(scale=w):
        kind = kind if alone else pyro.sample("kind", dist.Categorical(share))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * loading[kind] + loc[kind], scale).to_event(1), obs=x)


def intercepts(x: Tensor, w: Tensor) -> None:
    """Groups of three, of which each has a weight, side by side in one plate of rows."""
    loc, between, within = pyro.param("loc", tensor(0.2)), positive("between", tensor(0.9)), positive("s", tensor(1.2))
    group = torch.arange(len(x)).repeat_interleave(3)
    with pyro.plate("groups", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.Normal(0.0, between))
    with pyro.plate("rows", 3 * len(x)), poutine.scale(scale=w[group]):
        pyro.sample("x", dist.Normal(loc + z[group], within), obs=x.reshape(-1))


def chains(x: Tensor, w: Tensor) -> None:
    """Sequences of a walk that is seen with noise."""
    keep, step, noise = pyro.param("keep", tensor(0.8)), positive("step", tensor(0.7)), positive("noise", tensor(0.9))
    z = tensor(0.0)
    with pyro.plate("rows", len(x)), poutine.scale(scale=w):
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Normal(keep * z, step))
            pyro.sample(f"x_{t}", dist.Normal(z, noise), obs=x[:, t])


def seen_in_part(x: Tensor, w: Tensor, seen: Tensor) -> None:
    """Rows of a multivariate normal, some coordinates of which are seen."""
    loc = pyro.param("loc", torch.zeros(3))
    tril = pyro.param("tril", torch.eye(3), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))
        pyro.sample("x", dist.Delta(z).mask(seen).to_event(1), obs=x)


DATA = 0.8 * numbers(ROWS, 3, seed=2) + numbers(ROWS, 1, seed=1)
SEEN = torch.rand((ROWS, 3), generator=torch.Generator().manual_seed(1)) < 0.7
PROGRAMS: Mapping[str, tuple[Callable[..., None], dict[str, Tensor]]] = {
    "factors": (factors, {"x": DATA}),
    "factors with holes": (factors, {"x": DATA, "seen": SEEN}),
    "analysers": (analysers, {"x": DATA}),
    "analysers, one kind": (partial(analysers, alone=True), {"x": DATA}),
    "intercepts": (intercepts, {"x": DATA}),
    "chains": (chains, {"x": DATA}),
    "seen in part": (seen_in_part, {"x": DATA, "seen": SEEN}),
}


def prepared(model: Callable[..., Any], args: Mapping[str, Tensor], w: Tensor) -> Problem:
    """Plan a program of weighted rows."""
    pyro.clear_param_store()
    return prepare(model, (), {**args, "w": w}, {}, check=True)


def start(problem: Problem) -> dict[str, Tensor]:
    """The values that the model states."""
    return {name: parameter.initial for name, parameter in problem.program.parameters.items()}


def walked(problem: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    """Log evidence, and where five steps lead."""
    params = start(problem)
    found = expect(problem.engine, params).log_evidence
    for _ in range(5):
        params = em_step(problem.engine, problem.plan, params)[0]
    return found, params


def twice(name: str) -> tuple[tuple[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """With weights, and with rows repeated."""
    model, args = PROGRAMS[name]
    w, rows = tensor(WEIGHTS), torch.arange(ROWS).repeat_interleave(tensor(WEIGHTS).long())
    repeated = {key: value[rows] for key, value in args.items()}
    return walked(prepared(model, args, w)), walked(prepared(model, repeated, torch.ones(len(rows))))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_weight_is_so_many_rows(name: str) -> None:
    """Log evidence, and five iterates of EM."""
    (evidence, params), (other, others) = twice(name)
    assert distance(evidence, other) < IDENTITY
    assert farthest(params, others) < IDENTITY


@pytest.mark.parametrize("name", ["factors", "intercepts", "chains"])
def test_answers_are_those_of_rows_repeated(name: str) -> None:
    """Likelihood, criteria, information, posteriors; a row that is there no time has the posterior of one."""
    model, args = PROGRAMS[name]
    w, rows = tensor(WEIGHTS), torch.arange(ROWS).repeat_interleave(tensor(WEIGHTS).long())
    em = EM(model, acceleration=None)
    pyro.clear_param_store()
    weighted = em.fit(**args, w=w)
    pyro.clear_param_store()
    repeated = em.fit(**{key: value[rows] for key, value in args.items()}, w=torch.ones(len(rows)))
    assert distance(tensor(weighted.log_likelihood), tensor(repeated.log_likelihood)) < IDENTITY
    assert weighted.criteria().n == repeated.criteria().n == sum(WEIGHTS)
    for kind in ("observed", "robust"):
        mine, other = weighted.information(kind), repeated.information(kind)
        names = list(weighted.params)
        assert distance(mine.covariance(names), other.covariance(names)) < 1e-8  # of differences of slopes
    site = "z_1" if name == "chains" else "z"
    plate = "groups" if name == "intercepts" else "rows"
    law, other = weighted.posterior.marginal(site), repeated.posterior.marginal(site)
    assert distance(law.mean[rows], other.mean) < IDENTITY
    assert distance(law.stddev[rows], other.stddev) < IDENTITY
    once = weighted.posterior_on(**args, w=torch.ones(ROWS))
    assert distance(weighted.posterior.log_evidence_by(plate), w * once.log_evidence_by(plate)) < IDENTITY
    assert distance(law.mean, once.marginal(site).mean) < IDENTITY


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "seen in part"])
def test_fractions_are_by_brute_force(name: str) -> None:
    """`sum_i w_i log p(x_i)` and its gradient, every row integrated by itself; a state of all rows joins them."""
    model, args = PROGRAMS[name]
    w = torch.linspace(0.3, 2.1, 4)
    args = {key: value[:4] for key, value in args.items()}
    problem = prepared(model, args, w)
    one = torch.ones(1)
    rows = [Integrated(model, {**{k: v[i : i + 1] for k, v in args.items()}, "w": one}, ("z",)) for i in range(4)]
    point = rows[0].point(rows[0].start)

    def height(at: Tensor) -> Tensor:
        params = rows[0].params(at)
        if "one kind" not in name:
            return sum((weight * row.objective(params) for weight, row in zip(w, rows, strict=True)), tensor(0.0))
        states = torch.stack([row.evidence(params)[0] for row in rows]) - params["share"].log()
        return (params["share"].log() + w @ states).logsumexp(-1)

    found = expect(problem.engine, rows[0].params(point))
    assert distance(found.objective.squeeze(), height(point).detach()) < IDENTITY
    at = point.clone().requires_grad_()
    mine = torch.autograd.grad(q(problem.engine, rows[0].params(at), found), at)[0]
    assert distance(mine, torch.autograd.grad(height(at), at)[0]) < IDENTITY


def in_groups(x: Tensor, w: Tensor) -> None:
    """Weigh the rows of groups, and not the groups."""
    within = positive("within", tensor(1.0))
    with pyro.plate("groups", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("items", x.shape[1], dim=-1), poutine.scale(scale=w):
            pyro.sample("x", dist.Normal(z, within), obs=x)


def observed_alone(x: Tensor, w: Tensor) -> None:
    """Weigh what is observed, and not what it is of."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, positive("within", tensor(1.0))))
        with poutine.scale(scale=w):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def exact_apart(x: Tensor, w: Tensor) -> None:
    """Weigh latents, and not the site that observes some of them."""
    tril = pyro.param("tril", torch.eye(3), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)), poutine.scale(scale=w):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(3), scale_tril=tril))
    with pyro.plate("some", 2):
        pyro.sample("x", dist.Delta(z[:2]).to_event(1), obs=x[:2])


@pytest.mark.parametrize(
    ("model", "w", "said"),
    [
        (
            in_groups,
            torch.linspace(0.5, 2.0, ROWS)[:, None],
            r'^Site "x": expected one row weight .* than site "z" has',
        ),
        (in_groups, tensor([0.5, 1.0, 2.0]), r'^Site "x": expected one row weight .*, got several'),
        (observed_alone, torch.linspace(0.5, 2.0, ROWS), r'^Site "x": expected the same poutine.scale as site "z"'),
        (exact_apart, torch.linspace(0.5, 2.0, ROWS), r'^Site "x": expected one row weight .* got another than they'),
    ],
)
def test_a_weight_around_a_part_is_refused(model: Callable[..., None], w: Tensor, said: str) -> None:
    """The site is named."""
    refuse("model", said, model, DATA, w)


def test_weights_that_are_lost_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were rows counted once, nothing would be as it is with rows repeated."""
    monkeypatch.setattr(steps, "repeats_of", lambda site, layout: None)
    (evidence, params), (other, others) = twice("factors")
    assert distance(evidence, other) > IDENTITY
    assert farthest(params, others) > IDENTITY
