"""Columns that factors explain to the end: the top of the face of a scale of zero, where EM moves loadings no more."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints, transform_to

from em_pyro import EM, Fit
from em_pyro.fit import loop
from em_pyro.fit.problem import prepare
from em_pyro.fit.verdict.ground import Ground, around_of
from em_pyro.fit.verdict.spreads import at_zero
from em_pyro.fit.ways import face
from em_pyro.program.named import batched, only

OF = torch.tensor([0, 0, 0, 1, 1])
GROUPS = torch.nn.functional.one_hot(OF, 2).double()
Params = dict[str, Tensor]


def rows(seed: int, n: int, k: int, factors: int) -> Tensor:
    """Few rows with strong factors."""
    generator = torch.Generator().manual_seed(seed)
    z, W, e = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((n, factors), (factors, k), (n, k)))
    return z @ W + 0.5 * e


def scales(k: int) -> Tensor:
    """A free scale a column."""
    return pyro.param("s", torch.ones(k).double(), constraint=constraints.positive)


def bifactor(x: Tensor) -> None:
    """One factor of all columns, and two of some."""
    lam = pyro.param("lam", torch.tensor([0.8, 0.3, 0.4, 0.2, 0.5]).double())
    own = pyro.param("own", torch.tensor([0.6, 0.5, 0.2, 0.4, 0.3]).double())
    with pyro.plate("rows", len(x)):
        f = pyro.sample("f", dist.Normal(torch.zeros(()).double(), 1.0))
        d = pyro.sample("d", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(lam * f[:, None] + own * d[:, OF], scales(5)).to_event(1), obs=x)


def of_bifactor(x: Tensor, p: Params) -> Tensor:
    """Its likelihood by dense matrices."""
    own = p["own"].unsqueeze(-1) * GROUPS
    covariance = torch.outer(p["lam"], p["lam"]) + own @ own.T + p["s"].square().diag()
    return MultivariateNormal(torch.zeros(5).double(), covariance).log_prob(x).sum()


def analysers(x: Tensor) -> None:
    """Two kinds of rows, with a factor each."""
    W = pyro.param("W", torch.tensor([[0.8, 0.1, 0.3], [0.5, -0.4, 0.6]]).double())
    mu = pyro.param("mu", torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]]).double())
    with pyro.plate("rows", len(x)):
        c = pyro.sample(
            "c", dist.Categorical(pyro.param("pi", torch.tensor([0.4, 0.6]), constraint=constraints.simplex))
        )
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(mu[c] + W[c] * z[..., None], scales(3)).to_event(1), obs=x)


def of_analysers(x: Tensor, p: Params) -> Tensor:
    """Its likelihood by dense matrices."""
    covariance = p["W"].unsqueeze(-1) * p["W"].unsqueeze(-2) + p["s"].square().diag()
    each = MultivariateNormal(p["mu"], covariance).log_prob(x.unsqueeze(1)) + p["pi"].log()
    return each.logsumexp(-1).sum()


NINE = (
    torch.tensor(
        [
            [189, 150, 46, -182, 220],
            [-230, -90, 12, 127, -234],
            [-88, 30, 67, 113, -306],
            [24, -34, -200, 220, 60],
            [72, 223, 165, -165, -217],
            [312, 194, -39, -184, 303],
            [-6, 23, -34, 21, 36],
            [24, 12, -34, -90, 97],
            [-125, -111, 102, 114, -231],
        ]
    ).double()
    / 100
)

CASES: dict[str, tuple[Callable[[Tensor], None], Tensor, Callable[[Tensor, Params], Tensor]]] = {
    "bifactor": (bifactor, NINE, of_bifactor),
    "mixture of factor analysers": (analysers, rows(1, 7, 3, 1), of_analysers),
}


def fitted(name: str) -> Fit:
    """Fit by default."""
    model, x, _ = CASES[name]
    pyro.clear_param_store()
    return EM(model).fit(x)


def climbed(name: str, fit: Fit) -> float:
    """The maximum beside a fit, by Newton-like steps on the dense likelihood, scales that are zero held."""
    _, x, dense = CASES[name]
    onto = {n: transform_to(constraints.simplex if n == "pi" else constraints.real) for n in fit.params if n != "s"}
    points = {n: t.inv(fit.params[n].double()).clone().requires_grad_() for n, t in onto.items()}
    s = fit.params["s"].double()
    logs = s.clamp(min=1e-6).log().requires_grad_()
    optimiser = torch.optim.LBFGS([*points.values(), logs], max_iter=2000, tolerance_grad=1e-9, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = -dense(x, {**{n: t(points[n]) for n, t in onto.items()}, "s": logs.exp()})
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return -float(loss().detach())


@pytest.mark.parametrize("name", CASES)
def test_the_top_of_the_face(name: str) -> None:
    """The fit ends at a maximum, says which scales are zero, and that it has left a saddle nowhere."""
    fit = fitted(name)
    assert fit.outcome == "converged"
    assert any('at the boundary: "s"[' in note for note in fit.notes)
    assert not any("saddle" in note for note in fit.notes)
    assert climbed(name, fit) - fit.log_likelihood < 1e-6


@pytest.mark.parametrize("name", [name for name in CASES if name != "bifactor"])
def test_em_alone_stops_short(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the steps along the face it is lower, as it was."""
    monkeypatch.setattr(loop, "top_of_face", lambda *_: None)
    fit = fitted(name)
    assert climbed(name, fit) - fit.log_likelihood > 1e-6 or any("saddle" in note for note in fit.notes)


TIMES, GROUP = torch.tensor([-1.0, 0.0, 1.0, 2.0]).repeat(6).double(), torch.arange(6).repeat_interleave(4)


def slopes(y: Tensor) -> None:
    """Random intercepts and slopes that go together entirely: the root of their covariance is singular."""
    root = pyro.param("root", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    beta = pyro.param("beta", torch.zeros(2).double())
    with pyro.plate("groups", 6):
        b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=root))
    with pyro.plate("rows", 24):
        mean = beta[0] + b[GROUP, 0] + (beta[1] + b[GROUP, 1]) * TIMES
        pyro.sample("y", dist.Normal(mean, scales(1)), obs=y)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_root_stays_where_it_has_digits(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """A scale of zero is taken on towards zero from the top of a face; the root of a covariance is not."""
    generator = torch.Generator().manual_seed(4)
    effect, noise = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (6, 24))
    y = 1 + effect[GROUP] * (1 + 0.5 * TIMES) + 0.3 * TIMES + 0.3 * noise
    pyro.clear_param_store()
    fit = EM(slopes).fit(y)
    problem = prepare(slopes, (y,), {}, {}, check=True)
    here = batched({name: value.double() for name, value in fit.params.items()})
    bound = problem.bind(here)
    found = problem.expect(bound).with_prior(problem.log_prior(bound))
    last = ("root", (1, 1))
    assert at_zero(Ground(problem, around_of(problem, only(here))), float(found.objective), closely=True) == [last]
    if wrong:
        made = face.growing
        monkeypatch.setattr(face, "growing", lambda around, _: made(around, [last]))
    top = face.top_of_face(problem, here, found, worth=-1.0)  # whatever it gains
    assert top is not None
    moved = float(top["root"][0, 1, 1] / here["root"][0, 1, 1])
    assert (abs(moved - 1) > 0.5) == wrong


def test_what_nothing_depends_on_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that enters no site has no curvature, and the step along it is none: it had left its constraint."""
    steps = list[Tensor]()
    made = face._newton

    def newton(ground: Ground, free: Tensor) -> Tensor | None:
        step = made(ground, free)
        own = [k for k, (name, _) in enumerate(ground.around.entries) if name == "unused"]
        steps.extend([] if step is None else [step[own]])
        return step

    def model(x: Tensor) -> None:
        bifactor(x)
        pyro.param("unused", torch.tensor([0.5, 0.5]).double(), constraint=constraints.simplex)

    monkeypatch.setattr(face, "_newton", newton)
    pyro.clear_param_store()
    fit = EM(model).fit(NINE)
    assert fit.outcome == "converged"
    assert len(steps) > 0
    assert all(len(step) == 1 and not bool(step.any()) for step in steps)
